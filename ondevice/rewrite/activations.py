"""Activations as one op (paper 3.1): one pass over memory instead of two to six.

x - Sigmoid - Mul x                               ->  Silu
x - Mul 1.702 - Sigmoid - Mul x                   ->  QuickGelu
x - Div sqrt 2 - Erf - Add 1 - Mul 0.5 - Mul x    ->  Gelu
x - x + 0.044715 x^3 - Mul - Tanh - Add 1 - Mul   ->  GeluTanh
x - Split - (value, gate) - value * Gelu(gate)    ->  Geglu
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter.pattern import OrValue

from ondevice.rewrite.functions import DOMAIN
from ondevice.rewrite.rule import Fusion, dims, fused, near, number


class QuickGelu(Fusion):
    """CLIP's activation. Before Silu, which would take its inner Sigmoid for its own only if the factor were 1."""

    family = "gelu"

    def pattern(self, op: Any, x: ir.Value, factor: ir.Value) -> Any:
        return op.Mul(x, op.Sigmoid(op.Mul(x, factor)))

    def why_not(self, factor: ir.Value, **_: Any) -> str | None:
        return None if near(factor, 1.702) else f"its factor is {number(factor)} (expected 1.702)"

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return fused(op, "QuickGelu", x)


class Silu(Fusion):
    """x * sigmoid(x)."""

    family = "silu"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Mul(x, op.Sigmoid(x))

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return fused(op, "Silu", x)


class Gelu(Fusion):
    """x * ((erf(x / sqrt 2) + 1) * 0.5), as torch.onnx writes it at opset 18."""

    family = "gelu"

    def pattern(self, op: Any, x: ir.Value, root: ir.Value, one: ir.Value, half: ir.Value) -> Any:
        return op.Mul(x, op.Mul(op.Add(op.Erf(op.Div(x, root)), one), half))

    def why_not(self, root: ir.Value, one: ir.Value, half: ir.Value, **_: Any) -> str | None:
        if near(root, math.sqrt(2)) and number(one) == 1 and number(half) == 0.5:
            return None
        return (
            f"its constants are {number(root)}, {number(one)}, {number(half)} (expected the square root of 2, 1, 0.5)"
        )

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return fused(op, "Gelu", x)


class LegacyGelu(Gelu):
    """(x * (erf(x / sqrt 2) + 1)) * 0.5, as the TorchScript exporter writes it."""

    def pattern(self, op: Any, x: ir.Value, root: ir.Value, one: ir.Value, half: ir.Value) -> Any:
        return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, root)), one)), half)


class GeluTanh(Fusion):
    """(0.5 x) * (tanh(sqrt(2 / pi) (x + 0.044715 x^3)) + 1):
    the approximation, which is an op of its own because its values differ.

    Eight products and sums in any order are 256 patterns, which took a second per graph. So constants stand on the
    right, where imports put them, and what the exporters differ in is spelled out: where the half is, and the cube.
    """

    family = "gelu"
    commute = False

    def pattern(self, op: Any, x: ir.Value, k: ir.Value, root: ir.Value, one: ir.Value, half: ir.Value) -> Any:
        return op.Mul(op.Mul(x, half), self.bell(op, x, k, root, one))

    def bell(self, op: Any, x: Any, k: Any, root: Any, one: Any) -> Any:
        """Twice the share of x that is let through."""
        cube = OrValue([op.Mul(op.Mul(x, x), x), op.Mul(x, op.Mul(x, x))])
        return op.Add(op.Tanh(op.Mul(op.Add(x, op.Mul(cube, k)), root)), one)

    def why_not(self, k: ir.Value, root: ir.Value, one: ir.Value, half: ir.Value, **_: Any) -> str | None:
        if near(k, 0.044715) and near(root, math.sqrt(2 / math.pi)) and number(one) == 1 and number(half) == 0.5:
            return None
        found = [number(value) for value in (k, root, one, half)]
        shown = ", ".join("None" if value is None else f"{value:.6g}" for value in found)
        return f"its constants are {shown} (expected 0.044715, the square root of 2 over pi, 1, 0.5)"

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return fused(op, "GeluTanh", x)


class GeluTanhHalfLast(GeluTanh):
    """The same with the half after the product, as the TorchScript exporter writes it."""

    def pattern(self, op: Any, x: ir.Value, k: ir.Value, root: ir.Value, one: ir.Value, half: ir.Value) -> Any:
        return op.Mul(op.Mul(x, self.bell(op, x, k, root, one)), half)


class GeluTanhHalfInside(GeluTanh):
    """The same with the half before the product, as torch.onnx writes it at opset 18."""

    def pattern(self, op: Any, x: ir.Value, k: ir.Value, root: ir.Value, one: ir.Value, half: ir.Value) -> Any:
        return op.Mul(x, op.Mul(self.bell(op, x, k, root, one), half))


class Geglu(Fusion):
    """Both halves of one linear layer. After Gelu, whose op it absorbs."""

    family = "geglu"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        value, gate = op.Split(x, num_outputs=2, _allow_other_attributes=True, _outputs=["value", "gate"])
        return op.Mul(value, op.Gelu(gate, _domain=DOMAIN))

    def why_not(self, x: ir.Value, value: ir.Value, **_: Any) -> str | None:
        shape, split = dims(x), value.producer()
        if shape is None or split is None:
            return "its shape is not known"
        axis = split.attributes["axis"].as_int() if "axis" in split.attributes else 0
        if axis not in (-1, len(shape) - 1):
            return f"it splits axis {axis} of {len(shape)} (expected the last)"
        return None if shape[-1] % 2 == 0 else f"its width {shape[-1]} is odd"

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return fused(op, "Geglu", x)
