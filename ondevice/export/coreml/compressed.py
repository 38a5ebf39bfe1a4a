"""Larger weights of products and convolutions in few bits: what Core ML makes floats of when it loads a program, or
inside the op that reads it (constexpr ops). Nothing here was run on Apple's hardware.

- "int8": a scale per output channel, rounded as in our bundles.
- "int4": a scale per 32 input channels, an output channel and a tap of the kernel, rounded as in our bundles, where
  scales have a sign; here an offset of 7 or 8 takes its place. iOS 18.
- "pal4", "pal6", "pal8": a table of 16, 64 or 256 values per weight (`palette`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ondevice.errors import GraphError
from ondevice.export.coreml.palette import palettized
from ondevice.export.narrow import BROKEN, int8, int8_saves
from ondevice.lower.quantize import GROUP, ZERO, int4_scales, int4_values

BITS = {"pal4": 4, "pal6": 6, "pal8": 8}
WEIGHTS = ("int8", "int4", *BITS)  # of `convert --weights`


@dataclass(frozen=True, slots=True)
class Stored:
    """A constant: `dtype` is MIL's word, such as "uint4", of which `array` has one per byte."""

    array: np.ndarray
    dtype: str


@dataclass(frozen=True, slots=True)
class Compressed:
    """A constexpr op: its type, and its parameters, which are constants all: attributes of the ops that came with
    iOS 16, inputs of those that came with iOS 18."""

    op: str
    parameters: Mapping[str, Stored]
    attributes: bool


def compressed(values: np.ndarray, weights: str, dtype: str, ios: int) -> Compressed | None:
    """A weight in few bits; None where that saves next to nothing, or costs much: it stays what it is.

    Args:
        values: floats [outputs, inputs, *kernel], of a product or a convolution.
        weights: one of WEIGHTS.
        dtype: MIL's word for what becomes of it, "fp16" or "fp32".
        ios: the version that the program is for.

    Raises:
        GraphError: a value is not finite, or float16 cannot hold it.
    """
    if not int8_saves(values.shape, 0):
        return None
    if weights in BITS:
        return _palette(values, BITS[weights], dtype, ios)
    if weights == "int4" and values.shape[1] % GROUP == 0:
        return _blocks(values, dtype)
    whole, scales = int8(values, 0, "")
    scale = Stored(_floats(scales, dtype), dtype)
    if ios >= 18:
        per_output = Stored(scale.array.reshape(-1, *[1] * (values.ndim - 1)), dtype)
        return Compressed(
            "constexpr_blockwise_shift_scale", {"data": Stored(whole, "int8"), "scale": per_output}, False
        )
    stored = {"quantized_data": Stored(whole, "int8"), "scale": scale}
    stored |= {"zero_point": Stored(np.array(0, np.int8), "int8"), "axis": Stored(np.array(0, np.int32), "int32")}
    return Compressed("constexpr_affine_dequantize", stored, attributes=True)


def _blocks(values: np.ndarray, dtype: str) -> Compressed:
    outputs, inputs, *kernel = values.shape
    taps_first = np.moveaxis(values.reshape(outputs, inputs, -1), 2, 0)  # [taps, outputs, inputs]
    rows = np.moveaxis(taps_first, 1, 2).reshape(-1, outputs).astype(np.float32, copy=False)
    scales = int4_scales(rows).astype(np.float16).astype(np.float32)  # as bundles store them
    if not np.isfinite(scales).all():
        raise GraphError("holds a value that is not finite, or too large.", fix=BROKEN)
    data = int4_values(rows).reshape(-1, GROUP, outputs)
    negative = scales < 0
    data = np.where(negative[:, None], 2 * ZERO - 1 - data, data)  # of a number q, q + 8, or 7 - q

    def placed(array: np.ndarray) -> np.ndarray:  # [taps x inputs, outputs] as the weight has it
        return np.moveaxis(array.reshape(len(taps_first), -1, outputs), (0, 1), (2, 1)).reshape(outputs, -1, *kernel)

    scales = np.where(scales == 0, np.float32(1), np.abs(scales))
    return Compressed(
        "constexpr_blockwise_shift_scale",
        {
            "data": Stored(placed(data), "uint4"),
            "scale": Stored(_floats(placed(scales), dtype), dtype),
            "offset": Stored(placed(np.where(negative, ZERO - 1, ZERO).astype(np.uint8)), "uint4"),
        },
        attributes=False,
    )


def _palette(values: np.ndarray, bits: int, dtype: str, ios: int) -> Compressed:
    indices, table = palettized(values, bits)
    lut = _floats(table, dtype)
    if ios >= 18:
        shaped = Stored(lut.reshape(*[1] * values.ndim, -1, 1), dtype)
        return Compressed(
            "constexpr_lut_to_dense", {"indices": Stored(indices, f"uint{bits}"), "lut": shaped}, attributes=False
        )
    shape = Stored(np.array(values.shape, np.uint32), "uint32")
    packed = Stored(_packed(indices.reshape(-1), bits), "uint8")
    return Compressed(
        "constexpr_lut_to_dense", {"indices": packed, "lut": Stored(lut, dtype), "shape": shape}, attributes=True
    )


def _packed(elements: np.ndarray, bits: int) -> np.ndarray:
    """[n] of so many bits -> bytes, lowest bits first, without gaps."""
    if bits == 8:
        return elements
    if bits == 4:
        pairs = np.append(elements, np.zeros(-len(elements) % 2, np.uint8)).reshape(-1, 2)
        return pairs[:, 0] | pairs[:, 1] << 4
    a, b, c, d = np.append(elements, np.zeros(-len(elements) % 4, np.uint8)).reshape(-1, 4).T
    three = np.stack([a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2], axis=1)
    return three.reshape(-1)[: -(-len(elements) * bits // 8)]


def _floats(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(np.float16 if dtype == "fp16" else np.float32)
