"""A bundle's kernels against those of this package:
whether they are the same, and if so whether a plan launches them as they are meant.

Kernels are programs. Of a stranger's nothing is known but how it is launched; a kernel whose text is this package's has
a header that says what its arguments mean.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

from ondevice.bundle import format as f
from ondevice.errors import BundleError
from ondevice.lower.bounds import Bounds, Launch
from ondevice.lower.kernel_file import KernelFile, kernel_paths
from ondevice.lower.prelude import DIALECTS, prelude
from ondevice.plan.plan import Dispatch, Plan

FOLDER = "kernels/"


def check_launches(plan: Plan, file: str, kernels: Mapping[str, str]) -> None:
    """Refuse launches of this package's kernels that would leave their operands, or never end.

    Args:
        kernels: sha256 of each kernel's text, by its name.

    Raises:
        BundleError: with the dispatch and what is wrong with it.
    """
    check = f.Checker(file)
    known = [_bounds(kernel.file, kernels[kernel.file]) for kernel in plan.kernels]
    for i, (bounds, kernel) in enumerate(zip(known, plan.kernels, strict=True)):
        if bounds and (unsaid := bounds.kernel.built_on(dict(kernel.defines)) - set(plan.needs)):
            check.fail(f"is {kernel.file}.cl built for {min(unsaid)}, which `needs` does not say", "kernels", i)
    for i, call in enumerate(plan.dispatches):
        if (bounds := known[call.kernel]) and (wrong := bounds.misuse(launch_of(plan, call))):
            check.fail(f"does not fit {plan.kernels[call.kernel].file}.cl: {wrong}", "dispatches", i)


def launch_of(plan: Plan, call: Dispatch) -> Launch:
    """A dispatch of a plan as `Bounds.misuse` takes it."""
    given = [plan.operands[k] for k in call.operands]
    return Launch(
        defines=dict(plan.kernels[call.kernel].defines),
        operands=[(operand.dtype, prod(operand.shape)) for operand in given],
        outputs=call.outputs,
        scalars=call.scalars,
        grid=call.grid,
        group=call.group,
        images={n: (x.shape[1], x.shape[0]) for n, x in enumerate(given) if x.view is not None},
    )


def check_ours(files: Iterable[tuple[str, str]]) -> None:
    """Refuse kernels and preludes that are not, byte for byte, those of this package.

    Args:
        files: path in the bundle and sha256 of each of its files.

    Raises:
        BundleError: with the first that differs.
    """
    for name, digest in files:
        if name.startswith(FOLDER) and digest != (own := _digest(name)):
            what = (
                "is no file of this ondevice"
                if own is None
                else f"is another than this ondevice's (sha256 {digest[:12]}, not {own[:12]})"
            )
            fix = "convert the checkpoint yourself, or leave `--kernels ours` out if you trust whoever wrote the bundle"
            raise BundleError(f"{what}.", where=name, fix=fix)


@functools.cache
def _digest(name: str) -> str | None:
    """sha256 of this package's kernel or prelude of that name, as a bundle has it."""
    stem, _, ending = name.removeprefix(FOLDER).partition(".")
    if ending == "h" and stem.removeprefix("prelude/") in DIALECTS:
        return hashlib.sha256(prelude(stem.removeprefix("prelude/")).encode()).hexdigest()
    if ending != "cl" or (path := _paths().get(stem)) is None:
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def _paths() -> dict[str, Path]:
    return kernel_paths()


@functools.cache
def _bounds(name: str, digest: str) -> Bounds | None:
    kernel = own_kernel(name, digest)
    return None if kernel is None else Bounds(kernel)


@functools.cache
def own_kernel(name: str, digest: str) -> KernelFile | None:
    """This package's kernel of this name, if its text has that sha256."""
    return KernelFile.read(_paths()[name]) if digest == _digest(f"{FOLDER}{name}.cl") else None
