"""Replay: a bundle's plans on a device. Binds once, then only writes inputs, launches and reads outputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ondevice.errors import NumericError, UsageError
from ondevice.plan.plan import Dispatch, Plan
from ondevice.run.device import Device
from ondevice.run.profile import Profile

log = logging.getLogger(__name__)

NUMPY = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "i32": np.dtype(np.int32)}


class Source(Protocol):
    """What is asked of a bundle (`ondevice.bundle.reader.Bundle`)."""

    def plan(self, component: str, **sizes: int) -> Plan: ...

    def weight(self, key: str) -> tuple[str, int, int]: ...

    def shard(self, name: str) -> np.ndarray: ...

    def source(self, file: str, dialect: str, defines: Mapping[str, int] | tuple[tuple[str, int], ...]) -> str: ...


@dataclass(slots=True)
class _Bound:
    """A plan with its buffers and kernels."""

    plan: Plan
    buffers: list[Any]
    launches: list[Any]


class Session:
    """Runs the components of one bundle on one device.

    One arena serves every plan and grows to the largest in use; weights are uploaded when a plan first needs them and shared by all
    plans; kernels are built once.

    Args:
        profile: keep a time for every dispatch in `self.profile`.
        check: read every result back and stop at the first NaN or infinity (slow).
    """

    def __init__(self, bundle: Source, device: Device, *, profile: bool = False, check: bool = False) -> None:
        self._bundle, self._device, self._profiling, self._check = bundle, device, profile, check
        self.profile = Profile(device.facts())
        self._programs: dict[tuple[str, tuple[tuple[str, int], ...]], Any] = {}
        self._shards: dict[str, Any] = {}
        self._weights: dict[str, Any] = {}
        self._bound: dict[tuple[Any, ...], _Bound] = {}
        self._arena: Any = None
        self._arena_bytes = 0

    def run(self, component: str, inputs: Mapping[str, np.ndarray], **sizes: int) -> dict[str, np.ndarray]:
        """Run one plan.

        Args:
            inputs: arrays by the plan's input names, float32 or int32, in the plan's shapes.
            sizes: which plan: batch, and height and width in latent units.

        Raises:
            BundleError: the bundle has no such plan.
            UsageError: an input is missing, unknown, or has another shape or type.
            KernelBuildError, DeviceError: the driver failed.
            NumericError: with `check`, the first result that is not finite.
        """
        bound = self._bind(component, sizes)
        plan = bound.plan
        for index, array in _inputs(plan, inputs).items():
            self._device.write(bound.buffers[index], array)
        if self._check:
            self._run_checked(bound)
        else:
            launched = [self._device.launch(k, d.grid, d.group) for k, d in zip(bound.launches, plan.dispatches, strict=True)]
            if self._profiling:
                self._device.finish()
                self.profile.add(plan, [self._device.seconds(event) for event in launched])
        return {plan.operands[i].name: self._read(bound, i) for i in plan.outputs}

    def _read(self, bound: _Bound, index: int) -> np.ndarray:
        operand = bound.plan.operands[index]
        return self._device.read(bound.buffers[index], operand.shape, NUMPY[operand.dtype])

    def _run_checked(self, bound: _Bound) -> None:
        for launch, dispatch in zip(bound.launches, bound.plan.dispatches, strict=True):
            self._device.launch(launch, dispatch.grid, dispatch.group)
            for index in dispatch.operands[len(dispatch.operands) - dispatch.outputs :]:
                self._check_finite(bound, dispatch, index)

    def _check_finite(self, bound: _Bound, dispatch: Dispatch, index: int) -> None:
        values = self._read(bound, index)
        if values.dtype.kind != "f" or dispatch.op == "Concat":  # a part of a concatenation: the rest is not written yet
            return
        bad = ~np.isfinite(values)
        if bad.any():
            kernel, operand = bound.plan.kernels[dispatch.kernel], bound.plan.operands[index]
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise NumericError(
                f"{int(bad.sum())} of {values.size} values are NaN or infinite, the first at {first} ({values[first]}).",
                where=f"{bound.plan.component}: {dispatch.node} ({dispatch.op}, {kernel.file}.cl {dict(kernel.defines)}) -> {operand.name}",
                fix="convert with --dtype f32 to see whether half storage overflows",
            )

    def _bind(self, component: str, sizes: Mapping[str, int]) -> _Bound:
        key = (component, *sorted(sizes.items()))
        if key in self._bound:
            return self._bound[key]
        plan = self._bundle.plan(component, **sizes)
        where = f"{component} {' '.join(f'{name}={size}' for name, size in sizes.items())}"
        if plan.arena > self._arena_bytes:
            log.info("%s: an arena of %.1f MB", where, plan.arena / 1e6)
            self._bound.clear()  # their buffers are parts of the arena that is given back
            self._arena = None
            self._arena, self._arena_bytes = self._device.alloc(plan.arena, f"{where}: arena"), plan.arena
        programs = [self._program(kernel.file, kernel.defines) for kernel in plan.kernels]
        buffers = [
            self._weight(operand.weight) if operand.weight is not None else self._device.sub(self._arena, operand.offset or 0, operand.nbytes)
            for operand in plan.operands
        ]
        launches = [self._device.bind(programs[d.kernel], [buffers[i] for i in d.operands], d.scalars) for d in plan.dispatches]
        self._bound[key] = _Bound(plan, buffers, launches)
        return self._bound[key]

    def _program(self, file: str, defines: tuple[tuple[str, int], ...]) -> Any:
        key = (file, defines)
        if key not in self._programs:
            where = f"{file}.cl {' '.join(f'{name}={value}' for name, value in defines)}"
            self._programs[key] = self._device.build(self._bundle.source(file, self._device.dialect, defines), file, where)
        return self._programs[key]

    def _weight(self, key: str) -> Any:
        if key not in self._weights:
            shard, offset, nbytes = self._bundle.weight(key)
            if shard not in self._shards:
                self._shards[shard] = self._device.upload(self._bundle.shard(shard), shard)
            self._weights[key] = self._device.sub(self._shards[shard], offset, nbytes)
        return self._weights[key]


def _inputs(plan: Plan, given: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
    """Arrays by operand index, checked and made contiguous."""
    wanted = {plan.operands[index].name: index for index in plan.inputs}
    if wrong := sorted(given.keys() ^ wanted.keys()):
        raise UsageError(f"inputs {wrong} are missing or unknown (expected {sorted(wanted)}).", where=plan.component)
    ready = {}
    for name, index in wanted.items():
        operand, array = plan.operands[index], np.asarray(given[name])
        if array.shape != operand.shape or array.dtype != NUMPY[operand.dtype]:
            expected = f"{NUMPY[operand.dtype]}{list(operand.shape)}"
            raise UsageError(f"it is {array.dtype}{list(array.shape)} (expected {expected}).", where=f"{plan.component}: input {name}")
        ready[index] = np.ascontiguousarray(array)
    return ready
