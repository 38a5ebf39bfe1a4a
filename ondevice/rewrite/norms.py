"""Group normalisation as one op, with SiLU folded in (paper 3.1): one command instead of five, or seven; and the norm
that takes no mean off.

x - Reshape - InstanceNormalization - Reshape - Mul scale - Add bias    ->  GroupNorm
GroupNorm - Sigmoid - Mul                                               ->  GroupNormSilu
x - Mul x - ReduceMean - Add epsilon - Sqrt - x / it - Mul weight       ->  RmsNorm
x - Reshape - RmsNorm - Reshape                                         ->  RmsNorm of each head
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import onnx_ir as ir

from ondevice.rewrite.functions import DOMAIN
from ondevice.rewrite.rule import Fusion, dims, filled_with, fused, ints, number


def _settings(norm: ir.Value) -> dict[str, Any]:
    node = norm.producer()
    assert node is not None, "the pattern bound a node's output"
    return {name: attribute.value for name, attribute in node.attributes.items() if name in ("groups", "epsilon")}


class GroupNorm(Fusion):
    """Normalisation over groups of channels, as exporters spell it before opset 21.

    Where a view comes before it (the autoencoder's attention flattens its pixels), the view and the split are one
    Reshape, and only the join tells the shape that is normalised.
    """

    family = "group_norm"

    def pattern(
        self,
        op: Any,
        x: ir.Value,
        split: ir.Value,
        one: ir.Value,
        zero: ir.Value,
        join: ir.Value,
        scale: ir.Value,
        bias: ir.Value,
    ) -> Any:
        normal = op.InstanceNormalization(
            op.Reshape(x, split), one, zero, _allow_other_attributes=True, _outputs=["normal"]
        )
        return op.Add(op.Mul(op.Reshape(normal, join), scale), bias)

    def why_not(
        self,
        x: ir.Value,
        split: ir.Value,
        one: ir.Value,
        zero: ir.Value,
        join: ir.Value,
        scale: ir.Value,
        bias: ir.Value,
        **_: Any,
    ) -> str | None:
        source, groups, shape = dims(x), ints(split), ints(join)
        if source is None or groups is None or len(groups) != 3 or groups[0] not in (0, source[0]) or groups[1] < 1:
            return "it does not split [n, groups, rest]"
        if source[1] % groups[1]:
            return f"it makes {groups[1]} groups of {source[1]} channels"
        if not filled_with(one, 1) or not filled_with(zero, 0):
            return "its inner norm has a scale or a bias of its own"
        if shape is None or shape[:2] != list(source[:2]) or prod(shape) != prod(source) or min(shape) < 1:
            return f"it joins to {shape} (expected {list(source)}, or a view of it with the same channels)"
        channel = (shape[1], *(1,) * (len(shape) - 2))
        if dims(scale) != channel or dims(bias) != channel:
            return f"its scale {dims(scale)} and bias {dims(bias)} are not one per channel (expected {channel})"
        return None

    def rewrite(
        self,
        op: Any,
        x: ir.Value,
        split: ir.Value,
        join: ir.Value,
        scale: ir.Value,
        bias: ir.Value,
        normal: ir.Value,
        **_: Any,
    ) -> ir.Value:
        node, groups = normal.producer(), ints(split)
        assert node is not None and groups is not None, "why_not has seen both"
        shape = ints(join)
        if shape != list(dims(x) or ()):
            assert shape is not None, "why_not has seen it"
            kind, x = x.type, op.Reshape(x, join)
            x.shape, x.type = ir.Shape(shape), kind
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        return fused(op, "GroupNorm", x, scale, bias, groups=[groups[1]], epsilon=epsilon)


class GroupNormSilu(Fusion):
    """After GroupNorm and before Silu, which would otherwise take the activation for itself."""

    family = "group_norm_silu"

    def pattern(self, op: Any, x: ir.Value, scale: ir.Value, bias: ir.Value) -> Any:
        norm = op.GroupNorm(x, scale, bias, _domain=DOMAIN, _allow_other_attributes=True, _outputs=["norm"])
        return op.Mul(norm, op.Sigmoid(norm))

    def rewrite(self, op: Any, x: ir.Value, scale: ir.Value, bias: ir.Value, norm: ir.Value, **_: Any) -> ir.Value:
        return fused(op, "GroupNormSilu", x, scale, bias, **_settings(norm))


class RmsNorm(Fusion):
    """Over the last axis, of T5's layers, or of each head's queries and keys."""

    family = "rms_norm"

    def pattern(self, op: Any, x: ir.Value, axes: ir.Value, epsilon: ir.Value, weight: ir.Value) -> Any:
        mean = op.ReduceMean(op.Mul(x, x), axes, _allow_other_attributes=True, _outputs=["mean"])
        return op.Mul(op.Div(x, op.Sqrt(op.Add(mean, epsilon))), weight)

    def why_not(
        self, x: ir.Value, axes: ir.Value, epsilon: ir.Value, weight: ir.Value, mean: ir.Value, **_: Any
    ) -> str | None:
        shape, last = dims(x), ints(axes)
        if shape is None or last not in ([-1], [len(shape) - 1]) or dims(mean) != (*shape[:-1], 1):
            return f"its mean is over {last} (expected the last axis, kept)"
        if number(epsilon) is None or dims(weight) != shape[-1:]:
            return f"its weight is {dims(weight)} or its epsilon no constant (expected one number per column)"
        return None

    def rewrite(self, op: Any, x: ir.Value, epsilon: ir.Value, weight: ir.Value, **_: Any) -> ir.Value:
        return fused(op, "RmsNorm", x, weight, heads=[1], epsilon=number(epsilon))


class HeadsRmsNorm(Fusion):
    """Of each head's part of a row, which is then read where it stands. A norm that is reshaped for something else is
    no near miss."""

    family = "rms_norm"

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Every norm of heads that are beside each other before and after."""
        applied, _ = super().run(model)
        return applied, Counter()

    def pattern(self, op: Any, x: ir.Value, split: ir.Value, weight: ir.Value, join: ir.Value) -> Any:
        norm = op.RmsNorm(op.Reshape(x, split), weight, _domain=DOMAIN, _allow_other_attributes=True, _outputs=["norm"])
        return op.Reshape(norm, join)

    def why_not(self, x: ir.Value, norm: ir.Value, join: ir.Value, **_: Any) -> str | None:
        shape, apart, node = dims(x), dims(norm), norm.producer()
        if shape is None or apart is None or node is None or ints(join) != list(shape):
            return "it joins to another shape"
        if apart[:-2] != shape[:-1] or list(node.attributes["heads"].as_ints()) != [1]:
            return "it does not split rows alone"
        return None

    def rewrite(self, op: Any, x: ir.Value, weight: ir.Value, norm: ir.Value, **_: Any) -> ir.Value:
        node, apart = norm.producer(), dims(norm)
        assert node is not None and apart is not None, "why_not has seen both"
        return fused(op, "RmsNorm", x, weight, heads=[apart[-2]], epsilon=node.attributes["epsilon"].as_float())
