"""A session that looks at what each run gives, and knows what to do about NaN and infinity (docs/guards.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from ondevice.base.machine import available_memory
from ondevice.errors import NumericError, PlanError, StrictError
from ondevice.plan.plan import Plan
from ondevice.plan.widen import NARROW
from ondevice.run.check import is_finite
from ondevice.run.device import Device
from ondevice.run.device_value import DeviceValue, Input, given_to
from ondevice.run.islands import DOCTOR, LARGEST, Islands, Search
from ondevice.run.mended import Key, Mended, key_of
from ondevice.run.session import Session
from ondevice.run.source import Changed, Source
from ondevice.run.turns import Turns

log = logging.getLogger(__name__)
STOP, FP32 = ON_NAN = ("stop", "fp32")
SHOWN = 4  # islands that are listed
Made = TypeVar("Made", np.ndarray, DeviceValue)


class GuardedSession(Session):
    """A session that looks at the results of each run. Where one is not finite, the run is made again to find the first
    op whose result is not.

    Args:
        on_nan: STOP says so in an error; FP32 computes the ops around it in float32, from then on, and goes on.
        strict: make an error of that, too.
        profile, trace, check: as `Session` has them.

    Attributes:
        room: bytes that float32 may take beside what the plans take; None: what the machine has left.
    """

    def __init__(
        self,
        bundle: Source,
        device: Device,
        *,
        on_nan: str = STOP,
        strict: bool = False,
        profile: bool = False,
        trace: bool = False,
        check: bool = False,
    ) -> None:
        self._mended = Mended(bundle)
        super().__init__(self._mended, device, profile=profile, trace=trace, check=check)
        self._on_nan, self._strict = on_nan, strict
        self._islands: dict[Key, Islands] = {}
        self.room: int | None = None

    @property
    def has_mended(self) -> bool:
        """Whether something is computed in float32 by now: results have other last bits than those of a new session."""
        return bool(self._islands)

    def running(self, component: str, inputs: Mapping[str, Input], **sizes: int) -> Turns[dict[str, np.ndarray]]:
        """As `Session.running`.

        Raises:
            NumericError: a result is not finite, and nothing is done about it, or can be; names the first op.
            StrictError: with `strict`, something was to be done about it.
            PlanError: it needs more memory than there is room for.
        """
        begin = super().running
        return self._guarded(lambda: begin(component, inputs, **sizes), component, inputs, sizes)

    def running_on(self, component: str, inputs: Mapping[str, Input], **sizes: int) -> Turns[dict[str, DeviceValue]]:
        """As `Session.running_on`. Raises what `running` does."""
        begin = super().running_on
        return self._guarded(lambda: begin(component, inputs, **sizes), component, inputs, sizes)

    def change_weights(self, changed: Changed | None) -> None:
        """As `Session.change_weights`, of those in float32, too."""
        super().change_weights(changed)
        for shard in self._mended.change(changed):
            if self._shards.pop(shard, None) is not None and not self._facts["maps_weights"]:
                self._weight_bytes -= self._mended.weight(shard)[2]

    def _is_own(self, key: str) -> bool:
        return super()._is_own(key) or self._mended.is_made(key)

    def _guarded(
        self,
        begin: Callable[[], Turns[dict[str, Made]]],
        component: str,
        inputs: Mapping[str, Input],
        sizes: Mapping[str, int],
    ) -> Turns[dict[str, Made]]:
        try:
            made = yield from begin()
            if self._are_finite(made):
                return made
            self._look(component, inputs, sizes)
            return made  # infinities that came in
        except NumericError as error:
            if self._on_nan == STOP:
                raise
            self._mend(component, inputs, sizes, error)
        made = yield from begin()
        if not self._are_finite(made):
            self._look(component, inputs, sizes)
            raise NumericError("results are NaN or infinite in float32, too.", where=component, fix=DOCTOR)
        return made

    def _look(self, component: str, inputs: Mapping[str, Input], sizes: Mapping[str, int]) -> None:
        """Run it again and look at every result. Raises NumericError at the first that is not finite."""
        with self.profile.ignored():
            self.find(component, inputs, **sizes)

    def _are_finite(self, made: Mapping[str, np.ndarray | DeviceValue]) -> bool:
        arrays = (value if isinstance(value, np.ndarray) else self.read(value) for value in made.values())
        return all(array.dtype.kind != "f" or is_finite(array) for array in arrays)

    def _mend(self, component: str, inputs: Mapping[str, Input], sizes: Mapping[str, int], first: NumericError) -> None:
        """Have the plan compute in float32 what does not fit half in this run, beside what did not in earlier ones."""
        plan, key = self._mended.bundle.plan(component, **sizes), key_of(component, sizes)
        if all(operand.dtype != NARROW for operand in plan.operands):
            raise first
        known = self._islands.get(key, Islands(frozenset(), 0.0))
        arrays = {
            index: value if isinstance(value, np.ndarray) else np.concatenate([self.read(one) for one in value])
            for index, value in given_to(plan, inputs).items()
        }
        search = Search(
            self._device, plan, weight=self._mended.stored, program=self._program, kernels=self._mended.kernels(plan)
        )
        found = search.run(arrays, known.wide)
        if found.wide == known.wide:
            raise first  # the same dispatches are finite one by one
        made = self._mended.widened(component, sizes, found.wide)
        more = self._more(plan, made)
        said = f"{text(plan, made, found)}, {more / 1e6:,.1f} MB more"
        where = f"{component} {' '.join(f'{name}={size}' for name, size in plan.sizes.items())}".rstrip()
        if self._strict:
            fix = "convert with --dtype fp32, or leave --strict out"
            raise StrictError(f"half storage overflows ({first.where}): {said}", where=where, fix=fix)
        log.warning("%s: %s", first.where, first.what)
        log.warning("%s: %s", where, said)
        self._mended.mend(made)
        self._islands[key] = Islands(found.wide, max(found.largest, known.largest))

    def _more(self, plan: Plan, made: Plan) -> int:
        """Bytes that a mended plan takes beside what its plan does. Raises PlanError where there is no room."""
        own = {operand.weight for operand in plan.operands}
        weights = sum({x.weight: x.nbytes for x in made.operands if x.weight not in own}.values())
        more = max(made.arena - plan.arena, 0) + weights
        room = available_memory() if self.room is None and self._facts["maps_weights"] else self.room
        if room is not None and more > room:
            what = (
                f"computing in float32 what half storage does not hold takes {more / 1e6:,.1f} MB more (weights "
                f"{weights / 1e6:,.1f}), and {max(room, 0) / 1e6:,.1f} MB are left."
            )
            fix = "allow a larger --max-memory, or convert with --dtype fp32"
            raise PlanError(what, where=plan.component, fix=fix)
        return more


def text(plan: Plan, made: Plan, found: Islands) -> str:
    """What is in float32, for people: which islands, how many dispatches, and what they cost."""
    runs: list[list[int]] = []
    for number in sorted(found.wide):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [_island(plan, run) for run in runs[:SHOWN]] + [f"{len(runs) - SHOWN} more"] * (len(runs) > SHOWN)
    casts = len(made.dispatches) - len(plan.dispatches)
    moved, now = (sum(d.reads + d.writes for d in one.dispatches) for one in (plan, made))
    return (
        f"{len(found.wide)} of {len(plan.dispatches)} dispatches are in float32 from now on, as values go up to "
        f"{found.largest:.4g} and half holds {LARGEST:.0f}: {'; '.join(shown)}; {casts} conversions, "
        f"{now / 1e6:,.1f} MB moved instead of {moved / 1e6:,.1f}"
    )


def _island(plan: Plan, run: list[int]) -> str:
    first, last = plan.dispatches[run[0]], plan.dispatches[run[-1]]
    if len(run) == 1:
        return f"{run[0]} ({first.node}, {first.op})"
    return f"{run[0]} to {run[-1]} ({first.node}, {first.op}, to {last.node}, {last.op})"
