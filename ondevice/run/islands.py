"""Which dispatches of a run need float32: values that half storage does not hold come out of them, or go in.

The plan is run once more, dispatch by dispatch, on tensors that have memory of their own. Each runs in half storage if
what it reads is there; where its results do not fit half, it is taken back and runs in float32, as do those that read
them, until values fit half again. So no more is kept in float32 than must be, whatever the network looks like: of a
skip connection that does not fit, the dispatches that make and use it, and none between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ondevice.errors import DeviceError, KernelBuildError, NumericError
from ondevice.lower.kernel_file import KernelFile
from ondevice.plan.plan import Dispatch, Kernel, Plan, home
from ondevice.plan.widen import follows_storage, wide_kernel
from ondevice.run.check import NUMPY, WHOLE, inputs_of, is_finite, lets_through, odd_values
from ondevice.run.device import Device

LARGEST = float(np.finfo(np.float16).max)
# Half of that: other steps and other prompts have larger values, and each that does not fit costs another search.
FITS = LARGEST / 2
PART = 1 << 22  # elements that are looked at at a time
DOCTOR = "look for kernels that this device gets wrong with `ondevice doctor`; else weights or inputs are at fault"


@dataclass(frozen=True, slots=True)
class Islands:
    """The dispatches that must run in float32, and the largest value that was not rounded to half for it."""

    wide: frozenset[int]
    largest: float


@dataclass(slots=True)
class _Held:
    """A tensor's value: in float32 or as the plan has it."""

    buffer: Any
    wide: bool


