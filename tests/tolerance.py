"""How far a kernel may be from the reference. Derived, so nobody has to loosen a number to get green."""

from __future__ import annotations

import math

import numpy as np

EPS = {"f32": 2.0**-24, "f16": 2.0**-11}  # half the gap between neighbouring values near 1
TINY = {"f32": 2.0**-126, "f16": 2.0**-25}  # half the gap between the smallest values (f32: subnormals may be flushed)


def rtol(stored: str, terms: int = 1, math_eps: float = 4 * EPS["f32"]) -> float:
    """One rounding to `stored`, plus `terms` float32 accumulations whose errors add like a random walk."""
    return EPS[stored] + math.sqrt(terms) * math_eps


def bound(stored: str, want: np.ndarray, magnitude: np.ndarray | float, terms: int = 1) -> np.ndarray:
    """Absolute bound for sums: the result's own rounding, plus float32 accumulation over `terms` whose sizes add
    up to `magnitude`."""
    return (
        EPS[stored] * np.abs(want)
        + TINY[stored]
        + (rtol("f32", terms) + EPS["f32"]) * np.asarray(magnitude, np.float64)
    )


def in_half(terms: int, magnitude: np.ndarray | float) -> np.ndarray:
    """Absolute bound for at most `terms` products at a time that are multiplied and added in half: two roundings each,
    whose errors add like a random walk, of products whose sizes add up to `magnitude`."""
    return 2 * math.sqrt(terms) * EPS["f16"] * np.asarray(magnitude, np.float64) + terms * TINY["f16"]


def assert_close(got: np.ndarray, want: np.ndarray, bound: np.ndarray | float, what: str = "") -> None:
    """Fail unless |got - want| <= bound everywhere and both agree on NaN and infinities. `want` is float64."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=what)
    error = np.where(finite, np.abs(np.where(finite, got, 0.0) - np.where(finite, want, 0.0)), 0.0)
    bad = ~(error <= bound)  # catches NaN in `got` too
    if bad.any():
        power = float((want[finite] ** 2).mean()) or 1.0
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        relative = float(np.nanmax(error / np.maximum(np.abs(np.where(finite, want, 1.0)), 1e-30)))
        limit = float(np.broadcast_to(np.asarray(bound, np.float64), want.shape)[first])
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {bad.size} values are off; first at {first}: "
            f"got {got[first]!r}, expected {want[first]!r}, "
            f"bound {limit:.3g}; max abs {np.nanmax(error):.3g}, max rel {relative:.3g}, "
            f"NMSE {np.nanmean(error**2) / power:.3g}"
        )
