"""Weights in few bits; arithmetic stays float. pack.py stores them so, kernels widen and scale them.

- "i8": int8 with a symmetric scale per column. A kernel scales the finished sum.
- "i4": 4 bits with a symmetric scale per column and GROUP rows, the last group of a column may be shorter. A kernel
  scales what it reads. It is the scheme of GGUF's q4_0, whose blocks stay what they are: a group of which some scale is
  the exact unit gets that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# What is smaller saves little and costs the most: the first convolutions of a picture (27 or 36 rows), the last (3
# or 4 columns).
ROWS, COLUMNS, ELEMENTS = 40, 16, 4096
LARGEST = 127  # -128 is left out, so that a weight and its negative are rounded alike
GROUP = 32  # rows that share a scale: SCALE_ROWS of shaders/prelude/weights.h
ZERO = 8  # the number of 4 bits that means 0
CHUNK = 1 << 20  # values that are worked on at once: a large weight's temporaries would take a gigabyte
Made = Callable[[np.ndarray], np.ndarray]


def _by_columns(make: Made) -> Made:
    """The same for a weight [k, n] of any size, some columns at a time; what is not finite is nothing to warn of."""

    @functools.wraps(make)
    @np.errstate(invalid="ignore", over="ignore", divide="ignore")
    def by_columns(weight: np.ndarray) -> np.ndarray:
        k, n = weight.shape
        width = max(1, CHUNK // k)
        return np.concatenate([make(weight[:, first : first + width]) for first in range(0, n, width)], axis=1)

    return by_columns


@_by_columns
def int8_scales(weight: np.ndarray) -> np.ndarray:
    """[k, n] -> float32 [1, n], at which a column's largest magnitude is 127; 1 for a column of zeros.

    NaN where a column is not finite: that is refused when it is written.
    """
    largest = np.abs(weight).max(axis=0, keepdims=True).astype(np.float32)
    scales = np.where(np.isfinite(largest), largest, np.float32(np.nan)) / np.float32(LARGEST)
    return np.where(scales == 0, np.float32(1), scales)


@_by_columns
def int8_values(weight: np.ndarray) -> np.ndarray:
    """[k, n] in units of its columns' scales, rounded half to even, int8 within -127..127."""
    return np.clip(np.rint(weight / int8_scales(weight)), -LARGEST, LARGEST).astype(np.int8)


@_by_columns
def int4_scales(weight: np.ndarray) -> np.ndarray:
    """[k, n] -> float32 [ceil(k / GROUP), n], at which the value of the largest magnitude of a column's group, the
    first of several, is -8, or all of them are whole numbers; 0 for a group of zeros. They are stored in half.

    NaN where a group is not finite: that is refused when it is written, as a scale is that half cannot hold.
    """
    groups = _grouped(weight)
    sizes = np.abs(groups)
    largest = np.take_along_axis(groups, sizes.argmax(axis=1, keepdims=True), axis=1)[:, 0]
    scales = np.where(np.isfinite(groups).all(axis=1), largest / np.float32(-ZERO), np.float32(np.nan))
    # Whole multiples of a scale, eight of it at most, leave a gap around zero: other groups seldom do.
    least = np.where(sizes == 0, np.float32(np.inf), sizes).min(axis=1)
    gap = np.isfinite(scales) & (least >= np.abs(scales) * np.float32(0.999)) & (scales != 0)
    scales[gap] = _exact(groups.transpose(0, 2, 1)[gap], scales[gap])
    return scales


def _exact(groups: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """[m, GROUP], [m] -> [m]: the scale in half of which all values of a group are whole multiples from -8 to 7;
    `usual` where there is none. Quantizers that weigh errors leave blocks whose largest value is no -8."""
    found, largest, left = usual.copy(), usual * np.float32(-ZERO), np.arange(len(usual))
    for number in (-ZERO, *range(1, ZERO), *range(1 - ZERO, 0)):
        scales = (largest[left] / np.float32(number)).astype(np.float16).astype(np.float32)[:, None]
        numbers = np.rint(groups[left] / scales)
        held = ((numbers * scales == groups[left]) & (numbers >= -ZERO) & (numbers < ZERO)).all(axis=1)
        found[left[held]] = scales[held, 0]
        left = left[~held]
    return found


@_by_columns
def int4_values(weight: np.ndarray) -> np.ndarray:
    """[k, n] in units of its groups' scales, rounded half to even, plus ZERO: uint8 within 0..15."""
    groups, scales = _grouped(weight), int4_scales(weight)[:, None].astype(np.float16).astype(np.float32)
    numbers = np.rint(np.where(scales == 0, 0, groups / scales)) + ZERO
    return np.clip(numbers, 0, 15).astype(np.uint8).reshape(-1, weight.shape[1])[: len(weight)]


def _grouped(weight: np.ndarray) -> np.ndarray:
    """[k, n] -> [ceil(k / GROUP), GROUP, n], zeros past the last row."""
    return np.pad(weight, [(0, -len(weight) % GROUP), (0, 0)]).reshape(-1, GROUP, weight.shape[1])


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a weight [k, n] in few bits is made and stored: `values` [k, n] gives whole numbers of which `zero` means 0,
    of storage `dtype`, and `scales` float32 [`groups`(k), n], stored in `scale_dtype`. `define` is what kernels are
    built with."""

    name: str
    dtype: str
    scale_dtype: str
    define: str
    zero: int
    values: Made
    scales: Made
    groups: Callable[[int], int]


SCHEMES = {
    "i8": Scheme("int8", "i8", "f32", "W8", 0, int8_values, int8_scales, lambda k: 1),
    "i4": Scheme("int4", "u4x2", "f16", "W4", ZERO, int4_values, int4_scales, lambda k: -(-k // GROUP)),
}


def pays(k: int, n: int) -> bool:
    """Whether a weight [k, n] is worth it: large ones are, the first and the last convolutions of a picture are not."""
    return k >= ROWS and n >= COLUMNS and k * n >= ELEMENTS
