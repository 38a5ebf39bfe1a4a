"""The ways in which kernels for a CPU's matrix unit are built here, and what they multiply, as NumPy has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ondevice.run.discovery import find_device
from ondevice.run.opencl import OpenCLDevice

PLAIN = "#undef OD_AMX\n#undef OD_DPBF16\n"
# What stands before a kernel's text -> plain C in tiles of its own sizes and in AMX's, and what this machine's unit is.
SPELLINGS = {
    "plain": PLAIN,
    "plain, of 16 by 32": f"{PLAIN}#define OD_MAT_M 16\n#define OD_MAT_K 32\n",
    "unit": "",
}
MATHS = ("bf16", "bf16x3")


class Spelled(OpenCLDevice):
    """The best device here, whose kernels of a matrix unit are built as one of SPELLINGS says."""

    def __init__(self, spelling: str) -> None:
        super().__init__(find_device())
        self.before = SPELLINGS[spelling]

    def build(self, source: str, entry: str, where: str) -> Any:
        return super().build(self.before + source, entry, where)


def as_bf16(values: np.ndarray) -> np.ndarray:
    """float32 values, each the bf16 that is nearest, of two that are the one whose last bit is 0; as float64."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    low = bits & 0xFFFF
    up = (low > 0x8000) | ((low == 0x8000) & (bits >> 16 & 1 == 1))
    return ((bits >> 16) + up << 16).astype(np.uint32).view(np.float32).astype(np.float64)


def multiplied(math: str, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(product, the same of magnitudes), float64 [m, n], of what a kernel multiplies of [m, k] and [k, n]."""
    highs = [as_bf16(side) for side in (left, right)]
    product, size = highs[0] @ highs[1], np.abs(highs[0]) @ np.abs(highs[1])
    if math == "bf16":
        return product, size
    lows = [as_bf16(side - high) for side, high in zip((left, right), highs, strict=True)]
    return product + highs[0] @ lows[1] + lows[0] @ highs[1], size
