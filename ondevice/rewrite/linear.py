"""A linear layer is one op: its bias needs no pass of its own.

x - MatMul w - Add bias    ->  LinearBias
Gemm(x, w^T, bias)         ->  LinearBias
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ondevice.rewrite.rule import Fusion, dims, fused, settings


def is_weight(value: ir.Value | None) -> bool:
    """Whether it is a matrix that does not depend on the inputs."""
    return value is not None and value.const_value is not None and len(dims(value) or ()) == 2


class Bias(Fusion):
    """The bias of a linear layer over [..., in], as exporters write it."""

    family = "bias"

    def pattern(self, op: Any, x: ir.Value, weight: ir.Value, bias: ir.Value) -> Any:
        return op.Add(op.MatMul(x, weight), bias)

    def why_not(self, weight: ir.Value, bias: ir.Value, **_: Any) -> str | None:
        if not is_weight(weight):
            return "its right side is not a weight"
        if bias.const_value is None or dims(bias) != (dims(weight) or ())[1:]:
            return f"what is added is no bias (it is {dims(bias)}, expected one number per column)"
        return None

    def rewrite(self, op: Any, x: ir.Value, weight: ir.Value, bias: ir.Value, **_: Any) -> ir.Value:
        return fused(op, "LinearBias", x, weight, bias)


class Gemm(Fusion):
    """The same over [rows, in], which exporters write in one op with the weight turned."""

    family = "bias"

    def pattern(self, op: Any, x: ir.Value, weight: ir.Value, bias: ir.Value) -> Any:
        return op.Gemm(x, weight, bias, _allow_other_attributes=True, _outputs=["product"])

    def why_not(self, weight: ir.Value, bias: ir.Value, product: ir.Value, **_: Any) -> str | None:
        node = product.producer()
        assert node is not None, "the pattern bound a node's output"
        given = settings(node)
        if (given.get("alpha", 1.0), given.get("beta", 1.0), given.get("transA", 0)) != (1.0, 1.0, 0):
            return "it scales its operands, or turns the left one"
        if not is_weight(weight) or bias.const_value is None or dims(bias) != (dims(product) or ())[1:]:
            return "its weight or its bias is not a constant"
        return None

    def rewrite(self, op: Any, x: ir.Value, weight: ir.Value, bias: ir.Value, product: ir.Value, **_: Any) -> ir.Value:
        node = product.producer()
        assert node is not None, "why_not has seen it"
        if "transB" in node.attributes and node.attributes["transB"].as_int():
            rows, columns = dims(weight) or ()
            weight, stored = op.Transpose(weight, perm=[1, 0]), weight
            weight.shape, weight.type = ir.Shape([columns, rows]), stored.type
        return fused(op, "LinearBias", x, weight, bias)
