"""Runs calls with made-up operands on a device: for the search to time, and to compare what they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ondevice.errors import DeviceError, KernelBuildError
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.program import MATH_EPS, math_of
from ondevice.measure.tuner.cases import Case, Made, normal
from ondevice.run.check import NUMPY
from ondevice.run.device import Device

GROUP = 256  # work-items of a group that kernels may count on
EPS = {"f32": 2.0**-24, "f16": 2.0**-11, "i32": 0.0, "i8": 0.0}  # half the gap between neighbouring values near 1
Choice = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ready:
    """A call that is built and bound: `run` once and get its seconds on the device's clock."""

    made: Made
    run: Callable[[], float]
    outputs: tuple[Any, ...]  # buffers


class CaseRunner:
    """One device, and the programs and operands of the case in hand.

    `clock` gives seconds, of which a call takes some; without one the device's own says how long it ran.
    """

    def __init__(
        self, device: Device, kernels: Mapping[str, KernelFile], clock: Callable[[], float] | None = None
    ) -> None:
        self.device, self.kernels, self.clock = device, kernels, clock
        self.largest = min(GROUP, int(device.facts().get("max_work_group") or GROUP))
        self._programs: dict[tuple[str, tuple[tuple[str, int], ...]], Any] = {}
        self._buffers: dict[tuple[str, str, int], Any] = {}

    def forget(self) -> None:
        """Give back the operands of the case in hand."""
        self._buffers.clear()

    def ready(self, case: Case, choice: Choice) -> Ready | None:
        """The case with these tunables; None where the device or the kernel does not take them."""
        compiled = case.make(choice, self.kernels)
        if compiled is None or math.prod(compiled.call.group) > self.largest:
            return None
        try:
            return self._bind(case, compiled)
        except (KernelBuildError, DeviceError):
            return None

    def _bind(self, case: Case, compiled: Made) -> Ready:
        device, call = self.device, compiled.call
        where = f"{case}: {' '.join(f'{name}={value}' for name, value in call.defines)}"
        if (key := (call.kernel, call.defines)) not in self._programs:
            source = self.kernels[call.kernel].source(device.dialect, **dict(call.defines))
            self._programs[key] = device.build(source, call.kernel, where)
        outputs = tuple(self._buffer(case, compiled, name, "output") for name in call.outputs)
        inputs = [self._buffer(case, compiled, name, "input") for name in call.inputs]
        for number, width, height in call.images:
            dtype = compiled.tensors[call.inputs[number]].dtype
            inputs[number] = device.image(inputs[number], width, height, dtype, where)
        bound = device.bind(self._programs[key], [*inputs, *outputs], call.scalars, where)

        def run() -> float:
            start = self.clock() if self.clock else 0.0
            launched = device.launch(bound, call.grid, call.group)
            device.finish()
            return self.clock() - start if self.clock else device.seconds(launched)

        return Ready(compiled, run, outputs)

    def _buffer(self, case: Case, compiled: Made, name: str, what: str) -> Any:
        """A weight's name says how it is stored, and scratch is as large as tunables have it, so one case may have
        several of one tensor; all else is shared by all its tunables."""
        tensor = compiled.tensors[name]
        key = (name, what, tensor.nbytes)
        if key not in self._buffers:
            buffer = self.device.alloc(tensor.nbytes, f"{case}: {name}")
            if what == "input":
                self.device.write(buffer, _content(compiled, name))
            self._buffers[key] = buffer
        return self._buffers[key]

    def result(self, ready: Ready) -> list[np.ndarray]:
        """What the call writes, into a buffer full of NaN: what it leaves alone stays one.
        Outputs after the first are its own scratch."""
        tensor = ready.made.tensors[ready.made.call.outputs[0]]
        self.device.write(ready.outputs[0], np.full(tensor.nbytes, 0xFF, np.uint8))
        ready.run()
        return [self.device.read(ready.outputs[0], tensor.shape, NUMPY[tensor.dtype])]


def _content(compiled: Made, name: str) -> np.ndarray:
    tensor = compiled.tensors[name]
    if name in compiled.weights:
        return np.ascontiguousarray(compiled.weights[name].numpy().astype(NUMPY[tensor.dtype]).reshape(tensor.shape))
    if tensor.dtype == "i32":
        return np.zeros(tensor.shape, np.int32)  # an index: 0 is one everywhere
    return normal(tensor.shape, dtype=NUMPY[tensor.dtype])


def same(compiled: Made, want: list[np.ndarray], got: list[np.ndarray]) -> bool:
    """Whether two results are those of one computation in another order: twice the rounding of a store, and sums in
    float32 whose errors add like a random walk; in another math than float32, its rounding of what lies between two
    products (a softmax)."""
    rounded = 2 * MATH_EPS[math_of(compiled.call.defines)]  # of what is made between two products
    terms = max(1, compiled.call.flops // max(1, sum(array.size for array in want)))
    for name, a, b in zip(compiled.call.outputs[:1], want, got, strict=True):
        if np.array_equal(a.view(np.uint8), b.view(np.uint8)):
            continue
        first, second = a.astype(np.float32), b.astype(np.float32)
        finite = np.isfinite(first)
        if not np.array_equal(finite, np.isfinite(second)) or not np.array_equal(
            first[~finite], second[~finite], equal_nan=True
        ):
            return False
        first, second = first[finite], second[finite]
        scale = np.abs(first)
        largest = float(scale.max(initial=0.0))
        bound = 2 * EPS[compiled.tensors[name].dtype] * scale + (8 * math.sqrt(terms) * EPS["f32"] + rounded) * largest
        if (np.abs(first - second) > bound + 2.0**-24).any():  # the last: half's smallest values
            return False
    return True
