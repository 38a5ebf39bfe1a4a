"""Replay: a bundle's plans on a device. Binds once, then only writes inputs, launches and reads outputs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ondevice.errors import DeviceError, OnDeviceError
from ondevice.lower.prelude import missing
from ondevice.plan.blocks import Streaming, Window, window_of
from ondevice.plan.plan import Kernel, Operand, Plan
from ondevice.run.check import NUMPY, check_results, results
from ondevice.run.device import Device
from ondevice.run.device_value import DeviceValue, Input, given_to
from ondevice.run.profile import Profile
from ondevice.run.source import Changed, Source
from ondevice.run.streaming import Streamed, Weights
from ondevice.run.turns import Turns, finished, meanwhile
from ondevice.target import CAPABILITIES

log = logging.getLogger(__name__)

# launches between two waits: enough to hide an enqueue, few enough that Ctrl-C is not heard minutes later
IN_FLIGHT = 16
Taken = TypeVar("Taken")
GRACE = 3.0  # seconds that launches in flight have after Ctrl-C


@dataclass(slots=True)
class _Bound:
    """A plan with its buffers and kernels."""

    plan: Plan
    buffers: list[Any]
    launches: list[Any]
    streamed: Streamed | None


class Session:
    """Runs the components of one bundle on one device. Not for use by several threads at once.

    One arena serves every plan and grows to the largest in use; weights are uploaded when a plan first needs them and
    shared by all plans; kernels are built once. After an error or Ctrl-C nothing runs on the device, and the session
    can be used again; but a kernel that has not ended GRACE seconds after Ctrl-C is left running, and what is asked of
    the device waits behind it.

    Args:
        profile: keep a time for every dispatch in `self.profile`.
        trace: keep there, too, when each launch began and ended.
        check: read every result back and stop at the first NaN or infinity (slow).
    """

    def __init__(
        self, bundle: Source, device: Device, *, profile: bool = False, trace: bool = False, check: bool = False
    ) -> None:
        self._bundle, self._device, self._profiling, self._check = bundle, device, profile or trace, check
        self._facts = device.facts()
        self.profile = Profile(self._facts, launches=[] if trace else None)
        self._programs: dict[Kernel, Any] = {}
        self._shards: dict[str, Any] = {}
        self._weights: dict[str, Any] = {}
        self._users: dict[str, set[str]] = {}  # shard -> the components that read it
        self._weight_bytes = 0  # of the device's own memory
        self._changed: Changed | None = None
        self._own: dict[str, Any] = {}  # buffers of changed weights
        self._filled: set[str] = set()  # those of them that hold what `_changed` says
        self._streaming: Weights | None = None
        self._bound: dict[tuple[Any, ...], _Bound] = {}
        self._arena: Any = None
        self._arena_bytes = 0

    def run(self, component: str, inputs: Mapping[str, Input], **sizes: int) -> dict[str, np.ndarray]:
        """Run one plan and read all that it makes.

        Args:
            inputs: by the plan's input names and in its shapes: arrays, float32 or int32; what `run_on` or `put`
                left on the device; or several of the latter, which are joined along the first dimension.
            sizes: which plan: batch, and height and width in latent units.

        Returns:
            Arrays by the plan's output names.

        Raises:
            BundleError: the bundle has no such plan.
            UsageError: an input is missing, unknown, or has another shape or type.
            KernelBuildError, DeviceError: the driver failed, or the plan does not fit the device's memory.
            NumericError: with `check`, the first result that is not finite.
        """
        return finished(self.running(component, inputs, **sizes))

    def running(self, component: str, inputs: Mapping[str, Input], **sizes: int) -> Turns[dict[str, np.ndarray]]:
        """`run` in turns, between which other sessions' devices get work."""
        return self._run(component, inputs, sizes, self._read)

    def run_on(self, component: str, inputs: Mapping[str, Input], **sizes: int) -> dict[str, DeviceValue]:
        """Run one plan; what it makes stays on the device, in memory of its own. Otherwise as `run`."""
        return finished(self.running_on(component, inputs, **sizes))

    def running_on(self, component: str, inputs: Mapping[str, Input], **sizes: int) -> Turns[dict[str, DeviceValue]]:
        """`run_on` in turns."""
        return self._run(component, inputs, sizes, self._kept)

    def find(self, component: str, inputs: Mapping[str, Input], **sizes: int) -> None:
        """Run one plan and look at every result. Raises NumericError at the first that is not finite, else as `run`."""
        finished(self._run(component, inputs, sizes, lambda bound, index: None, check=True))

    def put(self, array: np.ndarray) -> DeviceValue:
        """A float32 or int32 array on the device. Raises DeviceError."""
        dtype = next(name for name, stored in NUMPY.items() if stored == array.dtype)
        buffer = self._device.alloc(array.nbytes, "a value")
        self._device.write(buffer, np.ascontiguousarray(array))
        return DeviceValue(buffer, dtype, array.shape)

    def read(self, value: DeviceValue) -> np.ndarray:
        """Wait for all work, then copy a value out. Raises DeviceError."""
        return self._device.read(value.buffer, value.shape, NUMPY[value.dtype])

    def change_weights(self, changed: Changed | None) -> None:
        """Run with these weights from now on; None: with the bundle's own, which lie where they were.

        What is changed gets memory of its own, and is made when a plan that reads it first runs. So it is never half
        changed: what an error or Ctrl-C interrupts is made again by the next run.
        """
        if changed == self._changed:
            return
        self._device.finish()
        for made in (self._bound, self._weights, self._filled):
            made.clear()
        self._changed = changed
        for key in self._own.keys() - set(changed.keys if changed else ()):
            self._drop(key)

    def stream_weights(self, nbytes: int | None) -> None:
        """Load weights a block at a time from now on, through a window of at most so many bytes, 0: as many as the plan
        takes to run on meanwhile; None: whole. Results are the same. Weights that are changed, or computed with in
        float32, have memory of their own all the same."""
        now = None if self._streaming is None else self._streaming.how.nbytes
        if nbytes != now:
            self.release_all()
            how = None if nbytes is None else Streaming(nbytes, bool(self._facts["maps_weights"]))
            self._streaming = None if how is None else Weights(self._bundle, self._device, how)

    @property
    def streamed_bytes(self) -> int:
        """The most bytes of streamed weights that were loaded at a time."""
        return 0 if self._streaming is None else self._streaming.most

    def _run(
        self,
        component: str,
        inputs: Mapping[str, Input],
        sizes: Mapping[str, int],
        take: Callable[[_Bound, int], Taken],
        check: bool = False,
    ) -> Turns[dict[str, Taken]]:
        plan = self._bundle.plan(component, **sizes)
        ready = given_to(plan, inputs)
        bound = self._bind(plan, (component, *sorted(sizes.items())))
        try:
            for index, given in ready.items():
                self._write(bound.buffers[index], given)
            yield from self._launch(bound, check or self._check)
            return {plan.operands[i].name: take(bound, i) for i in plan.outputs}
        except Exception:
            with contextlib.suppress(OnDeviceError):  # what is raised already says more
                self._device.finish()
            raise
        except BaseException:
            # Ctrl-C, or another device failed in its turn: work in flight cannot be called back, but a kernel that
            # never ends is not waited for
            if not self._device.settle(GRACE):
                log.warning(
                    "%s still runs a kernel of %s that does not end; it is left alone", self._device.name, component
                )
            raise

    def _write(self, buffer: Any, given: np.ndarray | Sequence[DeviceValue]) -> None:
        if isinstance(given, np.ndarray):
            self._device.write(buffer, given)
            return
        offset = 0
        for value in given:
            self._device.copy(value.buffer, buffer, value.nbytes, offset)
            offset += value.nbytes

    def _kept(self, bound: _Bound, index: int) -> DeviceValue:
        operand = bound.plan.operands[index]
        buffer = self._device.alloc(operand.nbytes, f"{bound.plan.component}: {operand.name}")
        self._device.copy(bound.buffers[index], buffer, operand.nbytes)
        return DeviceValue(buffer, operand.dtype, operand.shape)

    def release(self, component: str) -> None:
        """Give back the arena, and the weights that no other component has used.
        What is needed again is loaded again."""
        self._device.finish()
        self._bound.clear()
        self._arena, self._arena_bytes = None, 0
        if self._streaming is not None:
            self._streaming.release()
        for shard in [name for name, users in self._users.items() if users == {component}]:
            self._users.pop(shard)
            self._weights = {
                key: buffer for key, buffer in self._weights.items() if self._bundle.weight(key)[0] != shard
            }
            if self._shards.pop(shard, None) is not None and not self._facts["maps_weights"]:
                self._weight_bytes -= self._bundle.shard(shard).nbytes
            self._bundle.unmap(shard)
            for key in [key for key in self._own if self._bundle.weight(key)[0] == shard]:
                self._drop(key)
        for users in self._users.values():
            users.discard(component)

    def release_all(self) -> None:
        """Give back everything; what is needed again is loaded again."""
        for component in {name for users in self._users.values() for name in users}:
            self.release(component)

    def _launch(self, bound: _Bound, check: bool) -> Turns[None]:
        device, plan = self._device, bound.plan
        whole = results(plan) if check else []
        launched: list[Any] = []
        try:
            for number, (kernel, dispatch) in enumerate(zip(bound.launches, plan.dispatches, strict=True)):
                if bound.streamed is not None:
                    if (before := bound.streamed.awaits(number)) is not None:
                        yield from meanwhile(device.waiting(launched[before]))
                    bound.streamed.enter(number)
                instead = self._instead(bound, number) if launched else None
                if instead is not None:
                    yield from instead
                launched.append(launched[-1] if instead else device.launch(kernel, dispatch.grid, dispatch.group))
                if number >= IN_FLIGHT and number % IN_FLIGHT == 0:
                    yield from meanwhile(device.waiting(launched[number - IN_FLIGHT]))
                if check:
                    check_results(plan, number, whole[number], lambda index: self._read(bound, index))
            if launched:
                yield from meanwhile(device.waiting(launched[-1]))
        finally:
            if bound.streamed is not None:
                bound.streamed.leave()
        if self._profiling:
            device.finish()
            self.profile.add(plan, [device.span(event) for event in launched])

    def _instead(self, bound: _Bound, number: int) -> Turns[None] | None:
        """What is done in the place of a dispatch; None: it is launched."""
        return None

    def _read(self, bound: _Bound, index: int) -> np.ndarray:
        operand = bound.plan.operands[index]
        return self._device.read(bound.buffers[index], operand.shape, NUMPY[operand.dtype])

    def _bind(self, plan: Plan, key: tuple[Any, ...]) -> _Bound:
        if key in self._bound and self._bound[key].plan is plan:
            return self._bound[key]
        where = f"{plan.component} {' '.join(f'{name}={size}' for name, size in plan.sizes.items())}".rstrip()
        self._check_needs(plan, where)
        window = self._window(plan)
        self._make_room(plan, where, window)
        new = [self._source(kernel) for kernel in plan.kernels if kernel not in self._programs]
        self._device.prepare(new, apart=self._streaming is not None)  # no compiler's memory stays beside the weights
        programs = [self._program(kernel) for kernel in plan.kernels]
        streamed = None if window is None or self._streaming is None else self._streaming.of(plan, window)
        passing = [] if streamed is None else streamed.buffers(self._device.sub, self._imager(plan, where))
        buffers: list[Any] = []
        for operand in plan.operands:
            if operand.view is not None:
                viewed = buffers[operand.view]
                buffers.append(None if viewed is None else self._imager(plan, where)(viewed, operand))
            elif operand.weight is not None:
                buffers.append(self._weight(operand.weight) if not passing or self._is_own(operand.weight) else None)
            else:
                buffers.append(self._device.sub(self._arena, operand.offset or 0, operand.nbytes))
        launches = [
            self._device.bind(
                programs[d.kernel],
                [passing[number].get(i, buffers[i]) if passing else buffers[i] for i in d.operands],
                d.scalars,
                f"{where}: {d.node} ({d.op})",
            )
            for number, d in enumerate(plan.dispatches)
        ]
        self._bound[key] = _Bound(plan, buffers, launches, streamed)
        return self._bound[key]

    def _imager(self, plan: Plan, where: str) -> Callable[[Any, Operand], Any]:
        """What makes an image for an operand over the buffer that it views."""

        def made(buffer: Any, operand: Operand) -> Any:
            (height, width, _), viewed = operand.shape, plan.operands[operand.view or 0].name
            return self._device.image(buffer, width, height, operand.dtype, f"{where}: {viewed}")

        return made

    def _is_own(self, key: str) -> bool:
        """Whether a weight has memory of its own, and is not streamed."""
        return self._changed is not None and key in self._changed.keys

    def _window(self, plan: Plan) -> Window | None:
        """What a plan's weights are streamed through, where they are to be. Raises PlanError as `window_of`."""
        if self._streaming is None:
            return None
        held = {x.weight for x in plan.operands if x.weight is not None and self._is_own(x.weight)}
        return window_of(plan, self._streaming.how, held)

    def _check_needs(self, plan: Plan, where: str) -> None:
        """Refuse a plan that needs what the device has not, before anything is built or loaded for it."""
        if lacks := missing(plan.needs, self._device.dialect, self._facts["caps"]):
            what = ", ".join(f"{need} ({CAPABILITIES[need]})" for need in lacks)
            raise DeviceError(
                f"it needs {what}, which {self._device.name} has not.",
                where=where,
                fix="convert for a --target of this device, or use another --device",
            )

    def _make_room(self, plan: Plan, where: str, window: Window | None) -> None:
        """Say what the plan needs, check it against the device's memory before anything is loaded,
        and grow the arena to it."""
        shards = {self._bundle.weight(operand.weight)[0] for operand in plan.operands if operand.weight is not None}
        for name in shards:
            self._users.setdefault(name, set()).add(plan.component)
        if window is None:
            new = sum(self._bundle.shard(name).nbytes for name in shards if name not in self._shards)
        else:
            new = window.nbytes
        arena, mapped = max(plan.arena, self._arena_bytes), self._facts["maps_weights"]
        has = self._facts["global_bytes"]
        changed = self._changed.keys if self._changed else ()
        read = {x.weight: x.nbytes for x in plan.operands if x.weight in changed and x.weight not in self._own}
        weights = self._weight_bytes + (0 if mapped else new) + sum(read.values())
        log.info(
            "%s: arena %.1f MB, %s %.1f MB%s",
            where,
            plan.arena / 1e6,
            "new weights" if window is None else "weights through",
            new / 1e6,
            " (mapped, not copied)" if mapped else "",
        )
        if has and arena + weights > has:
            raise DeviceError(
                f"it needs {(arena + weights) / 1e6:,.1f} MB (arena {arena / 1e6:,.1f}, weights {weights / 1e6:,.1f}), "
                f"and {self._device.name} has {has / 1e6:,.1f} MB.",
                where=where,
                fix="use a smaller --size, or another --device",
            )
        if self._streaming is not None and window is not None and self._streaming.grows(window):
            self._bound.clear()  # their buffers are parts of the window that is given back
            self._streaming.grow(window, where)
        if plan.arena > self._arena_bytes:
            self._bound.clear()  # and of the arena
            self._arena, self._arena_bytes = None, 0
            self._arena = self._device.alloc(plan.arena, f"{where}: arena")
            self._arena_bytes = plan.arena

    def _source(self, kernel: Kernel) -> tuple[str, str]:
        """A program's source, and its entry."""
        return self._bundle.source(kernel.file, self._device.dialect, kernel.defines), kernel.file

    def _program(self, kernel: Kernel) -> Any:
        if kernel not in self._programs:
            where = f"{kernel.file}.cl {' '.join(f'{name}={value}' for name, value in kernel.defines)}".rstrip()
            self._programs[kernel] = self._device.build(*self._source(kernel), where)
        return self._programs[kernel]

    def _drop(self, key: str) -> None:
        """Give back the memory of a changed weight."""
        del self._own[key]
        self._filled.discard(key)
        self._weight_bytes -= self._bundle.weight(key)[2]

    def _changed_weight(self, changed: Changed, key: str) -> Any:
        if key not in self._filled:
            values = changed.values(key)
            if key not in self._own:
                self._own[key] = self._device.alloc(values.nbytes, f"{key}, changed")
                self._weight_bytes += values.nbytes
            self._device.write(self._own[key], values)
            self._filled.add(key)
            if self._streaming is not None:
                self._bundle.drop(*self._bundle.weight(key))  # of the bundle's own values nothing stays
        return self._own[key]

    def _weight(self, key: str) -> Any:
        if self._changed is not None and key in self._changed.keys:
            return self._changed_weight(self._changed, key)
        if key not in self._weights:
            shard, offset, nbytes = self._bundle.weight(key)
            if shard not in self._shards:
                data = self._bundle.shard(shard)
                self._shards[shard] = self._device.upload(data, shard)
                self._weight_bytes += 0 if self._facts["maps_weights"] else data.nbytes
            self._weights[key] = self._device.sub(self._shards[shard], offset, nbytes)
        return self._weights[key]
