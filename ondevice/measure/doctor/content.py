"""What launches are given: made-up numbers that every player makes alike, whatever its language (docs/doctor.md).

A number is a whole one of 11 bits, scaled: halves hold it as exactly as floats do, so that no rounding is left to a
player.
"""

from __future__ import annotations

import numpy as np

from ondevice.run.check import NUMPY

SIGNED, POSITIVE = "signed", "positive"
FILLS = (SIGNED, POSITIVE)
INDICES = 64  # an index is below it; kernels clamp one that their table has not


def bits(count: int, seed: int) -> np.ndarray:
    """uint32 [count]: a hash of each position and `seed`, without a state."""
    x = np.arange(count, dtype=np.uint32)
    x *= np.uint32(0x9E3779B9)
    x += np.uint32(seed * 0x85EBCA6B & 0xFFFFFFFF)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def content(shape: tuple[int, ...], dtype: str, seed: int, fill: str) -> np.ndarray:
    """Numbers of a tensor: of floats multiples of 1/1024 in [-1, 1) where `fill` is SIGNED, of 1/2048 in (0, 1] where
    it is POSITIVE; indices below INDICES.

    Args:
        seed: the operand's place among those of its launch.
    """
    random = bits(int(np.prod(shape)), seed)
    if dtype == "i32":
        return (random % INDICES).astype(np.int32).reshape(shape)
    if dtype in ("i8", "u4x2"):
        return (random >> np.uint32(24)).astype(np.uint8).view(NUMPY[dtype]).reshape(shape)
    high = (random >> np.uint32(21)).astype(np.int32)
    values = (high - 1024) / np.float32(1024) if fill == SIGNED else (high + 1) / np.float32(2048)
    return values.astype(NUMPY[dtype]).reshape(shape)
