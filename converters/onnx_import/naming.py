"""Names in an exported graph, made fit to be told in a message and kept in a bundle."""

from __future__ import annotations

import hashlib

import onnx_ir as ir

LONGEST = 160  # characters; rules join names, and a bundle keeps 512 of what comes of it


def fit_names(model: ir.Model) -> None:
    """Cut names that are long, and replace characters that cannot be printed.
    Different names stay different; fit ones stay as they are."""
    for node in model.graph:
        node.name = fit(node.name)
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                value.name = fit(value.name)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.name = fit(value.name)


def fit(name: str | bytes | None) -> str | None:
    """One name; protobuf gives bytes where a file's text is not UTF-8."""
    if isinstance(name, bytes):
        name = name.decode(errors="backslashreplace") + "\0"  # unfit, so that no other name is the same
    if not name or (len(name) <= LONGEST and name.isprintable()):
        return name
    start = "".join(c if c.isprintable() else "?" for c in name[: LONGEST // 2])
    return f"{start}~{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"
