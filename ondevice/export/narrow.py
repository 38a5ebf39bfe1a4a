"""Weights in fewer bits, rounded as those of our own bundles are."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ondevice.errors import GraphError
from ondevice.lower.quantize import int8_scales, int8_values, pays

BROKEN = "use another checkpoint: this one is broken"


def half(values: np.ndarray, where: str) -> np.ndarray:
    """Floats of any type in float16; an infinity stays, which is a mask.

    Raises:
        GraphError: at `where` is NaN, or a number that float16 cannot hold.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = values.astype(np.float16)
    bad = ~np.isfinite(rounded)
    if bad.any() and (bad := bad & ~np.isinf(values)).any():
        place = tuple(int(index[0]) for index in np.nonzero(bad))
        found = values[place]
        if found != found:
            raise GraphError(f"holds NaN at {list(place)}.", where=where, fix=BROKEN)
        what = f"holds {found} at {list(place)}, too large for float16 (expected -65504..65504)."
        raise GraphError(what, where=where, fix="convert with `--dtype fp32`")
    return rounded


def int8_saves(shape: Sequence[int], axis: int) -> bool:
    """Whether a weight of a product or a convolution is large enough for int8; `axis` is that of its outputs."""
    return pays(prod(shape) // shape[axis], shape[axis])


def int8(values: np.ndarray, axis: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(int8 values, their float32 scales [outputs]) of a weight; `axis` is that of its outputs.

    Raises:
        GraphError: a value at `where` is not finite.
    """
    by_output = np.moveaxis(values, axis, 0)
    matrix = by_output.reshape(len(by_output), -1).T.astype(np.float32, copy=False)
    scales = int8_scales(matrix)[0]
    if not (finite := np.isfinite(scales)).all():
        what = f"holds a value that is not finite, of output {int(np.argmin(finite))}."
        raise GraphError(what, where=where, fix=BROKEN)
    return np.moveaxis(int8_values(matrix).T.reshape(by_output.shape), 0, axis), scales