class Search:
    """One run of a plan.

    Args:
        weight: key -> its bytes.
        program: what builds a kernel.
        kernels: the bundle's, by name.
    """

    def __init__(
        self,
        device: Device,
        plan: Plan,
        *,
        weight: Callable[[str], np.ndarray],
        program: Callable[[Kernel], Any],
        kernels: Mapping[str, KernelFile],
    ) -> None:
        self._device, self._plan, self._kernels = device, plan, kernels
        self._weight, self._program = weight, program
        self._held: dict[int, _Held] = {}
        self._largest = 0.0
        self._last: dict[int, int] = {}
        self._read: set[int] = set(plan.outputs)
        for number, dispatch in enumerate(plan.dispatches):
            homes = [home(plan.operands, index) for index in dispatch.operands]
            self._last.update(dict.fromkeys(homes, number))
            self._read.update(homes[: len(homes) - dispatch.outputs])

    def run(self, inputs: Mapping[int, np.ndarray], wide: Collection[int] = ()) -> Islands:
        """The islands of a run.

        Args:
            inputs: by operand, as the plan has them.
            wide: dispatches that are known to need float32.

        Raises:
            NumericError: values are not finite in float32, too, or leave the plan in half storage, which does not hold
                them.
            PlanError, DeviceError: a kernel cannot be built for float32, or the device does not run it; by its name.
        """
        plan, found = self._plan, set(wide)
        for index, array in inputs.items():
            self._held[index] = _Held(self._new(index, False), False)
            self._device.write(self._held[index].buffer, array)
        for number in range(len(plan.dispatches)):
            if number in found or self._has_wide(number) or not self._runs_in_half(number):
                self._run_in_float32(number)
                found.add(number)
            for index in [index for index in self._held if self._last.get(index, 0) <= number]:
                if index not in plan.outputs:
                    del self._held[index]
        for index in plan.outputs:
            if self._held[index].wide and (most := _largest(self._values(index))) > LARGEST:
                name = plan.operands[index].name
                what = f"{name} leaves it in half storage, which does not hold its values (up to {most:.4g})."
                fix = "draw without bands (--tile-vae, --max-memory), or convert with --dtype fp32"
                raise NumericError(what, where=plan.component, fix=fix)
        return Islands(frozenset(found), self._largest)

    def _has_wide(self, number: int) -> bool:
        """Whether something that a dispatch reads, or writes a part of, is held in float32."""
        homes = {home(self._plan.operands, index) for index in self._plan.dispatches[number].operands}
        return any(self._held[index].wide for index in homes if index in self._held)

    def _runs_in_half(self, number: int) -> bool:
        """Run a dispatch as it is; whether its results fit. What it wrote over is as before where they do not."""
        plan, device, dispatch = self._plan, self._device, self._plan.dispatches[number]
        written = dispatch.operands[len(dispatch.operands) - dispatch.outputs :]
        before = {
            index: device.alloc(plan.operands[index].nbytes, "a copy") for index in written if index in self._held
        }
        for index, copy in before.items():
            device.copy(self._held[index].buffer, copy, plan.operands[index].nbytes)
        follows = (False,) * len(dispatch.operands)
        self._launch(dispatch, plan.kernels[dispatch.kernel], follows)
        if all(self._fits(number, index) for index in written if index in self._read):
            return True
        for index in written:
            if index in before:
                self._held[index].buffer = before[index]
            else:
                del self._held[index]
        return False

    def _run_in_float32(self, number: int) -> None:
        """Run a dispatch in float32; results that fit half are held as such."""
        plan, dispatch = self._plan, self._plan.dispatches[number]
        follows = follows_storage(plan, number, self._kernels)
        for index, follow in zip(dispatch.operands, follows, strict=True):
            held = self._held.get(home(plan.operands, index))
            if follow and held is not None and not held.wide:
                self._hold(home(plan.operands, index), True)
        kernel = wide_kernel(plan.kernels[dispatch.kernel])
        try:
            self._launch(dispatch, kernel, follows)
        except (KernelBuildError, DeviceError) as error:
            what = f"{kernel.file}.cl does not run in float32: {str(error).splitlines()[0]}"
            where = f"{plan.component}: dispatch {number}, {dispatch.node} ({dispatch.op})"
            raise DeviceError(what, where=where, fix="convert with --dtype fp32") from None
        first = len(dispatch.operands) - dispatch.outputs
        for index, follow in zip(dispatch.operands[first:], follows[first:], strict=True):
            if index not in self._read or plan.operands[index].dtype in WHOLE:
                continue
            values = self._values(index)
            if not is_finite(values):
                inputs = inputs_of(plan, number, self._values)
                if not lets_through(values, inputs):
                    fix = DOCTOR
                    raise odd_values(plan, number, index, values, inputs, fix=fix, stored=" in float32, too")
            if follow and (most := _largest(values)) <= FITS:
                self._hold(index, False)
            elif follow:
                self._largest = max(self._largest, most)

    def _fits(self, number: int, index: int) -> bool:
        """Whether what a dispatch wrote is finite, but for infinities that it read, and far enough from half's end."""
        if self._plan.operands[index].dtype in WHOLE:
            return True
        values = self._values(index)
        if not is_finite(values) and not lets_through(values, inputs_of(self._plan, number, self._values)):
            return False
        return self._plan.operands[index].dtype != "f16" or _largest(values) <= FITS

    def _launch(self, dispatch: Dispatch, kernel: Kernel, follows: Collection[bool]) -> None:
        plan, device = self._plan, self._device
        arguments = []
        for index, follow in zip(dispatch.operands, follows, strict=True):
            operand, held = plan.operands[index], home(plan.operands, index)
            dtype = "f32" if follow else operand.dtype
            if (key := plan.operands[held].weight) is not None:
                data = self._weight(key)
                data = data.view(np.float16).astype(np.float32) if follow else data
                buffer = device.alloc(data.nbytes, plan.operands[held].name)  # an image wants it aligned: not `upload`
                device.write(buffer, data)
            else:
                if held not in self._held:
                    self._held[held] = _Held(self._new(held, follow), follow)
                buffer = self._held[held].buffer
            if operand.view is not None:
                height, width, _ = operand.shape
                buffer = device.image(buffer, width, height, dtype, operand.name)
            arguments.append(buffer)
        where = f"{plan.component}: {dispatch.node} ({dispatch.op})"
        bound = device.bind(self._program(kernel), arguments, dispatch.scalars, where)
        device.launch(bound, dispatch.grid, dispatch.group)
        device.finish()

    def _new(self, index: int, wide: bool) -> Any:
        """Zeros: of a tensor that is written in parts the rest must not look as if it did not fit."""
        nbytes = self._plan.operands[index].nbytes * (2 if wide else 1)
        buffer = self._device.alloc(nbytes, self._plan.operands[index].name)
        self._device.write(buffer, np.zeros(nbytes, np.uint8))
        return buffer

    def _values(self, index: int) -> np.ndarray:
        operand = self._plan.operands[index]
        if operand.weight is not None:
            return self._weight(operand.weight).view(NUMPY[operand.dtype]).reshape(operand.shape)
        held = self._held[index]
        return self._device.read(held.buffer, operand.shape, NUMPY["f32" if held.wide else operand.dtype])

    def _hold(self, index: int, wide: bool) -> None:
        """Have a tensor in this storage."""
        with np.errstate(over="ignore"):  # only what nobody reads
            values = self._values(index).astype(NUMPY["f32" if wide else "f16"])
        self._held[index] = _Held(self._new(index, wide), wide)
        self._device.write(self._held[index].buffer, values)


def _largest(values: np.ndarray) -> float:
    """The largest magnitude of the finite values."""
    flat, most = values.reshape(-1), 0.0
    for start in range(0, flat.size, PART):
        sizes = np.abs(flat[start : start + PART].astype(np.float32))
        most = max(most, float(sizes.max(initial=0.0, where=np.isfinite(sizes))))
    return most
