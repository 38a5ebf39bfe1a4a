"""The passes of a step on several devices, each on one: the halves of classifier-free guidance on two.

What a pass takes is small beside what it computes: latents go out and a prediction comes back, a few hundred kilobytes
a step. What was made before the loop goes over once. The first device does all that is not in passes.

Reference: ppdiffusers' batch parallelism of Stable Diffusion 3, which scatters the same halves and gathers predictions.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ondevice.plan.plan import Plan
from ondevice.run.device_value import DeviceValue, Input
from ondevice.run.source import Changed
from ondevice.run.turns import Moved, Turns, finished, together

FREE = 0  # passes of a plan that runs as many as are asked for


class Plans(Protocol):
    """What is asked of a bundle beside what a session asks."""

    def plan(self, component: str, **sizes: int) -> Plan: ...

    def port_zeros(self, component: str, sizes: Mapping[str, int], port: str) -> np.ndarray: ...


class OnOne(Protocol):
    """What runs a pass: a session (`ondevice.run.session.Session`), or several that compute one pass together."""

    def running(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> Turns[dict[str, np.ndarray]]: ...

    def running_on(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> Turns[dict[str, Any]]: ...

    def read(self, value: Any) -> np.ndarray: ...

    def put(self, array: np.ndarray) -> Any: ...

    def release(self, component: str) -> None: ...

    def release_all(self) -> None: ...

    def change_weights(self, changed: Changed | None) -> None: ...

    def stream_weights(self, nbytes: int | None) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
    """What the passes of a run made: of each a value, where that pass ran."""

    values: tuple[Any, ...]


class PassesApart:
    """A runner for a pipeline (`ondevice.diffusion.values.Runner`) on several others. Not for use by several threads at
    once. Where one device fails, or somebody presses Ctrl-C, the others are given up, too.

    Args:
        sessions: one for each device; the first runs all that is not a component of `parts`, too.
        parts: the components of the loop.
    """

    def __init__(self, bundle: Plans, sessions: Sequence[OnOne], parts: Collection[str]) -> None:
        self._bundle, self._sessions, self._parts = bundle, list(sessions), frozenset(parts)
        self._copies: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
        self.moved = Moved()

    @property
    def has_mended(self) -> bool:
        """Whether one of them computes something in float32 by now (`ondevice.run.guard.GuardedSession`)."""
        return any(getattr(session, "has_mended", False) for session in self._sessions)

    def plan_sizes(self, sizes: Mapping[str, Sequence[Mapping[str, int]]]) -> dict[str, list[Mapping[str, int]]]:
        """Of a bundle's plans by component, those that it runs: of the loop's, all that do one pass, for any number."""
        return {
            component: [one | {"batch": FREE} for one in map(dict, found) if one.get("batch") == 1]
            if component in self._parts
            else list(found)
            for component, found in sizes.items()
        }

    def zeros(self, component: str, sizes: Mapping[str, int], port: str) -> np.ndarray:
        """Zeros of the shape and dtype of a port of a plan for so many passes."""
        passes = sizes.get("batch", 1) if component in self._parts else 1
        one = {**sizes, "batch": 1} if passes > 1 else sizes
        return np.concatenate([self._bundle.port_zeros(component, one, port)] * passes)

    def run(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, np.ndarray]:
        """As `Session.run`, of several passes one on each device."""
        if not self._is_apart(component, sizes):
            return finished(self._sessions[0].running(component, inputs, **sizes))
        made = self._passes(component, inputs, sizes, lambda session: session.running)
        away = (one for number, one in enumerate(made) if number % len(self._sessions))
        self.moved.arrays += sum(array.nbytes for one in away for array in one.values())
        self.moved.runs += 1
        return {name: np.concatenate([one[name] for one in made]) for name in made[0]}

    def run_on(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, Any]:
        """As `Session.run_on`; what the passes make stays where they ran."""
        if not self._is_apart(component, sizes):
            return finished(self._sessions[0].running_on(component, inputs, **sizes))
        made = self._passes(component, inputs, sizes, lambda session: session.running_on)
        return {name: Apart(tuple(one[name] for one in made)) for name in made[0]}

    def _is_apart(self, component: str, sizes: Mapping[str, int]) -> bool:
        return component in self._parts and sizes.get("batch", 1) > 1

    def _passes(
        self,
        component: str,
        inputs: Mapping[str, Any],
        sizes: Mapping[str, int],
        runs: Callable[[OnOne], Callable[..., Turns[dict[str, Any]]]],
    ) -> list[dict[str, Any]]:
        """What each pass makes. As many run at once as there are devices."""
        passes, count = sizes["batch"], len(self._sessions)
        one = {**sizes, "batch": 1}
        plan = self._bundle.plan(component, **one)
        shapes = {plan.operands[index].name: plan.operands[index].shape for index in plan.inputs}
        made: list[dict[str, Any]] = []
        for first in range(0, passes, count):
            turns = []
            for number in range(first, min(first + count, passes)):
                given = {
                    port: self._given(value, shapes.get(port, ()), number, passes) for port, value in inputs.items()
                }
                turns.append(runs(self._sessions[number % count])(component, given, **one))
            made += finished(together(turns))
        return made

    def _given(self, value: Any, shape: tuple[int, ...], number: int, passes: int) -> Input:
        """What a pass is given of what all are given: the whole, where that is of one pass's `shape`."""
        place = number % len(self._sessions)
        if isinstance(value, Apart):
            given: Input = value.values[number]
            return given
        if isinstance(value, np.ndarray):
            part = value if value.shape == shape else np.split(value, passes)[number]
            self.moved.arrays += part.nbytes if place else 0
            return part
        if isinstance(value, DeviceValue):
            return self._copy(value, place, None if value.shape == shape else (number, passes))
        return self._copy(value[number], place)

    def _copy(self, value: Any, place: int, part: tuple[int, int] | None = None) -> Any:
        """A value of the first device on another, or a part of it; what went over once stays there."""
        if not place and part is None:
            return value
        copies = self._copies.setdefault(value, {})
        if (place, part) not in copies:
            array = self._sessions[0].read(value)
            array = array if part is None else np.split(array, part[1])[part[0]]
            copies[place, part] = self._sessions[place].put(array)
            self.moved.once += array.nbytes if place else 0
        return copies[place, part]

    def read(self, value: Any) -> np.ndarray:
        """A value as an array; what passes made one after another along the first dimension."""
        if not isinstance(value, Apart):
            return self._sessions[0].read(value)
        places = (number % len(self._sessions) for number in range(len(value.values)))
        return np.concatenate(
            [self._sessions[place].read(one) for place, one in zip(places, value.values, strict=True)]
        )

    def put(self, array: np.ndarray) -> Any:
        """As `Session.put`, on the first."""
        return self._sessions[0].put(array)

    def release(self, component: str) -> None:
        """As `Session.release`, on each."""
        for session in self._sessions:
            session.release(component)

    def release_all(self) -> None:
        """As `Session.release_all`, on each."""
        for session in self._sessions:
            session.release_all()

    def change_weights(self, changed: Changed | None) -> None:
        """As `Session.change_weights`, on each."""
        for session in self._sessions:
            session.change_weights(changed)

    def stream_weights(self, nbytes: int | None) -> None:
        """As `Session.stream_weights`, on each, through a window of its own."""
        for session in self._sessions:
            session.stream_weights(nbytes)
