"""What a timestep and a text do to the tokens of a diffusion transformer: in one pass, not one for each of its steps.

LayerNormalization without weights - Mul (1 + scale) - Add shift    ->  AdaLayerNorm
x + gate * z, whatever z is (a product takes its gate itself)        ->  GatedAdd

Scale, shift and gate are one row per item, [n, 1, c], which may be parts of wider rows.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir

from ondevice.rewrite.edit import Edit
from ondevice.rewrite.rule import Fusion, Rule, dims, filled_with, fused, number


class AdaLayerNorm(Fusion):
    """Over the last axis of [n, tokens, c]."""

    family = "modulation"

    def pattern(
        self, op: Any, x: ir.Value, ones: ir.Value, zeros: ir.Value, scale: ir.Value, one: ir.Value, shift: ir.Value
    ) -> Any:
        normal = op.LayerNormalization(x, ones, zeros, _allow_other_attributes=True, _outputs=["normal"])
        return op.Add(op.Mul(normal, op.Add(scale, one)), shift)

    def why_not(
        self, x: ir.Value, ones: ir.Value, zeros: ir.Value, scale: ir.Value, one: ir.Value, shift: ir.Value,
        normal: ir.Value, **_: Any,
    ) -> str | None:  # fmt: skip
        shape, node = dims(x), normal.producer()
        if shape is None or len(shape) != 3 or node is None or _axis(node) not in (-1, 2):
            return f"it normalizes {shape} (expected the last axis of [n, tokens, c])"
        if not filled_with(ones, 1) or not filled_with(zeros, 0) or number(one) != 1:
            return "its inner norm has weights of its own, or it scales by another sum than 1 + scale"
        row = (shape[0], 1, shape[2])
        if dims(scale) != row or dims(shift) != row:
            return f"its scale is {dims(scale)} and its shift {dims(shift)} (expected {row})"
        return None

    def rewrite(self, op: Any, x: ir.Value, scale: ir.Value, shift: ir.Value, normal: ir.Value, **_: Any) -> ir.Value:
        node = normal.producer()
        assert node is not None, "why_not has seen it"
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        return fused(op, "AdaLayerNorm", x, shift, scale, epsilon=epsilon)


def _axis(node: ir.Node) -> int:
    return node.attributes["axis"].as_int() if "axis" in node.attributes else -1


class GatedAdd(Rule):
    """A walk and no pattern: sums with products are everywhere, and of other shapes they are no near miss."""

    family = "modulation"

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Every sum of tokens with gated ones."""
        edit, applied = Edit(model), 0
        for node in list(model.graph):
            if node.op_type == "Add" and not node.domain and (found := _gated(node)) is not None:
                out = node.outputs[0]
                shape = dims(out)
                assert shape is not None, "_gated has seen it"
                (new,) = edit.emit(node, "GatedAdd", found, shape, name=f"{out.name}:gated", ours=True)
                edit.replace(out, new)
                applied += 1
        edit.finish()
        return applied, Counter()


def _gated(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """(x, gate, z) of a node that is x + gate * z."""
    for x, product in (node.inputs, node.inputs[::-1]):
        made = product.producer() if product is not None else None
        if x is None or product is None or made is None or made.op_type != "Mul" or made.domain:
            continue
        if len(list(product.uses())) > 1 or product.is_graph_output():  # another reads it, too
            continue
        shape = dims(x)
        if shape is None or len(shape) != 3 or dims(product) != shape:
            continue
        for gate, z in (made.inputs, made.inputs[::-1]):
            row = (shape[0], 1, shape[2])
            if gate is not None and z is not None and shape != row and (dims(gate), dims(z)) == (row, shape):
                return x, gate, z
    return None
