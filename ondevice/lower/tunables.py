"""Tunables by shape: the target's measured files, most specific first, then its own table, then the kernel's header;
smaller ones where those would exceed the target's limits."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from ondevice.errors import NoKernelError, PlanError
from ondevice.lower.expression import evaluate
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.local_memory import local_bytes
from ondevice.lower.program import USES
from ondevice.target import Target
from ondevice.target.tuning import NOT_SAID, Tuning


class Tuned(NamedTuple):
    """A value for every tunable of a call, where they come from, and why some are smaller than those ("": none is)."""

    values: dict[str, int]
    source: str
    cut: str = ""


def tunables(kernel: KernelFile, sizes: Mapping[str, int | float] | None, target: Target) -> Tuned:
    """The tunables of a call.

    The first of the target's files that has the kernel decides; in it the row of these sizes, else the one of this
    weight, else its default for calls with these defines of the header's `with`, else what the header and the target's
    table have. So what says how a weight is stored depends on the weight alone. Where a launch would exceed the
    target's limits, others are made smaller as far as that helps.

    Args:
        sizes: arguments and defines of the call by name; without any, the kernel's default.

    Raises:
        PlanError: a file has a tunable or a value that the kernel does not list, or one in the wrong kind of row.
    """
    tuned = _asked_for(kernel, sizes, target)
    given = whole_numbers(sizes or {})
    reason = over_limits(kernel, {**given, **tuned.values}, target)
    if reason is None:
        return tuned
    values = _smaller(kernel, tuned.values, given, target)
    changed = ", ".join(f"{name}={value}" for name, value in values.items() if value != tuned.values[name])
    return Tuned(values, tuned.source, f"{reason}; made smaller: {changed or 'nothing'}")


def over_limits(kernel: KernelFile, defines: Mapping[str, int], target: Target) -> str | None:
    """Why a kernel that is built with these defines exceeds the target's limits; None where it does not,
    or where they do not say yet."""
    group, local = _takes(kernel, defines, target)
    return target.limits.refuses_group(group) or target.limits.refuses_local(local)


def whole_numbers(sizes: Mapping[str, int | float]) -> dict[str, int]:
    """Those of a call's sizes that defines may be."""
    return {name: size for name, size in sizes.items() if isinstance(size, int)}


def used(kernel: KernelFile, target: Target, half: bool) -> dict[str, int]:
    """The defines of what a kernel takes advantage of on a target: of half arithmetic only where storage is half, too;
    of images, which depend on the operands, none."""
    return {
        define: 1
        for cap, define in USES.items()
        if cap in kernel.uses and cap in target.caps and (half or cap != "half")
    }


def _takes(kernel: KernelFile, defines: Mapping[str, int], target: Target) -> tuple[list[int], int]:
    """(work-group, bytes of local memory, 0 where the defines do not say)."""
    group = [evaluate(text, defines) for text in kernel.header["group"]]
    taken = {**used(kernel, target, bool(defines.get("F16"))), **defines}
    return group, local_bytes(kernel.text, taken) or 0


def _smaller(kernel: KernelFile, values: Mapping[str, int], given: Mapping[str, int], target: Target) -> dict[str, int]:
    """Tunables that keep to the limits, if any do: one after the other takes its next smaller value, of those that
    lower what is over the one that leaves the largest group. What says how a weight is stored stays."""
    tune, limits, smaller = kernel.header["tune"], target.limits, dict(values)

    def over(tried: Mapping[str, int]) -> float:
        group, local = _takes(kernel, {**given, **tried}, target)
        excess = (prod(group) / (limits.work_group or prod(group)), local / (limits.local_memory or max(local, 1)))
        return sum(max(part, 1) for part in excess)

    while over_limits(kernel, {**given, **smaller}, target):
        steps = [
            smaller | {name: max(lower)}
            for name in tune
            if name not in kernel.stored_by and (lower := [value for value in tune[name] if value < smaller[name]])
        ]
        helpful = [step for step in steps if over(step) < over(smaller)]
        if not helpful:
            break
        smaller = max(helpful, key=lambda step: prod(_takes(kernel, {**given, **step}, target)[0]))
    return smaller


def _asked_for(kernel: KernelFile, sizes: Mapping[str, int | float] | None, target: Target) -> Tuned:
    base = target.tune.get(kernel.name, {})
    for tuning in target.tuning:
        if kernel.name in tuning.kernels:
            at = kernel.at(sizes or {})
            chosen, how = tuning.kernels[kernel.name].choice(at, kernel.weight_at(at), kernel.variant(at))
            if how == NOT_SAID:
                break
            try:
                return Tuned(kernel.tuning(sizes, **{**base, **chosen}), f"{tuning.name} {how}")
            except NoKernelError as error:
                raise _unfit(tuning, kernel, error.what) from None
    return Tuned(kernel.tuning(sizes, **base), f"target {target.name}" if base else "the kernels' own")


def check_tuning(tuning: Tuning, kernels: Mapping[str, KernelFile]) -> None:
    """Every row of a file: what its kernel lists, defines of its header's `with` where others go by those, and nothing
    that says how a weight is stored in a call's row.

    Raises:
        PlanError: names the first that does not fit.
    """
    for name, table in tuning.kernels.items():
        if (kernel := kernels.get(name)) is None:
            continue  # measured for a kernel that is no more
        for values in (table.default, *(row.use for row in (*table.variants, *table.weights, *table.shapes))):
            try:
                kernel.tuning(**values)
            except NoKernelError as error:
                raise _unfit(tuning, kernel, error.what) from None
        for row in table.variants:
            if not row.at or kernel.variant(row.at) != row.at:
                known = ", ".join(kernel.header.get("with", {})) or "none"
                what = f"a row of `with` goes by defines of the header's (got {dict(row.at)}, expected of {known})."
                raise _unfit(tuning, kernel, what)
        for row in table.shapes:
            if stored := sorted(set(row.use) & set(kernel.stored_by)):
                raise _unfit(
                    tuning,
                    kernel,
                    f"{stored} say how a weight is stored, so they stand in rows of `weight` (got {dict(row.at)}).",
                )


def _unfit(tuning: Tuning, kernel: KernelFile, what: str) -> PlanError:
    return PlanError(what, where=f"{tuning.name}.toml: kernel.{kernel.name}", fix="write it again with `ondevice tune`")
