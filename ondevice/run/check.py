"""Looks for NaN and infinity after every dispatch and names the first op that made one:
the answer to "black picture" reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
Read = Callable[[int], np.ndarray]  # operand -> its values now


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


def check_results(plan: Plan, number: int, whole: Sequence[int], read: Read) -> None:
    """Check what dispatch `number` wrote.
    Infinity is let through where an input already held it: attention masks are -inf.

    Args:
        whole: what `results` gives for it.

    Raises:
        NumericError: names component, node, op, kernel, tensor, and the ranges of what went in and came out.
    """
    for index in whole:
        if plan.operands[index].dtype in WHOLE:
            continue
        values = read(index)
        if is_finite(values):
            continue
        inputs = inputs_of(plan, number, read)
        if lets_through(values, inputs):
            continue
        fix = (
            "draw with --on-nan fp32, or convert with --dtype fp32, where half storage overflows"
            if plan.operands[index].dtype == "f16"
            else "look for kernels that this device gets wrong with `ondevice doctor`"
        )
        raise odd_values(plan, number, index, values, inputs, fix=fix)


def is_finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite. A sum says so in one pass; only where finite values add up to infinity are
    they looked at one by one."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.add.reduce(values, axis=None, dtype=np.float32)) or np.isfinite(values).all())


def inputs_of(plan: Plan, number: int, read: Read) -> dict[str, np.ndarray]:
    """What a dispatch reads that could be infinite, by the tensors' names."""
    dispatch = plan.dispatches[number]
    split = len(dispatch.operands) - dispatch.outputs
    homes = dict.fromkeys(home(plan.operands, index) for index in dispatch.operands[:split])
    return {plan.operands[i].name: read(i) for i in homes if plan.operands[i].dtype not in WHOLE}


def lets_through(values: np.ndarray, inputs: Mapping[str, np.ndarray]) -> bool:
    """Whether values that are not finite are infinities, and one of the inputs has some."""
    return not np.isnan(values).any() and any(np.isinf(array).any() for array in inputs.values())


def odd_values(
    plan: Plan,
    number: int,
    index: int,
    values: np.ndarray,
    inputs: Mapping[str, np.ndarray],
    *,
    fix: str,
    stored: str = "",
) -> NumericError:
    """Says that dispatch `number` wrote `values`, which are not finite, to operand `index`, and what it had read;
    `stored`: in which other storage than the plan's."""
    dispatch = plan.dispatches[number]
    kernel, bad = plan.kernels[dispatch.kernel], ~np.isfinite(values)
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    came = "; ".join(f"{name} {_range(array)}" for name, array in inputs.items())
    return NumericError(
        f"{int(bad.sum())} of {values.size} values are NaN or infinite{stored}, "
        f"the first at {list(first)} ({values[first]}); "
        f"out: {plan.operands[index].name} {_range(values)}; in: {came or 'no numbers'}.",
        where=f"{plan.component}: dispatch {number}, {dispatch.node} ({dispatch.op}, {kernel.file}.cl)",
        fix=fix,
    )


def _range(values: np.ndarray) -> str:
    """Type, least and largest finite value, and how many are not finite."""
    finite = values[np.isfinite(values)]
    lowest, highest = (f"{finite.min():.4g}", f"{finite.max():.4g}") if finite.size else ("none", "none")
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    odd = f", {nan} NaN" * bool(nan) + f", {infinite} infinite" * bool(infinite)
    return f"{values.dtype} [{lowest} to {highest}{odd}]"
