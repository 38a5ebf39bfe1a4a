"""One file per network: the keys of its config, its graphs in plain ONNX primitives,
and its names in the original layout."""
