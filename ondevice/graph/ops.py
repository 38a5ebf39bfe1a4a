"""The ops a graph may hold, plain and fused: arity, attributes and arithmetic, one row each.

Meaning is ONNX's (default domain, opset 18); `ondevice.graph.reference` runs it in float64. FLOPs count one multiply-add as two and one
transcendental as one, which is what a roofline needs.
"""

from __future__ import annotations

import itertools
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


def _linear(weight: int) -> Flops:
    """`weight`: which input it is."""
    return lambda ins, outs: 2 * prod(outs[0][:-1]) * prod(ins[weight])


def _conv_nhwc(ins: Sequence[Shape], outs: Sequence[Shape]) -> int:
    return 2 * prod(outs[0]) * prod(ins[1][:3])


ACTIVATIONS = ("Silu", "Gelu", "GeluTanh", "QuickGelu", "Geglu")


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What a Linear or a ConvNhwc does to its products before it stores them: activation(products + bias + shift) + residual."""

    prefix: str = ""  # "Concat": x comes in two parts that stand beside each other; "Up": x is first repeated to a larger picture
    bias: bool = False
    shift: bool = False  # one number a channel and picture: the time embedding
    activation: str = ""  # one of ACTIVATIONS; Geglu halves the width
    add: bool = False  # of a residual, shaped as the result

    def name(self, base: str) -> str:
        """The op's name: a ConvNhwc with bias, shift and SiLU is ConvNhwcBiasShiftSilu."""
        parts = ((self.bias, "Bias"), (self.shift, "Shift"), (self.activation, self.activation), (self.add, "Add"))
        return self.prefix + base + "".join(word for have, word in parts if have)

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        x = ("x", "x2") if self.prefix == "Concat" else ("x",)
        extra = ((self.bias, "bias"), (self.shift, "shift"), (self.add, "residual"))
        return (*x, "weight", *(word for have, word in extra if have))


_BOTH = (False, True)
LINEAR = {
    e.name("Linear"): e for e in itertools.starmap(Epilogue, itertools.product(("", "Concat"), _BOTH, (False,), ("", *ACTIVATIONS), _BOTH))
}
CONV = {e.name("ConvNhwc"): e for e in itertools.starmap(Epilogue, itertools.product(("", "Up"), _BOTH, _BOTH, ("", "Silu"), _BOTH))}

FUSED: dict[str, Op] = {
    **dict.fromkeys(("GroupNorm", "GroupNormNhwc"), _op(3, 3, _per_element(9), "groups", "epsilon")),
    **dict.fromkeys(("GroupNormSilu", "GroupNormSiluNhwc"), _op(3, 3, _per_element(11), "groups", "epsilon")),
    "NormalizeNhwc": _op(5, 5, _per_element(2), "groups", "epsilon"),  # a GroupNorm whose mean and variance are given
    "NormalizeSiluNhwc": _op(5, 5, _per_element(4), "groups", "epsilon"),
    "ConcatGroupNormNhwc": _op(4, 4, _per_element(9), "groups", "epsilon"),
    "ConcatGroupNormSiluNhwc": _op(4, 4, _per_element(11), "groups", "epsilon"),
    "Silu": _op(1, 1, _per_element(2)),
    "Gelu": _op(1, 1, _per_element(5)),
    "GeluTanh": _op(1, 1, _per_element(8)),
    "QuickGelu": _op(1, 1, _per_element(3)),
    "Geglu": _op(1, 1, _per_element(6)),
    "Attention": _op(3, 3, _attention, "heads", "scale"),
    "MaskedAttention": _op(4, 4, _attention, "heads", "scale"),
    **dict.fromkeys(("CosSin", "SinCos"), _op(2, 2, _per_element(2))),
    **{name: _op(len(e.operands), len(e.operands), _linear(e.operands.index("weight"))) for name, e in LINEAR.items()},
    **{name: _op(len(e.operands), len(e.operands), _conv_nhwc, "strides", "pads", *["sizes"] * bool(e.prefix)) for name, e in CONV.items()},
}


def find(domain: str, name: str) -> Op | None:
    """The row of an op, or None for one that we do not support."""
    return OPS.get(name) if domain in ("", "ai.onnx") else FUSED.get(name) if domain == DOMAIN else None


def traffic(op: str, ins: Sequence[int], outs: Sequence[int]) -> tuple[int, int]:
    """Bytes that an op must read and write, from the bytes of its distinct inputs and of its outputs.

    What only picks or places a part touches no more than that part: a slice of its input, a row of a table, one operand's place in a
    concatenation.
    """
    reads, writes = sum(ins), sum(outs)
    if op in ("Slice", "Split", "Concat", "Identity", "Transpose"):
        return min(reads, writes), min(reads, writes)
    if op == "Gather":
        return reads - max(ins) + min(max(ins), writes), writes
    return reads, writes
