"""What a launch of one of our kernels means, in NumPy and float64: its header says what its numbers are.

Of most kernels; not of those that do a part of something whose middle has no meaning of its own (Winograd's patches and
products, sums that a second command finishes), nor of those that write a part of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

PER_SCALE = 32  # rows of a weight of 4 bits that share a scale
_ERF_STEP = 1.0 / 512


@dataclass(frozen=True, slots=True)
class Given:
    """A launch's operands by name, in float64 or whole numbers, and its scalars and defines; of those 0 is as good as
    none."""

    operands: Mapping[str, np.ndarray]
    numbers: Mapping[str, int | float]

    def flat(self, name: str, *shape: int, first: int = 0) -> np.ndarray:
        """So many elements of an operand, `first` of them left out, in that shape."""
        return self.operands[name].reshape(-1)[first : first + math.prod(shape)].reshape(shape)

    def whole(self, name: str) -> int:
        """A whole number."""
        return int(self.numbers.get(name, 0))


def erf(x: np.ndarray) -> np.ndarray:
    """To 1e-13: cubic pieces between exact values and slopes."""
    near = np.clip(x, -6.0, 6.0)  # beyond it is 1 to the last bit
    knots = np.arange(-6 * 512, 6 * 512 + 2) * _ERF_STEP
    values = np.array([math.erf(one) for one in knots])
    slopes = 2 / math.sqrt(math.pi) * np.exp(-(knots**2)) * _ERF_STEP
    number = np.floor(near / _ERF_STEP).astype(np.int64) + 6 * 512
    t = (near - knots[number]) / _ERF_STEP
    y0, y1, s0, s1 = values[number], values[number + 1], slopes[number], slopes[number + 1]
    return y0 + t * (s0 + t * (3 * (y1 - y0) - 2 * s0 - s1 + t * (2 * (y0 - y1) + s0 + s1)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Sigmoid": _sigmoid,
    "Erf": erf,
    "Tanh": np.tanh,
    "Sin": np.sin,
    "Cos": np.cos,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Neg": np.negative,
    "Relu": lambda x: np.maximum(x, 0),
    "Silu": lambda x: x * _sigmoid(x),
    "Gelu": _gelu,
    "GeluTanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "QuickGelu": lambda x: x * _sigmoid(1.702 * x),
}
KNOWN = {f"ACT_{name}" for name in (*FUNCTIONS, "Geglu", "ThenRelu")}  # of the activations that a build may have
BINARY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


def _op(given: Given, known: Mapping[str, Callable[..., np.ndarray]]) -> Callable[..., np.ndarray]:
    return next(function for name, function in known.items() if given.whole(f"OP_{name}"))


def _activated(given: Given, z: np.ndarray) -> np.ndarray:
    return next((f(z) for name, f in FUNCTIONS.items() if given.whole(f"ACT_{name}")), z)


def _columns(given: Given, name: str, k: int, n: int) -> np.ndarray:
    """A weight, or a bias of one row: [batch, k, n], whether it is stored in rows or in panels, widened from few bits.
    GEGLU's gates are its last n / 2."""
    stored = panels = given.operands[name]
    if "ldb" in given.numbers and not given.whole("PANELS"):
        return stored.reshape(-1, k, given.whole("ldb"))[..., :n]
    if name in ("b", "weight") and given.whole("W4"):
        panels = np.stack([stored & 15, stored >> 4], -1).reshape(*stored.shape[:-1], -1) - 8.0
        scales = given.operands["scales"].reshape(panels.shape[-3], -1, panels.shape[-1])
        panels = panels * np.repeat(scales, PER_SCALE, 1)[:, :k]
    elif name in ("b", "weight") and given.whole("W8"):
        panels = panels * given.operands["scales"].reshape(panels.shape[-3], 1, panels.shape[-1])
    halves = 1 + given.whole("ACT_Geglu")
    *batch, count, _, width = panels.shape
    parts = panels.reshape(-1, count, k, halves, width // halves).transpose(0, 2, 3, 1, 4)
    return parts.reshape(math.prod(batch), k, halves, -1)[..., : n // halves].reshape(-1, k, n)


def _finished(given: Given, z: np.ndarray, columns: int) -> np.ndarray:
    """The epilogue of a product: bias, shift, activation, gate, residual."""
    if given.whole("HAS_BIAS"):
        z = z + _columns(given, "bias", 1, columns).reshape(-1)
    if given.whole("HAS_SHIFT"):
        n, channels = len(z), z.shape[-1]
        at = given.whole("shift_from") + given.whole("shift_row") * np.arange(n)[:, None] + np.arange(channels)
        z = z + given.operands["shift"].reshape(-1)[at].reshape(n, *[1] * (z.ndim - 2), channels)
    if given.whole("ACT_Geglu"):
        values, gates = np.split(z, 2, -1)
        z = values * _gelu(gates)
    else:
        z = _activated(given, z)
    if given.whole("HAS_GATE"):
        at = given.whole("gate_from") + given.whole("gate_row") * np.arange(len(z))[:, None] + np.arange(z.shape[-1])
        z = z * given.operands["gate"].reshape(-1)[at][:, None]
    z = z + given.flat("residual", *z.shape) if given.whole("HAS_ADD") else z
    return np.maximum(z, 0) if given.whole("ACT_ThenRelu") else z


def product(given: Given) -> np.ndarray:
    batch, m, n, k, k1 = (given.whole(name) for name in ("batch", "m", "n", "k", "k1"))
    columns = n * (1 + given.whole("ACT_Geglu"))
    a = given.operands["a"].reshape(-1)
    at = given.whole("a_from") + given.whole("a_batch") * np.arange(batch)[:, None] + np.arange(m * k1)
    left = a[at].reshape(batch, m, k1)
    if k1 < k:
        left = np.concatenate([left, given.flat("a2", 1, m, k - k1)], -1)
    right = _columns(given, "b", k, columns)
    right = right[:batch] if given.whole("b_batch") else right[:1]
    return _finished(given, left @ right, columns)


def convolution(given: Given) -> np.ndarray:
    n, h, w, ic, oc = (given.whole(name) for name in ("n", "h", "w", "ic", "oc"))
    oh, ow, kh, kw, up_h, up_w = (given.whole(name) for name in ("oh", "ow", "kh", "kw", "up_h", "up_w"))
    x = given.flat("x", n, h, w, ic)[:, np.arange(up_h) * h // up_h][:, :, np.arange(up_w) * w // up_w]
    taps = _columns(given, "weight", kh * kw * ic, oc).reshape(kh, kw, ic, oc)
    z = np.zeros((n, oh, ow, oc))
    for i, j in np.ndindex(kh, kw):
        rows = np.arange(oh) * given.whole("stride") - given.whole("pad_top") + i
        columns = np.arange(ow) * given.whole("stride") - given.whole("pad_left") + j
        seen = x[:, np.clip(rows, 0, up_h - 1)][:, :, np.clip(columns, 0, up_w - 1)]
        inside = ((rows >= 0) & (rows < up_h))[:, None] & ((columns >= 0) & (columns < up_w))
        z += (seen * inside[None, :, :, None]) @ taps[i, j]
    return _finished(given, z, oc)


def group_norm(given: Given) -> np.ndarray:
    n, pixels, channels, c1 = (given.whole(name) for name in ("n", "pixels", "channels", "c1"))
    x = given.flat("x", n, pixels, c1)
    if c1 < channels:
        x = np.concatenate([x, given.flat("x2", n, pixels, channels - c1)], -1)
    groups = x.reshape(n, pixels, -1, given.whole("per_group"))
    groups = _normalized(groups, (1, 3), given)
    z = groups.reshape(n, pixels, channels) * given.flat("scale", channels) + given.flat("bias", channels)
    return _activated(given, z)


def _normalized(x: np.ndarray, axes: tuple[int, ...], given: Given) -> np.ndarray:
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(variance + given.numbers["epsilon"]))


def layer_norm(given: Given) -> np.ndarray:
    rows, cols = given.whole("rows"), given.whole("cols")
    x = _normalized(given.flat("x", rows, cols), (1,), given)
    return x * given.flat("scale", cols) + given.flat("bias", cols)


def ada_layer_norm(given: Given) -> np.ndarray:
    rows, cols = given.whole("rows"), given.whole("cols")
    return _normalized(given.flat("x", rows, cols), (1,), given) * (1 + _of_items(given, "scale")) + _of_items(
        given, "shift"
    )


def _of_items(given: Given, name: str) -> np.ndarray:
    """Of each row what stands in its item's row of an operand."""
    item = np.arange(given.whole("rows")) // given.whole("tokens")
    at = given.whole(f"{name}_from") + given.whole(f"{name}_row") * item[:, None] + np.arange(given.whole("cols"))
    return np.asarray(given.operands[name].reshape(-1)[at])


def gated_add(given: Given) -> np.ndarray:
    x, z = (given.flat(name, given.whole("rows"), given.whole("cols")) for name in "xz")
    return x + _of_items(given, "gate") * z


def rms_norm(given: Given) -> np.ndarray:
    row, cols, heads = np.arange(given.whole("rows")), given.whole("cols"), given.whole("heads")
    item, token = np.divmod(row // heads, given.whole("tokens"))
    at = given.whole("x_from") + item * given.whole("x_batch") + token * given.whole("x_row") + row % heads * cols
    x = given.operands["x"].reshape(-1)[at[:, None] + np.arange(cols)]
    mean = (x * x).mean(-1, keepdims=True)
    return np.asarray(x / np.sqrt(mean + given.numbers["epsilon"]) * given.flat("weight", given.whole("cols")))


def row_mean(given: Given) -> np.ndarray:
    return np.asarray(given.flat("x", given.whole("rows"), given.whole("cols")).mean(-1))


def normalize(given: Given) -> np.ndarray:
    pixels, channels = given.whole("pixels"), given.whole("channels")
    group = np.arange(channels) // given.whole("per_group")
    mean, variance = (given.operands[name].reshape(-1)[group] for name in ("mean", "variance"))
    x = (given.flat("x", pixels, channels) - mean) / np.sqrt(variance + given.numbers["epsilon"])
    return _activated(given, x * given.flat("scale", channels) + given.flat("bias", channels))


def softmax(given: Given) -> np.ndarray:
    return _weights(given.flat("x", given.whole("rows"), given.whole("cols")))


def _weights(scores: np.ndarray) -> np.ndarray:
    """Of scores, along the last axis; a row that is masked everywhere attends to nothing."""
    top = np.maximum(scores.max(-1, keepdims=True), np.finfo(np.float32).min)
    powers = np.exp(scores - top)
    return powers / np.where((total := powers.sum(-1, keepdims=True)) == 0, 1, total)


def attention(given: Given) -> np.ndarray:
    batch, heads, d = given.whole("batch"), given.whole("heads"), given.whole("D")

    def rows(name: str, count: int) -> np.ndarray:
        row, first = given.whole(f"{name}_row"), given.whole(f"{name}_from")
        at = first + row * np.arange(batch * count)[:, None] + np.arange(heads * d)
        return given.operands[name].reshape(-1)[at].reshape(batch, count, heads, d).transpose(0, 2, 1, 3)

    queries, keys = given.whole("queries"), given.whole("keys")
    scores = rows("q", queries) @ rows("k", keys).swapaxes(-1, -2) * given.numbers["scale"]
    if given.whole("MASKED"):
        masks = heads if given.whole("HEAD_MASKS") else 1
        scores = scores + given.flat("mask", masks, 1 if given.whole("ROW_MASK") else queries, keys)
    return (_weights(scores) @ rows("v", keys)).transpose(0, 2, 1, 3)


def binary(given: Given) -> np.ndarray:
    sizes = [given.whole(f"n{i}") for i in (3, 2, 1, 0)]

    def side(name: str) -> np.ndarray:
        at = sum(given.whole(f"{name}{3 - i}") * part for i, part in enumerate(np.indices(sizes, sparse=True)))
        return np.asarray(given.operands[name].reshape(-1)[at])

    return _op(given, BINARY)(side("a"), side("b"))


def unary(given: Given) -> np.ndarray:
    return _op(given, FUNCTIONS)(given.flat("x", given.whole("n")))


def cast(given: Given) -> np.ndarray:
    return given.flat("x", given.whole("n"))


def geglu(given: Given) -> np.ndarray:
    values, gates = np.split(given.flat("x", given.whole("rows"), 2 * given.whole("cols")), 2, -1)
    return values * _gelu(gates)


def gather(given: Given) -> np.ndarray:
    table = given.flat("table", given.whole("rows"), given.whole("cols"))
    return table[np.clip(given.flat("ids", given.whole("count")), 0, len(table) - 1)]


def sin_cos(given: Given) -> np.ndarray:
    angle = np.outer(given.flat("t", given.whole("rows")), given.flat("frequencies", given.whole("half_width")))
    parts = np.sin(angle), np.cos(angle)
    return np.concatenate(parts if given.whole("OP_SinCos") else parts[::-1], -1)


def resize(given: Given) -> np.ndarray:
    n, h, w, c, oh, ow = (given.whole(name) for name in ("n", "h", "w", "c", "oh", "ow"))
    return given.flat("x", n, h, w, c)[:, np.arange(oh) * h // oh][:, :, np.arange(ow) * w // ow]


MEANINGS: dict[str, Callable[[Given], np.ndarray]] = {
    **dict.fromkeys(("matmul", "matmul_tiles", "matmul_waves", "matmul_matrix"), product),
    **dict.fromkeys(("conv2d_bands", "conv2d_nhwc", "conv2d_tiles", "conv2d_waves"), convolution),
    **dict.fromkeys(("group_norm_nhwc", "group_norm_nhwc_any", "group_norm_local"), group_norm),
    **dict.fromkeys(("layer_norm", "layer_norm_local", "layer_norm_rows"), layer_norm),
    **dict.fromkeys(("flash_attention", "flash_local", "flash_near", "flash_registers", "flash_rows"), attention),
    **dict.fromkeys(("ada_layer_norm", "ada_layer_norm_local", "ada_layer_norm_rows"), ada_layer_norm),
    **dict.fromkeys(("rms_norm", "rms_norm_local", "rms_norm_rows"), rms_norm),
    "gated_add": gated_add,
    "row_mean": row_mean,
    "normalize_nhwc": normalize,
    "softmax": softmax,
    "binary": binary,
    "unary": unary,
    **dict.fromkeys(("cast", "sum_ranks"), cast),
    "geglu": geglu,
    "gather": gather,
    "sin_cos": sin_cos,
    "resize_nearest_nhwc": resize,
}
"""By a kernel's name: its result, float64, of as many elements as it writes."""
