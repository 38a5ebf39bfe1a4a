"""A small tokenizer of T5's kind as files: a bundle's, sentencepiece's and transformers'."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence

REPLACEMENTS: dict[str | bytes, str] = {
    "\t": " ",
    "\n": " ",
    "\u00a0": " ",
    "\u2581": " ",
    "ﬁ": "fi",
    "½": "1⁄2",
    "Ａ": "A",
    "e\u0301": "é",
    "e\u0301\u0301": "ê",
    "\u200d": "",
}
"""What T5's table has for these, and one that is longer than another."""

WORDS = {"▁": -2.0, "▁cat": -5.5, "▁ca": -6.0, "t": -4.0, "ca": -6.5, "▁a": -3.0, "a": -4.5, "b": -7.0, "ab": -8.0}
WORDS |= {",": -3.5, "f": -6.25, "i": -5.0, "fi": -12.0, "é": -9.0, "▁caté": -20.0, "1": -7.5, "猫": -9.5, "s": -3.75}
WORDS |= {"▁x": -19.875}  # likelier than an unknown letter; all are float32
PIECES: list[tuple[str, float | None]] = [("<pad>", None), ("</s>", None), ("<unk>", None), *WORDS.items()]
ADDED = {
    0: {"content": "<pad>", "lstrip": False, "rstrip": False},
    1: {"content": "</s>", "lstrip": False, "rstrip": False},
    2: {"content": "<unk>", "lstrip": False, "rstrip": False},
    len(PIECES): {"content": "<extra_id_0>", "lstrip": True, "rstrip": True},
}


def charsmap(replacements: Mapping[str | bytes, str] = REPLACEMENTS) -> bytes:
    """The table: a double array of the keys' bytes, then the replacements."""
    values: dict[bytes, int] = {}
    texts = b""
    keys = {key if isinstance(key, bytes) else key.encode(): text for key, text in replacements.items()}
    for key, text in sorted(keys.items()):
        values[key] = len(texts)
        texts += text.encode() + b"\0"
    units = [0x80000000] * 65536  # what no byte leads to
    taken, bases = {0}, {0}  # a unit's label says which byte leads to it; that it is from here, a base of one's own

    def place(node: int, prefix: bytes, label: int) -> None:
        """The unit of a node, and all units below it."""
        after = sorted({key[len(prefix)] for key in values if key.startswith(prefix) and len(key) > len(prefix)})
        wanted = [0] * (prefix in values) + after
        free = (n for n in range(len(units)) if n not in bases and not taken & {n ^ one for one in wanted})
        base = next(free)
        bases.add(base)
        taken.update(base ^ one for one in wanted)
        units[node] = (node ^ base) << 10 | (prefix in values) << 8 | label
        if prefix in values:
            units[base] = 0x80000000 | values[prefix]
        for byte in after:
            place(base ^ byte, prefix + bytes([byte]), byte)

    place(0, b"", 0)
    used = max(taken) + 1
    return struct.pack(f"<I{used}I", 4 * used, *units[:used]) + texts


def bundle_files(**changes: object) -> dict[str, bytes]:
    """As a bundle holds it."""
    whole = {"unknown": 2, "end": 1, "padding": 0, "added": {str(i): token for i, token in ADDED.items()}}
    whole |= {"pieces": [list(piece) for piece in PIECES]} | changes
    return {"unigram.json": json.dumps(whole).encode(), "charsmap.bin": charsmap()}


def config() -> bytes:
    """tokenizer_config.json."""
    flags = {"single_word": False, "normalized": False, "special": True}
    decoder = {str(index): token | flags for index, token in ADDED.items()}
    return json.dumps({"tokenizer_class": "T5Tokenizer", "added_tokens_decoder": decoder}).encode()


def field(number: int, value: int | bytes | float) -> bytes:
    """A field of a message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def spiece_model(
    pieces: Sequence[tuple[str, float, int]] | None = None, trainer: bytes = b"", normalizer: bytes = b""
) -> bytes:
    """sentencepiece's file; of a piece its text, its score and its type."""
    kinds = {"<unk>": 2, "<pad>": 3, "</s>": 3}
    rows = pieces or [(text, score or 0.0, kinds.get(text, 1)) for text, score in PIECES]
    data = b"".join(field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in rows)
    return data + field(2, field(3, 1) + trainer) + field(3, field(1, b"nmt_nfkc") + field(2, charsmap()) + normalizer)


def tokenizer_json(**changes: object) -> bytes:
    """transformers' file."""
    rows = [[text, score or 0.0] for text, score in PIECES] + [["<extra_id_0>", 0.0]]
    flags = {"single_word": False, "normalized": False, "special": True}
    table = base64.b64encode(charsmap()).decode()
    whole = {
        "version": "1.0",
        "added_tokens": [{"id": index, **token, **flags} for index, token in ADDED.items()],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": table},
                {"type": "Strip", "strip_left": False, "strip_right": True},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
            ],
        },
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "model": {"type": "Unigram", "unk_id": 2, "vocab": rows, "byte_fallback": False},
    }
    return json.dumps(whole | changes).encode()
