"""The ops a graph may hold, plain and fused: arity, attributes and arithmetic, one row each.

Meaning is ONNX's (default domain, opset 18); `ondevice.graph.reference` runs it in float64. FLOPs count one
multiply-add as two and one transcendental as one, which is what a roofline needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from ondevice.graph.epilogue import LINEAR, NORMS, read
from ondevice.graph.ranks import SUM

Shape = tuple[int, ...]
Flops = Callable[[Sequence[Shape], Sequence[Shape]], int]


@dataclass(frozen=True, slots=True)
class Op:
    """One op: least and most inputs, attributes that are understood, floating-point operations."""

    least: int
    most: int
    attributes: frozenset[str]
    flops: Flops

    @property
    def moves(self) -> bool:
        """Whether it only moves numbers, of whatever type."""
        return self.flops is _moved


def _per_element(cost: int) -> Flops:
    return lambda ins, outs: cost * prod(outs[0])


def _moved(ins: Sequence[Shape], outs: Sequence[Shape]) -> int:
    return 0


def _matmul(ins: Sequence[Shape], outs: Sequence[Shape]) -> int:
    return 2 * prod(outs[0]) * ins[0][-1]


def _conv(ins: Sequence[Shape], outs: Sequence[Shape]) -> int:
    return 2 * prod(outs[0]) * prod(ins[1][1:])


def _mean(ins: Sequence[Shape], outs: Sequence[Shape]) -> int:
    return prod(ins[0])


def _op(least: int, most: int, flops: Flops, *attributes: str) -> Op:
    return Op(least, most, frozenset(attributes), flops)


OPS: dict[str, Op] = {
    **{name: _op(2, 2, _per_element(1)) for name in ("Add", "Sub", "Mul", "Div")},
    **{
        name: _op(1, 1, _per_element(1))
        for name in ("Sigmoid", "Erf", "Tanh", "Sin", "Cos", "Sqrt", "Exp", "Neg", "Relu")
    },
    "MatMul": _op(2, 2, _matmul),
    "Gemm": _op(2, 3, _matmul, "alpha", "beta", "transA", "transB"),
    "Conv": _op(2, 3, _conv, "kernel_shape", "strides", "pads", "dilations", "group", "auto_pad"),
    "InstanceNormalization": _op(3, 3, _per_element(7), "epsilon"),
    "LayerNormalization": _op(2, 3, _per_element(7), "axis", "epsilon", "stash_type"),
    "ReduceMean": _op(2, 2, _mean, "keepdims", "noop_with_empty_axes"),
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


def _linear(weight: int) -> Flops:
    """`weight`: which input it is."""
    return lambda ins, outs: 2 * prod(outs[0][:-1]) * prod(ins[weight])


def _conv_nhwc(ins: Sequence[Shape], outs: Sequence[Shape]) -> int:
    return 2 * prod(outs[0]) * prod(ins[1][:3])


FUSED: dict[str, Op] = {  # those of `ondevice.graph.epilogue` without steps
    **{name: _op(len(inputs), len(inputs), _linear(inputs.index("weight"))) for name, inputs in LINEAR.items()},
    "ConvNhwc": _op(2, 2, _conv_nhwc, "strides", "pads"),
    "UpConvNhwc": _op(2, 2, _conv_nhwc, "strides", "pads", "sizes"),
    **{name: _op(len(inputs), len(inputs), _per_element(9), "groups", "epsilon") for name, inputs in NORMS.items()},
    "NormalizeNhwc": _op(5, 5, _per_element(2), "groups", "epsilon"),
    "RmsNorm": _op(2, 2, _per_element(4), "heads", "epsilon"),
    "AdaLayerNorm": _op(3, 3, _per_element(9), "epsilon"),
    "GatedAdd": _op(3, 3, _per_element(2)),
    SUM: _op(1, 1, _per_element(1)),
    "Silu": _op(1, 1, _per_element(2)),
    "Gelu": _op(1, 1, _per_element(5)),
    "GeluTanh": _op(1, 1, _per_element(8)),
    "QuickGelu": _op(1, 1, _per_element(3)),
    "Geglu": _op(1, 1, _per_element(6)),
    "Attention": _op(3, 3, _attention, "heads", "scale"),
    "MaskedAttention": _op(4, 4, _attention, "heads", "scale"),
    **dict.fromkeys(("CosSin", "SinCos"), _op(2, 2, _per_element(2))),
}


@functools.cache
def _with_steps(name: str) -> Op | None:
    """The row of an op with steps. What they cost is counted for norms; beside a product it is nothing."""
    if (stepped := read(name)) is None:
        return None
    row, inputs = FUSED[stepped.base], len(stepped.operands)
    step = FUSED[stepped.activation].flops if stepped.activation and stepped.base in NORMS else _moved
    return replace(row, least=inputs, most=inputs, flops=lambda ins, outs: row.flops(ins, outs) + step(ins, outs))


def find(domain: str, name: str) -> Op | None:
    """The row of an op, or None for one that we do not support."""
    if domain in ("", "ai.onnx"):
        return OPS.get(name)
    return FUSED.get(name) or _with_steps(name) if domain == DOMAIN else None


def traffic(op: str, ins: Sequence[int], outs: Sequence[int]) -> tuple[int, int]:
    """Bytes that an op must read and write, from the bytes of its distinct inputs and of its outputs.

    What only picks or places a part touches no more than that part: a slice of its input, a row of a table, one
    operand's place in a concatenation.
    """
    reads, writes = sum(ins), sum(outs)
    if op in ("Slice", "Split", "Concat", "Identity", "Transpose"):
        return min(reads, writes), min(reads, writes)
    if op == "Gather":
        return reads - max(ins) + min(max(ins), writes), writes
    return reads, writes
