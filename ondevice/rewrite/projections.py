"""Projections of one input are one matrix product:
the input is read once, and the product is wide enough to fill a device.

x - MatMul wq, x - MatMul wk, x - MatMul wv - Attention     ->  MatMul [wq wk wv] - Split - Attention
  the same where RmsNorm, or Concat with another text's tokens, stands between
t - Linear w1, t - Linear w2, ... of one row                ->  Linear [w1 w2 ...] - Split      (the time embedding's)

The Split costs nothing: attention and convolutions read a part of a row where it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import prod

import onnx_ir as ir

from ondevice.graph.ops import DOMAIN
from ondevice.rewrite.edit import Edit
from ondevice.rewrite.linear import is_weight
from ondevice.rewrite.rule import Rule, dims

FEW_ROWS = 8  # rows up to which a product is bound by its weights, whoever reads it


class Projections(Rule):
    """Merges what feeds one attention, and products of a few rows."""

    family = "projections"

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Every group of at least two becomes one product."""
        edit, applied, reasons = Edit(model), 0, Counter[str]()
        for x, found in _by_input(model.graph).items():
            for attends, group in _groups(x, found):
                if len(group) > 1:
                    _merge(edit, group)
                    applied += 1
                elif attends:
                    reasons["no other projection of its input feeds the same attention"] += 1
        edit.finish()
        return applied, reasons


def _by_input(graph: ir.Graph) -> dict[ir.Value, list[ir.Node]]:
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        mergeable = node.op_type in ("MatMul", "LinearBias") and is_weight(node.inputs[1])
        if mergeable and node.inputs[0] is not None and not any(out.is_graph_output() for out in node.outputs):
            found.setdefault(node.inputs[0], []).append(node)
    return {x: nodes for x, nodes in found.items() if len(nodes) > 1}


def _groups(x: ir.Value, nodes: Iterable[ir.Node]) -> list[tuple[bool, list[ir.Node]]]:
    """Nodes that may be one, and whether an attention reads them: the same op, and the same attention reads them or
    they have few rows."""
    shape, groups = dims(x), dict[tuple[str, bool, object], list[ir.Node]]()
    few = shape is not None and prod(shape[:-1]) <= FEW_ROWS
    for node in nodes:
        reader = _attention(node.outputs[0])
        groups.setdefault((node.op_type, reader is not None, reader or ("few" if few else node)), []).append(node)
    return [(attends, group) for (_, attends, _), group in groups.items()]


def _attention(value: ir.Value) -> ir.Node | None:
    """The attention that alone reads it, as it is, or normalized, or joined with other tokens."""
    while len(uses := list(value.uses())) == 1 and not value.is_graph_output():
        reader = uses[0].node
        if reader.op_type in ("Attention", "MaskedAttention"):
            return reader
        joins = reader.op_type == "Concat" and reader.attributes["axis"].as_int() == 1 and len(dims(value) or ()) == 3
        if reader.op_type != "RmsNorm" and not joins:
            return None
        value = reader.outputs[0]
    return None


def _merge(edit: Edit, group: list[ir.Node]) -> None:
    first = group[0]
    shapes = [dims(node.outputs[0]) or () for node in group]
    widths, name = [shape[-1] for shape in shapes], f"{first.outputs[0].name}:all"
    inputs = [first.inputs[0]]
    for index in range(1, len(first.inputs)):
        weights = [node.inputs[index] for node in group]
        shape = (*(dims(weights[0]) or ())[:-1], sum(widths))
        inputs += edit.emit(first, "Concat", weights, shape, name=f"{name}.{index}", axis=-1)
    (product,) = edit.emit(
        first, first.op_type, inputs, (*shapes[0][:-1], sum(widths)), name=name, ours=first.domain == DOMAIN
    )
    parts = edit.emit(first, "Split", [product, edit.ints(*widths)], *shapes, name=f"{name}.part", axis=-1)
    for node, part in zip(group, parts, strict=True):
        edit.replace(node.outputs[0], part)
