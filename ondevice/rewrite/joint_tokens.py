"""Tokens of several streams that one attention sees stand in one buffer as soon as they are made.

x - Linear - Split -> qx, kx, vx                     [ x - Linear, e - Linear ] - Concat - Split -> q, k, v
e - Linear - Split -> qe, ke, ve                ->
Concat(qx, qe), Concat(kx, ke), Concat(vx, ve)

The Split costs nothing, and neither does the Concat: each product writes its rows where they stand in it
(ondevice/lower/places.py). Where queries and keys are normalized before, the values alone are so.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from ondevice.rewrite.edit import Edit
from ondevice.rewrite.rule import Rule, dims


class JointTokens(Rule):
    """Concat of the same columns of several products, one below the other."""

    family = "projections"

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Each set of products whose parts are joined is joined itself, once."""
        edit, applied = Edit(model), 0
        whole: dict[tuple[ir.Value, ...], list[ir.Value]] = {}
        for node in list(model.graph):
            if (found := _same_columns(node)) is None:
                continue
            splits, number = found
            sources = tuple(split.inputs[0] for split in splits if split.inputs[0] is not None)
            if sources not in whole:
                whole[sources] = _joined(edit, node, splits, sources)
            edit.replace(node.outputs[0], whole[sources][number])
            applied += 1
        edit.finish()
        return applied, Counter()


def _same_columns(node: ir.Node) -> tuple[list[ir.Node], int] | None:
    """The Splits, and which of their results a Concat joins; None where it joins other values."""
    shape = dims(node.outputs[0])
    if node.op_type != "Concat" or node.domain or shape is None or len(shape) != 3 or _axis(node) not in (1, -2):
        return None
    splits = [value.producer() if value is not None else None for value in node.inputs]
    found = [split for split in splits if split is not None and split.op_type == "Split" and _axis(split) in (2, -1)]
    if len(found) < len(splits) or len(set(found)) < len(found):
        return None
    places = {split.outputs.index(value) for split, value in zip(found, node.inputs, strict=True) if value is not None}
    widths = {tuple((dims(part) or ())[-1:] for part in split.outputs) for split in found}
    return (found, places.pop()) if len(places) == 1 and len(widths) == 1 else None


def _joined(edit: Edit, at: ir.Node, splits: list[ir.Node], sources: tuple[ir.Value, ...]) -> list[ir.Value]:
    """The products below each other, in parts as each of them is."""
    shapes, name = [dims(value) or () for value in sources], f"{sources[0].name}:joint"
    batch, _, width = shapes[0]
    tokens = sum(shape[1] for shape in shapes)
    (joint,) = edit.emit(at, "Concat", sources, (batch, tokens, width), name=name, axis=1)
    widths = [(dims(part) or ())[-1] for part in splits[0].outputs]
    parts = [(batch, tokens, part) for part in widths]
    return edit.emit(at, "Split", [joint, edit.ints(*widths)], *parts, name=f"{name}.part", axis=-1)


def _axis(node: ir.Node) -> int:
    return node.attributes["axis"].as_int() if "axis" in node.attributes else 0
