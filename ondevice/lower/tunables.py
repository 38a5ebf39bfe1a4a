"""Tunables by shape: the target's measured files, most specific first, then its own table, then the kernel's header."""

from __future__ import annotations

from collections.abc import Mapping

from ondevice.errors import NoKernelError, PlanError
from ondevice.lower.kernel_file import KernelFile
from ondevice.target import Target
from ondevice.target.tuning import Tuning


def tunables(kernel: KernelFile, sizes: Mapping[str, int | float] | None, target: Target) -> tuple[dict[str, int], str]:
    """(a value for every tunable, where they come from) of a call.

    The first of the target's files that has the kernel decides; in it the row of these sizes, else the one of this
    weight, else the kernel's default. So what says how a weight is stored depends on the weight alone.

    Args:
        sizes: arguments and defines of the call by name; without any, the kernel's default.

    Raises:
        PlanError: a file has a tunable or a value that the kernel does not list, or one in the wrong kind of row.
    """
    base = target.tune.get(kernel.name, {})
    for tuning in target.tuning:
        if kernel.name in tuning.kernels:
            at = kernel.at(sizes or {})
            chosen, how = tuning.kernels[kernel.name].choice(at, kernel.weight_at(at))
            try:
                return kernel.tuning(sizes, **{**base, **chosen}), f"{tuning.name} {how}"
            except NoKernelError as error:
                raise _unfit(tuning, kernel, error.what) from None
    return kernel.tuning(sizes, **base), f"target {target.name}" if base else "the kernels' own"


def check_tuning(tuning: Tuning, kernels: Mapping[str, KernelFile]) -> None:
    """Every row of a file: what its kernel lists, and nothing that says how a weight is stored in a call's row.

    Raises:
        PlanError: names the first that does not fit.
    """
    for name, table in tuning.kernels.items():
        if (kernel := kernels.get(name)) is None:
            continue  # measured for a kernel that is no more
        for values in (table.default, *(row.use for row in (*table.weights, *table.shapes))):
            try:
                kernel.tuning(**values)
            except NoKernelError as error:
                raise _unfit(tuning, kernel, error.what) from None
        for row in table.shapes:
            if stored := sorted(set(row.use) & set(kernel.stored_by)):
                raise _unfit(
                    tuning,
                    kernel,
                    f"{stored} say how a weight is stored, so they stand in rows of `weight` (got {dict(row.at)}).",
                )


def _unfit(tuning: Tuning, kernel: KernelFile, what: str) -> PlanError:
    return PlanError(what, where=f"{tuning.name}.toml: kernel.{kernel.name}", fix="write it again with `ondevice tune`")
