"""Runs one launch of a plan by itself on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ondevice.errors import DeviceError
from ondevice.lower.prelude import missing
from ondevice.measure.doctor.content import content
from ondevice.measure.doctor.launches import Launch
from ondevice.plan.plan import Kernel, home
from ondevice.run.check import NUMPY
from ondevice.run.device import Device
from ondevice.run.source import Source


class LaunchRunner:
    """A device with the programs of a bundle that were built so far. Operands live as long as a launch."""

    def __init__(self, bundle: Source, device: Device) -> None:
        self.bundle, self.device = bundle, device
        self._programs: dict[Kernel, Any] = {}

    def run(self, launch: Launch, fill: str) -> list[np.ndarray]:
        """What it writes of `launch.compared`, in that order, where intermediates are made up as `fill` says and
        weights are the bundle's. What a launch leaves alone is NaN.

        Raises:
            KernelBuildError, DeviceError: the driver refused the program or the launch.
            BundleError: a weight or a kernel cannot be read.
        """
        device, operands = self.device, launch.plan.operands
        if launch.kernel not in self._programs:
            source = self.bundle.source(launch.kernel.file, device.dialect, launch.kernel.defines)
            defines = " ".join(f"{name}={value}" for name, value in launch.kernel.defines)
            self._programs[launch.kernel] = device.build(
                source, launch.kernel.file, f"{launch.kernel.file}.cl {defines}"
            )
        buffers: dict[int, Any] = {}
        arguments = []
        for place, index in enumerate(launch.dispatch.operands):
            held = home(operands, index)
            if held not in buffers:
                made_up = place < launch.inputs or launch.in_place
                buffers[held] = self._buffer(launch, held, place, fill if made_up else None)
            argument = buffers[held]
            if held != index:
                height, width, _ = operands[index].shape
                argument = device.image(argument, width, height, operands[index].dtype, launch.where)
            arguments.append(argument)
        bound = device.bind(self._programs[launch.kernel], arguments, launch.dispatch.scalars, launch.where)
        device.launch(bound, launch.dispatch.grid, launch.dispatch.group)
        device.finish()
        results = []
        for place in launch.compared:
            written = launch.operands[place]
            buffer = buffers[launch.dispatch.operands[place]]
            results.append(device.read(buffer, written.shape, NUMPY[written.dtype]))
        return results

    def _buffer(self, launch: Launch, index: int, place: int, fill: str | None) -> Any:
        operand = launch.plan.operands[index]
        what = f"{launch.where}: {operand.name}"
        if operand.weight is not None:
            shard, offset, size = self.bundle.weight(operand.weight)
            return self.device.upload(self.bundle.shard(shard)[offset : offset + size], what)
        buffer = self.device.alloc(operand.nbytes, what)
        if fill is None:
            self.device.write(buffer, np.full(operand.nbytes, 0xFF, np.uint8))
        else:
            self.device.write(buffer, content(operand.shape, operand.dtype, place, fill))
        return buffer


def check_needs(runner: LaunchRunner, found: Sequence[Launch]) -> None:
    """Raise DeviceError where the runner's device cannot run a plan that one of these launches is of."""
    for launch in found:
        if lacks := missing(launch.plan.needs, runner.device.dialect, runner.device.facts()["caps"]):
            what = f"the plan needs {', '.join(lacks)}, which {runner.device.name} has not."
            raise DeviceError(what, where=launch.file, fix="name another --device or --reference, or other --plans")
