"""int8 weights: one symmetric scale per column, float arithmetic. pack.py stores them so.

A kernel widens them as it loads, and scales the finished sum.
"""

from __future__ import annotations

import numpy as np

# What is smaller saves little and costs the most: the first convolutions of a picture (27 or 36 rows), the last (3
# or 4 columns).
ROWS, COLUMNS, ELEMENTS = 40, 16, 4096
LARGEST = 127  # -128 is left out, so that a weight and its negative are rounded alike


def scales_of(weight: np.ndarray) -> np.ndarray:
    """[k, n] -> float32 [n], at which a column's largest magnitude is 127; 1 for a column of zeros.

    NaN where a column is not finite: that is refused when it is written.
    """
    largest = np.abs(weight).max(axis=0).astype(np.float32)
    scales = np.where(np.isfinite(largest), largest, np.float32(np.nan)) / np.float32(LARGEST)
    return np.where(scales == 0, np.float32(1), scales)


def rounded(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[k, n] in units of its columns' scales, rounded half to even, int8 within -127..127."""
    with np.errstate(invalid="ignore"):  # not finite: the scales say so
        return np.clip(np.rint(weight / scales), -LARGEST, LARGEST).astype(np.int8)
