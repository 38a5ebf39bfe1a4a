"""Ops on each number alone: sums and products, activations, sines and cosines."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema

from ondevice.export.tflite.words import Tensor, Words

BINARY = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}
UNARY = {"Sigmoid": "LOGISTIC", "Tanh": "TANH", "Sin": "SIN", "Cos": "COS", "Sqrt": "SQRT"}
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""Abramowitz and Stegun 7.1.26: erf to 1.5e-7, which is as good as float32."""


def binary(words: Words, node: ir.Node) -> Tensor:
    """With broadcasting."""
    return words.binary(BINARY[node.op_type], words.of(node.inputs[0]), words.of(node.inputs[1]))


def unary(words: Words, node: ir.Node) -> Tensor:
    """One builtin op."""
    return words.unary(UNARY[node.op_type], words.of(node.inputs[0]))


def exp(words: Words, node: ir.Node) -> Tensor:
    return words.unary("EXP", words.of(node.inputs[0]), schema.ExpOptionsT())


def neg(words: Words, node: ir.Node) -> Tensor:
    return words.unary("NEG", words.of(node.inputs[0]), schema.NegOptionsT())


def erf(words: Words, node: ir.Node) -> Tensor:
    """TFLite has none: sign(x) * (1 - p(t) * exp(-x * x)), t = 1 / (1 + 0.3275911 |x|)."""
    x, one = words.of(node.inputs[0]), words.constant([1.0])
    size = words.unary("ABS", x, schema.AbsOptionsT())
    t = words.binary("DIV", one, words.add(words.mul(size, words.constant([0.3275911])), one))
    polynomial = words.constant([ERF[-1]])
    for factor in reversed(ERF[:-1]):
        polynomial = words.add(words.mul(t, polynomial), words.constant([factor]))
    square = words.unary("NEG", words.mul(x, x), schema.NegOptionsT())
    rest = words.mul(words.mul(t, polynomial), words.unary("EXP", square, schema.ExpOptionsT()))
    return words.mul(words.unary("SIGN", x, schema.SignOptionsT()), words.sub(one, rest))


# Activations -----------------------------------------------------------------------------------------------------


def silu(words: Words, x: Tensor) -> Tensor:
    return words.mul(x, words.unary("LOGISTIC", x))


def gelu(words: Words, x: Tensor) -> Tensor:
    """By erf."""
    return words.unary("GELU", x, schema.GeluOptionsT(approximate=False))


def gelu_tanh(words: Words, x: Tensor) -> Tensor:
    return words.unary("GELU", x, schema.GeluOptionsT(approximate=True))


def quick_gelu(words: Words, x: Tensor) -> Tensor:
    return words.mul(x, words.unary("LOGISTIC", words.mul(x, words.constant([1.702]))))


def geglu(words: Words, x: Tensor) -> Tensor:
    """The second half of the last axis gates the first."""
    axis, half = len(x.shape) - 1, x.shape[-1] // 2
    value, gate = words.split(x, axis, [half, half])
    return words.mul(value, gelu(words, gate))


def relu(words: Words, x: Tensor) -> Tensor:
    return words.unary("RELU", x)


ACTIVATIONS: dict[str, Callable[[Words, Tensor], Tensor]] = {
    "Silu": silu,
    "Gelu": gelu,
    "GeluTanh": gelu_tanh,
    "QuickGelu": quick_gelu,
    "Geglu": geglu,
    "Relu": relu,
}


def activation(words: Words, node: ir.Node) -> Tensor:
    """Of ACTIVATIONS, as an op of its own."""
    return ACTIVATIONS[node.op_type](words, words.of(node.inputs[0]))


def waves(words: Words, node: ir.Node) -> Tensor:
    """CosSin and SinCos: of each time [n, 1] times each frequency, side by side.

    The angles are a matrix product: GPU delegates do not broadcast two operands of one op.
    """
    times, frequencies = words.of(node.inputs[0]), node.inputs[1]
    assert frequencies is not None and frequencies.const_value is not None, "the rule has seen to it"
    angles = words.dense(times, words.weight(frequencies, (frequencies.const_value.size, 1)))
    order = ("COS", "SIN") if node.op_type == "CosSin" else ("SIN", "COS")
    parts = [words.unary(word, angles, schema.CosOptionsT() if word == "COS" else None) for word in order]
    return words.concat(parts, len(angles.shape) - 1)
