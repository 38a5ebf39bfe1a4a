"""Looks for NaN and infinity after every dispatch and names the first op that made one:
the answer to "black picture" reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ondevice.errors import NumericError
from ondevice.plan.inplace import DEFINE as INPLACE
from ondevice.plan.plan import Plan, home

NUMPY: dict[str, np.dtype] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "i32": np.dtype(np.int32),
    "i8": np.dtype(np.int8),
    "u4x2": np.dtype(np.uint8),  # a pair per byte
}
WHOLE = ("i32", "i8", "u4x2")  # neither NaN nor infinity is among these


def results(plan: Plan) -> list[tuple[int, ...]]:
    """For each dispatch the operands that are whole once it has run: the next to use them, if any, reads them.

    A Concat is written in parts, so its result is whole after the last one. A dispatch that works in place reads what
    it overwrites. What nobody reads is left out: a kernel's own scratch may hold anything.
    """
    whole: list[tuple[int, ...]] = []
    read_next: dict[int, bool] = {}
    for d in reversed(plan.dispatches):
        split = len(d.operands) - d.outputs
        written, inside = d.operands[split:], dict(plan.kernels[d.kernel].defines).get(INPLACE, 0)
        read = (home(plan.operands, index) for index in d.operands[:split])
        whole.append(tuple(index for index in written if read_next.get(index, index in plan.outputs)))
        read_next |= dict.fromkeys(written, bool(inside)) | dict.fromkeys(read, True)
    return whole[::-1]


def check_results(plan: Plan, number: int, whole: Sequence[int], read: Callable[[int], np.ndarray]) -> None:
    """Check what dispatch `number` wrote.
    Infinity is let through where an input already held it: attention masks are -inf.

    Args:
        whole: what `results` gives for it.
        read: operand index -> its values now.

    Raises:
        NumericError: names component, node, op, kernel, tensor, and the ranges of what went in and came out.
    """
    dispatch = plan.dispatches[number]
    split = len(dispatch.operands) - dispatch.outputs
    for index in whole:
        if plan.operands[index].dtype in WHOLE:
            continue
        values = read(index)
        bad = ~np.isfinite(values)
        if not bad.any():
            continue
        inputs = {
            plan.operands[i].name: read(i)
            for i in dict.fromkeys(home(plan.operands, index) for index in dispatch.operands[:split])
            if plan.operands[i].dtype not in WHOLE
        }
        if not np.isnan(values).any() and any(np.isinf(array).any() for array in inputs.values()):
            continue
        kernel, operand = plan.kernels[dispatch.kernel], plan.operands[index]
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        came = "; ".join(f"{name} {_range(array)}" for name, array in inputs.items())
        raise NumericError(
            f"{int(bad.sum())} of {values.size} values are NaN or infinite, "
            f"the first at {list(first)} ({values[first]}); "
            f"out: {operand.name} {_range(values)}; in: {came or 'no numbers'}.",
            where=f"{plan.component}: {dispatch.node} ({dispatch.op}, {kernel.file}.cl)",
            fix="convert with --dtype fp32 to see whether half storage overflows"
            if operand.dtype == "f16"
            else "run the same bundle on another --device to see whether the driver is at fault",
        )


def _range(values: np.ndarray) -> str:
    """Type, least and largest finite value, and how many are not finite."""
    finite = values[np.isfinite(values)]
    lowest, highest = (f"{finite.min():.4g}", f"{finite.max():.4g}") if finite.size else ("none", "none")
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    odd = f", {nan} NaN" * bool(nan) + f", {infinite} infinite" * bool(infinite)
    return f"{values.dtype} [{lowest} to {highest}{odd}]"
