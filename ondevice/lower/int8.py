"""int8 weights: one symmetric scale a column, float arithmetic. A kernel widens them as it loads and scales the finished sum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ondevice.graph.verify import static_shape
from ondevice.lower.lowering import Lowering

# What is smaller saves little and costs the most: the first convolutions of a picture (27 or 36 rows), the last (3 or 4 columns).
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


def quantized(low: Lowering, value: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(int8 [k, n], float32 [1, n]) of a constant weight [k, n], made when the bundle is written."""
    values, (k, n), name = value.const_value, static_shape(value), str(value.name)
    assert values is not None, "callers ask for weights only"

    def lazily(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
        return lambda: make(values.numpy().astype(np.float32, copy=False))

    small = low.derived(f"{name}:int8", value, (k, n), lazily(lambda w: rounded(w, scales_of(w))), ir.DataType.INT8)
    return small, low.derived(f"{name}:scales", value, (1, n), lazily(lambda w: scales_of(w)[None]), ir.DataType.FLOAT)
