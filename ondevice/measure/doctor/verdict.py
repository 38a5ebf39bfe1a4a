"""Whether a result is the one that was expected, but for the order of its sums: bounds that follow from how it is
stored and from how many numbers it sums (docs/doctor.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ondevice.lower.program import MATH_EPS, math_of
from ondevice.measure.doctor.launches import Launch
from ondevice.run.check import WHOLE
from ondevice.target import FP32

EPS = {"f32": 2.0**-24, "f16": 2.0**-11}  # half the gap between neighbouring values near 1
LEAST = {"f32": 2.0**-126, "f16": 2.0**-24}  # values below it may be flushed, or are a step of half's
SUMS = 8  # times the error of a sum in float32 that adds up like a random walk: a driver's exp or sqrt has a few ulp
MULTIPLIED = 4  # times the rounding of a product's operands, of the largest sum of them
PART = 128  # products at most that a kernel adds in half before they go to a sum in float32


@dataclass(frozen=True, slots=True)
class Bound:
    """How far a value may be from an expected one: `relative` of the value, `scaled` of the result's largest, and
    `least`."""

    relative: float
    scaled: float
    least: float

    def at(self, size: np.ndarray | float, largest: float) -> np.ndarray:
        """Of values of this size, in a result whose largest finite one is `largest`. float64."""
        return np.asarray(self.relative * np.abs(size) + self.scaled * largest + self.least, np.float64)


def bound_of(launch: Launch, place: int) -> Bound:
    """Of what a launch writes at one of its places."""
    dtype, terms = launch.operands[place].dtype, launch.terms
    if dtype in WHOLE:
        return Bound(0.0, 0.0, 0.0)
    scaled = SUMS * math.sqrt(terms) * EPS["f32"]
    if dict(launch.kernel.defines).get("HALF"):
        scaled += 2 * math.sqrt(min(terms, PART)) * EPS["f16"]
    if (multiplied := math_of(launch.kernel.defines)) != FP32:
        scaled += MULTIPLIED * MATH_EPS[multiplied]  # operands are rounded, and sums of them as large as their errors'
    return Bound(2 * EPS[dtype], scaled, LEAST[dtype])


@dataclass(frozen=True, slots=True)
class Wrong:
    """How a result is wrong: `count` of `total` values are out of their bounds, or finite where they must not be or the
    other way round; the worst of them is at `index`. `nan` counts values that are not finite and should be."""

    tensor: str
    count: int
    total: int
    nan: int
    index: tuple[int, ...]
    got: float
    expected: float
    bound: float

    def __str__(self) -> str:
        nan = f", {self.nan:,} of them NaN or infinite" if self.nan else ""
        at = list(self.index)
        return (
            f"{self.count:,} of {self.total:,} values of {self.tensor} are wrong{nan}; the worst at {at} is "
            f"{self.got:.6g} (expected {self.expected:.6g}, at most {self.bound:.2g} off)"
        )


def compare(tensor: str, expected: np.ndarray, got: np.ndarray, bound: Bound) -> Wrong | None:
    """None where `got` is `expected`; both of one shape and dtype."""
    want, have = expected.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(want)
    largest = float(np.abs(want[finite]).max(initial=0.0))
    limits = np.where(finite, bound.at(np.where(finite, want, 0.0), largest), 0.0)
    with np.errstate(invalid="ignore"):
        error = np.where(finite, np.abs(have - want), np.where(_alike(want, have), 0.0, np.inf))
    error = np.where(np.isnan(error), np.inf, error)
    bad = error > limits
    if not bad.any():
        return None
    worst = int(np.argmax(np.where(bad, error - limits, -1.0)))
    index = tuple(int(one) for one in np.unravel_index(worst, expected.shape))
    nan = int((finite & ~np.isfinite(have)).sum())
    count = int(bad.sum())
    return Wrong(tensor, count, expected.size, nan, index, float(have[index]), float(want[index]), float(limits[index]))


def _alike(want: np.ndarray, have: np.ndarray) -> np.ndarray:
    """Where both are NaN, or the same infinity."""
    return (want == have) | (np.isnan(want) & np.isnan(have))
