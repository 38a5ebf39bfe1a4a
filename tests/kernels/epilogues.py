"""What the kernels of products do as they store: references in float64, and bounds."""

import math

import numpy as np
from tolerance import EPS, TINY, in_half, rtol

erf = np.vectorize(math.erf, otypes=[np.float64])
GELU = {
    "": lambda z: z,
    "Silu": lambda z: z / (1 + np.exp(-z)),
    "Gelu": lambda z: 0.5 * z * (1 + erf(z / math.sqrt(2))),
    "GeluTanh": lambda z: 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "QuickGelu": lambda z: z / (1 + np.exp(-1.702 * z)),
    "Relu": lambda z: np.maximum(z, 0),
}
ACTIVATIONS = (*GELU, "Geglu")


def finished(product, size, terms, stored, activation, bias=None, shift=None, residual=None, half_terms=0, gate=None):
    """(value, bound) of gate * activation(product + bias + shift) + residual, or of the ReLU of that sum for an
    activation "ThenRelu"; `size` bounds the sum of the products' magnitudes, of which `half_terms` at a time are
    multiplied and added in half."""
    then_relu = activation == "ThenRelu"
    activation = "" if then_relu else activation
    z, magnitude = product, size
    for more in (bias, shift):
        if more is not None:
            z, magnitude = z + more, magnitude + np.abs(more)
    wrong = (rtol("f32", terms) + EPS["f32"]) * magnitude + (in_half(half_terms, size) if half_terms else 0)
    if activation == "Geglu":
        value, beside = np.split(z, 2, axis=-1)
        open_, (wrong_value, wrong_beside) = GELU["Gelu"](beside), np.split(wrong, 2, axis=-1)
        y = value * open_
        wrong = np.abs(open_) * wrong_value + np.abs(value) * (1.2 * wrong_beside + 16 * EPS["f32"] * np.abs(beside))
    else:
        y = GELU[activation](z)
        # no slope is above 1.2
        wrong = 1.2 * wrong + (16 + 4 * np.minimum(np.abs(z), 100)) * EPS["f32"] * np.abs(z) * bool(activation)
    if gate is not None:
        y, wrong = y * gate, wrong * np.abs(gate) + EPS["f32"] * np.abs(y * gate)
    if residual is not None:
        y, wrong = y + residual, wrong + EPS["f32"] * np.abs(y + residual)
    y = np.maximum(y, 0) if then_relu else y
    return y, EPS[stored] * np.abs(y) + TINY[stored] + wrong


def defines(activation, bias, shift, add):
    return {f"ACT_{activation}": 1 for _ in [0] if activation} | {
        name: 1 for name, have in (("HAS_BIAS", bias), ("HAS_SHIFT", shift), ("HAS_ADD", add)) if have
    }


def as_int8(weight):
    """(int8 [k, n], float32 scales [1, n], what they say as float64) of a weight, a loop per column;
    the first of several is zeros."""
    small, scales = np.zeros(weight.shape, np.int8), np.ones((1, weight.shape[1]), np.float32)
    for column in range(int(weight.shape[1] > 1), weight.shape[1]):
        given = weight[:, column].astype(np.float64)
        scales[0, column] = np.abs(given).max() / 127 or 1.0
        small[:, column] = np.round(given / scales[0, column])
    return small, scales, small * scales.astype(np.float64)


def as_int4(weight):
    """(0..15 [k, n], float16 scales [ceil(k / 32), n], what they say as float64) of a weight, a loop per group of a
    column; the first column of several is zeros."""
    k, n = weight.shape
    numbers, scales = np.full((k, n), 8, np.uint8), np.zeros((-(-k // 32), n), np.float16)
    for column in range(int(n > 1), n):
        for group in range(len(scales)):
            rows = slice(32 * group, 32 * group + 32)
            given = weight[rows, column].astype(np.float64)
            scales[group, column] = given[np.abs(given).argmax()] / -8
            numbers[rows, column] = np.clip(np.round(given / float(scales[group, column])) + 8, 0, 15)
    return numbers, scales, (numbers - 8.0) * scales.astype(np.float64).repeat(32, 0)[:k]


# How a weight in few bits is stored -> (whole numbers, scales, what they say), and what kernels are built with.
FEW_BITS = {"i8": (as_int8, "W8"), "i4": (as_int4, "W4")}


def packed(weight, width, halves=1, bits=""):
    """(weight in panels, its scales in panels or None, what it means, defines) of [k, n], as it is or in few `bits`."""
    if not bits:
        return in_panels(weight, width, halves), None, weight, {"PANELS": 1}
    how, define = FEW_BITS[bits]
    numbers, scales, meant = how(weight)
    panels = in_panels(numbers, width, halves)
    if bits == "i4":
        panels = in_panels(numbers.astype(np.int8) - 8, width, halves) + 8  # zeros past the last column, too
        panels = (panels[..., 0::2] + 16 * panels[..., 1::2]).astype(np.uint8)
    return panels, in_panels(scales, width, halves), meant, {"PANELS": 1, define: 1}


def in_panels(weight, width, halves=1):
    """[..., k, n] as the kernels read it with PANELS: [..., panels, k, width], a loop per column."""
    *batch, k, n = weight.shape
    own, half = width // halves, n // halves
    count = -(-half // own)
    panels = np.zeros((*batch, count, k, width), weight.dtype)
    for column in range(n):
        side, at = divmod(column, half)
        panels[..., at // own, :, side * own + at % own] = weight[..., column]
    return panels
