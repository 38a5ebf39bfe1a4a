"""One network on several devices: each, a rank, has plans of its own with a share of the weights. What is a part of a
sum in all of them goes through the host's memory to all others, and each adds up in the order of the ranks, in float32,
so that all go on with the same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ondevice.errors import BundleError
from ondevice.graph.ranks import Rank, component_of
from ondevice.plan.plan import Dispatch, Kernel
from ondevice.run.check import NUMPY
from ondevice.run.device import Device
from ondevice.run.session import Session
from ondevice.run.source import Changed, Source
from ondevice.run.turns import Moved, Part, Turns, finished, meanwhile

SUM_KERNEL = "sum_ranks"


class Components(Protocol):
    """What is asked of a bundle beside what a session asks."""

    @property
    def components(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Everywhere:
    """A value that each rank has."""

    values: tuple[Any, ...]


class Share(Session):
    """A session that runs a rank's share of networks: who runs all ranks gives it the others' parts of sums."""

    def __init__(self, bundle: Source, device: Device, rank: Rank, *, check: bool = False) -> None:
        super().__init__(bundle, device, check=check)
        self._rank, self._others, self._others_bytes = rank, None, 0

    def _instead(self, bound: Any, number: int) -> Turns[None] | None:
        dispatch = bound.plan.dispatches[number]
        if bound.plan.kernels[dispatch.kernel].file != SUM_KERNEL:
            return None
        return self._sum(bound, dispatch)

    def _sum(self, bound: Any, dispatch: Dispatch) -> Turns[None]:
        own, *_, result = dispatch.operands
        operand = bound.plan.operands[own]
        begun = self._device.reading(bound.buffers[own], operand.shape, NUMPY[operand.dtype])
        part = Part((yield from meanwhile(begun)))  # the others come as far
        yield part
        assert part.others is not None, "who runs a share gives it the others' parts"
        given = part.others[0] if len(part.others) == 1 else np.concatenate([one.reshape(-1) for one in part.others])
        if given.nbytes > self._others_bytes:
            self._others = None  # before the larger one is there
            self._others = self._device.alloc(given.nbytes, f"{bound.plan.component}: parts of other devices")
            self._others_bytes = given.nbytes
        self._device.give(self._others, given)
        known = bound.plan.kernels[dispatch.kernel]
        defines = dict(known.defines) | {"OTHERS": len(part.others), "BEFORE": self._rank.number}
        program = self._program(Kernel(known.file, tuple(sorted(defines.items()))))
        buffers = [bound.buffers[own], self._others, bound.buffers[result]]
        kernel = self._device.bind(program, buffers, dispatch.scalars, f"{dispatch.node} ({dispatch.op})")
        self._device.launch(kernel, dispatch.grid, dispatch.group)


class Ranks:
    """A runner for a pipeline (`ondevice.diffusion.values.Runner`) on several sessions. Not for use by several threads
    at once. Where one device fails, or somebody presses Ctrl-C, the others are given up, too.

    Args:
        sessions: one for each rank; the first runs all that is not a component of `parts`, too.
        parts: the components of the loop: each rank runs its share, where the bundle has such plans, else the whole.
    """

    has_mended = False  # what half storage does not hold is said, and ends the picture

    def __init__(self, bundle: Components, sessions: Sequence[Share], parts: Collection[str]) -> None:
        self._bundle, self._sessions, self._parts = bundle, list(sessions), frozenset(parts)
        self._copies: weakref.WeakKeyDictionary[Any, dict[int, Any]] = weakref.WeakKeyDictionary()
        self.moved = Moved()

    def running(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> Turns[dict[str, np.ndarray]]:
        """As `Session.running`: what the first rank gives, as all give the same."""
        if component not in self._parts:
            return self._sessions[0].running(component, self._given(inputs, 0), **sizes)
        return self._first(component, inputs, sizes)

    def _first(
        self, component: str, inputs: Mapping[str, Any], sizes: Mapping[str, int]
    ) -> Turns[dict[str, np.ndarray]]:
        made = yield from self._each(
            component, inputs, sizes, lambda number, session: session.running_on if number else session.running
        )
        self.moved.runs += 1
        first: dict[str, np.ndarray] = made[0]
        return first

    def running_on(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> Turns[dict[str, Any]]:
        """As `Session.running_on`; of a component of the loop each rank keeps what it made."""
        if component not in self._parts:
            return self._sessions[0].running_on(component, self._given(inputs, 0), **sizes)
        return self._everywhere(component, inputs, sizes)

    def _everywhere(self, component: str, inputs: Mapping[str, Any], sizes: Mapping[str, int]) -> Turns[dict[str, Any]]:
        made = yield from self._each(component, inputs, sizes, lambda _, session: session.running_on)
        return {name: Everywhere(tuple(one[name] for one in made)) for name in made[0]}

    def _each(
        self,
        component: str,
        inputs: Mapping[str, Any],
        sizes: Mapping[str, int],
        runs: Callable[[int, Share], Callable[..., Turns[dict[str, Any]]]],
    ) -> Turns[list[dict[str, Any]]]:
        """What each rank makes of its share of a component, which end their sums together."""
        of, turns = len(self._sessions), []
        for number, session in enumerate(self._sessions):
            share = component_of(component, Rank(number, of))
            name = share if share in self._bundle.components else component
            turns.append(runs(number, session)(name, self._given(inputs, number), **sizes))
        made: dict[int, dict[str, Any]] = {}
        waiting: dict[int, Part] = {}
        try:
            while len(made) < of:
                for number, turn in enumerate(turns):
                    if number in made or number in waiting:
                        continue
                    try:
                        part = next(turn)
                    except StopIteration as end:
                        made[number] = end.value
                        continue
                    if part is not None:
                        waiting[number] = part
                if waiting and len(waiting) + len(made) == of:
                    self._sum(component, [waiting.get(number) for number in range(of)])
                    waiting.clear()
                yield None
            return [made[number] for number in range(of)]
        finally:
            for turn in turns:
                turn.close()

    def _sum(self, component: str, parts: Sequence[Part | None]) -> None:
        """End a sum that all ranks have come to. Raises BundleError where their plans do not go together."""
        known = [part for part in parts if part is not None]
        # one may see a picture where another, which adds less to it, sees its pixels
        if len(known) < len(parts) or len({(part.values.size, part.values.dtype) for part in known}) > 1:
            what = f"the ranks' plans of {component} do not have the same sums."
            raise BundleError(what, where=component, fix="convert the checkpoint again")
        for number, part in enumerate(known):
            part.others = [other.values for place, other in enumerate(known) if place != number]
        self.moved.sums += known[0].values.nbytes * len(parts) ** 2  # each gives one, and gets all others

    def _given(self, inputs: Mapping[str, Any], number: int) -> dict[str, Any]:
        """What a rank is given of what all are given."""

        def on(value: Any) -> Any:
            if isinstance(value, Everywhere):
                return value.values[number]
            if isinstance(value, np.ndarray):
                self.moved.arrays += value.nbytes if number else 0
                return value
            return [on(one) for one in value] if isinstance(value, Sequence) else self._copy(value, number)

        return {port: on(value) for port, value in inputs.items()}

    def _copy(self, value: Any, number: int) -> Any:
        """A value of the first rank on another; what went over once stays there."""
        if not number:
            return value
        copies = self._copies.setdefault(value, {})
        if number not in copies:
            array = self._sessions[0].read(value)
            copies[number] = self._sessions[number].put(array)
            self.moved.once += array.nbytes
        return copies[number]

    def run(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, np.ndarray]:
        """As `Session.run`."""
        return finished(self.running(component, inputs, **sizes))

    def run_on(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, Any]:
        """As `Session.run_on`."""
        return finished(self.running_on(component, inputs, **sizes))

    def read(self, value: Any) -> np.ndarray:
        """As `Session.read`, of the first rank's."""
        return self._sessions[0].read(value.values[0] if isinstance(value, Everywhere) else value)

    def put(self, array: np.ndarray) -> Any:
        """As `Session.put`, on the first."""
        return self._sessions[0].put(array)

    def release(self, component: str) -> None:
        """As `Session.release`, on each, of its share."""
        for number, session in enumerate(self._sessions):
            session.release(component)
            session.release(component_of(component, Rank(number, len(self._sessions))))

    def release_all(self) -> None:
        """As `Session.release_all`, on each."""
        for session in self._sessions:
            session.release_all()

    def change_weights(self, changed: Changed | None) -> None:
        """As `Session.change_weights`, on each, of its share."""
        for session in self._sessions:
            session.change_weights(changed)

    def stream_weights(self, nbytes: int | None) -> None:
        """As `Session.stream_weights`, on each, through a window of its own."""
        for session in self._sessions:
            session.stream_weights(nbytes)
