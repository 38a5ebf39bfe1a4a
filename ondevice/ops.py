"""The ops a graph may hold, plain and fused: arity, attributes and arithmetic, one row each.

Meaning is ONNX's (default domain, opset 18); `ondevice.reference` runs it in float64. FLOPs count one multiply-add as two and one
transcendental as one, which is what a roofline needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]
Flops = Callable[[Sequence[Shape], Sequence[Shape]], int]


@dataclass(frozen=True, slots=True)
class Op:
    """One op: least and most inputs, attributes that are understood, floating-point operations."""

    least: int
    most: int
    attributes: frozenset[str]
    flops: Flops


def _per_element(cost: int) -> Flops:
    return lambda ins, outs: cost * prod(outs[0])


def _moved(ins: Sequence[Shape], outs: Sequence[Shape]) -> int:
    return 0


def _matmul(ins: Sequence[Shape], outs: Sequence[Shape]) -> int:
    return 2 * prod(outs[0]) * ins[0][-1]


def _conv(ins: Sequence[Shape], outs: Sequence[Shape]) -> int:
    return 2 * prod(outs[0]) * prod(ins[1][1:])


def _op(least: int, most: int, flops: Flops, *attributes: str) -> Op:
    return Op(least, most, frozenset(attributes), flops)


OPS: dict[str, Op] = {
    **{name: _op(2, 2, _per_element(1)) for name in ("Add", "Sub", "Mul", "Div")},
    **{name: _op(1, 1, _per_element(1)) for name in ("Sigmoid", "Erf", "Tanh", "Sin", "Cos", "Sqrt", "Exp", "Neg")},
    "MatMul": _op(2, 2, _matmul),
    "Gemm": _op(2, 3, _matmul, "alpha", "beta", "transA", "transB"),
    "Conv": _op(2, 3, _conv, "kernel_shape", "strides", "pads", "dilations", "group", "auto_pad"),
    "InstanceNormalization": _op(3, 3, _per_element(7), "epsilon"),
    "LayerNormalization": _op(2, 3, _per_element(7), "axis", "epsilon", "stash_type"),
    "Softmax": _op(1, 1, _per_element(5), "axis"),
    "Resize": _op(
        3,
        4,
        _moved,
        "mode",
        "coordinate_transformation_mode",
        "nearest_mode",
        "cubic_coeff_a",
        "exclude_outside",
        "extrapolation_value",
        "antialias",
        "keep_aspect_ratio_policy",
    ),
    "Gather": _op(2, 2, _moved, "axis"),
    "Transpose": _op(1, 1, _moved, "perm"),
    "Concat": _op(1, 1 << 10, _moved, "axis"),
    "Split": _op(1, 2, _moved, "axis", "num_outputs"),
    "Slice": _op(3, 5, _moved),
    "Expand": _op(2, 2, _moved),
    "Reshape": _op(2, 2, _moved, "allowzero"),
    "Unsqueeze": _op(2, 2, _moved),
    "Squeeze": _op(1, 2, _moved),
    "Flatten": _op(1, 1, _moved, "axis"),
    "Identity": _op(1, 1, _moved),
    "Cast": _op(1, 1, _moved, "to"),
    "Constant": _op(0, 0, _moved, "value", "value_float", "value_floats", "value_int", "value_ints"),
}

DOMAIN = "ondevice"  # of the fused ops, which ondevice.rewrite makes and whose meaning is the function bodies there


def _attention(ins: Sequence[Shape], outs: Sequence[Shape]) -> int:
    batch, queries, width = ins[0]
    return 4 * batch * queries * ins[1][1] * width


FUSED: dict[str, Op] = {
    "GroupNorm": _op(3, 3, _per_element(9), "groups", "epsilon"),
    "GroupNormSilu": _op(3, 3, _per_element(11), "groups", "epsilon"),
    "Silu": _op(1, 1, _per_element(2)),
    "Gelu": _op(1, 1, _per_element(5)),
    "GeluTanh": _op(1, 1, _per_element(8)),
    "QuickGelu": _op(1, 1, _per_element(3)),
    "Geglu": _op(1, 1, _per_element(6)),
    "Attention": _op(3, 3, _attention, "heads", "scale"),
    "MaskedAttention": _op(4, 4, _attention, "heads", "scale"),
}


def find(domain: str, name: str) -> Op | None:
    """The row of an op, or None for one that we do not support."""
    return OPS.get(name) if domain in ("", "ai.onnx") else FUSED.get(name) if domain == DOMAIN else None
