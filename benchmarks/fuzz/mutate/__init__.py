"""Changes of inputs, by format: bytes, values of JSON and TOML, lines of text, containers of chunks, protobuf,
zip archives of pickles.

Each is `mutate(data, rng, other, words)`: bytes like `data` but for something, perhaps with a part of `other` or of
`words`. What cannot be parsed any more is changed as bytes.
"""
