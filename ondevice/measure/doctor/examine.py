"""Every distinct launch of a bundle on a device, against the same launch on a reference device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ondevice.errors import DeviceError, KernelBuildError, OnDeviceError
from ondevice.measure.doctor.content import FILLS
from ondevice.measure.doctor.launches import Launch
from ondevice.measure.doctor.runner import LaunchRunner
from ondevice.measure.doctor.verdict import Wrong, bound_of, compare

RIGHT, WRONG, REFUSED, UNKNOWN = "right", "wrong", "refused", "unknown"
Say = Callable[[int, int], None]


class Reference(Protocol):
    """What gives the results that are expected."""

    def run(self, launch: Launch, fill: str) -> list[np.ndarray]:
        """As `LaunchRunner.run`."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """A launch and what became of it. RIGHT; WRONG, with `wrong`; REFUSED, where the driver would not build or run it;
    UNKNOWN, where the reference would not. `why` says more in words."""

    launch: Launch
    verdict: str
    wrong: Wrong | None = None
    why: str = ""


def expected(reference: Reference, launch: Launch) -> tuple[str, list[np.ndarray]]:
    """(fill, results) of the first of FILLS by which all results are finite; else of the one with the most that are.

    A square root of a made-up number, or a quotient by one, has a meaning only where the number is above 0.
    """
    found: list[tuple[str, list[np.ndarray]]] = []
    for fill in FILLS:
        results = reference.run(launch, fill)
        if all(np.isfinite(one).all() for one in results):
            return fill, results
        found.append((fill, results))
    return max(found, key=lambda one: sum(int(np.isfinite(array).sum()) for array in one[1]))


def examine(
    found: Sequence[Launch], tested: LaunchRunner, reference: Reference, say: Say | None = None
) -> Iterator[Finding]:
    """A finding per launch, in order. Raises BundleError where the bundle is damaged."""
    for number, launch in enumerate(found):
        yield _finding(launch, tested, reference)
        if say:
            say(number + 1, len(found))


def _finding(launch: Launch, tested: LaunchRunner, reference: Reference) -> Finding:
    try:
        fill, want = expected(reference, launch)
    except (KernelBuildError, DeviceError) as error:
        return Finding(launch, UNKNOWN, why=_line(error))
    try:
        results = tested.run(launch, fill)
    except (KernelBuildError, DeviceError) as error:
        return Finding(launch, REFUSED, why=_line(error))
    for place, one, got in zip(launch.compared, want, results, strict=True):
        if wrong := compare(launch.operands[place].name, one, got, bound_of(launch, place)):
            return Finding(launch, WRONG, wrong, str(wrong))
    return Finding(launch, RIGHT)


def _line(error: OnDeviceError) -> str:
    return str(error).splitlines()[0]
