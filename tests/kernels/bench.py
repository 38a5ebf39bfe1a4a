"""A bench for kernels: build one file, run it on guarded buffers, read the output back.

Guards: inputs are surrounded by NaN (a read past the end that matters poisons the result), outputs start as NaN (an
element that is never written shows) and are surrounded by a pattern that must survive (a write past the end shows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ondevice.lower.bounds import Bounds, Launch
from ondevice.lower.expression import evaluate
from ondevice.lower.images import imaged
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.program import TEXEL, Tensor
from ondevice.lower.tunables import used
from ondevice.run.check import NUMPY
from ondevice.run.device import Device
from ondevice.target import Limits, Target

GUARD = 4096  # bytes on each side; a multiple of every device's sub-buffer alignment
PATTERN, NAN = 0xA5, 0xFF  # NAN everywhere is a NaN in f16 and in f32
NAMES = {dtype: name for name, dtype in NUMPY.items()}
STORED = {"f32": np.float32, "f16": np.float16}
PLAIN = Target("bench", "What every device has.", "mobile", {}, {}, {}, 0, {})


def half(stored: str) -> int:
    """The define F16."""
    return int(stored == "f16")


class Bench:
    """One device and the programs built on it.

    Args:
        target: kernels take advantage of its capabilities where their headers say they do, and launches keep to its
            limits. With one of local memory, the device says what a launch took: `local_bytes`.
    """

    def __init__(self, device: Device, target: Target = PLAIN) -> None:
        self.device, self.target = device, target
        self._built: dict[str, Any] = {}

    def limited(self, limits: Limits) -> Bench:
        """The same bench with other limits."""
        other = Bench(self.device, replace(self.target, limits=limits))
        other._built = self._built
        return other

    def program(self, kernel: KernelFile, defines: Mapping[str, int]) -> Any:
        source = kernel.source(self.device.dialect, **defines)
        if source not in self._built:
            self._built[source] = self.device.build(source, kernel.name, f"{kernel.name}.cl {dict(defines)}")
        return self._built[source]

    def guarded(self, inside: np.ndarray, guard: int) -> tuple[Any, Any]:
        """A buffer with `guard` bytes on both sides of `inside`, and the part between them."""
        edge = np.full(GUARD, guard, np.uint8)
        whole = np.concatenate([edge, np.ascontiguousarray(inside).view(np.uint8).ravel(), edge])
        parent = self.device.alloc(whole.nbytes, "test buffer")
        self.device.write(parent, whole)
        return parent, self.device.sub(parent, GUARD, inside.nbytes)

    def _advantages(
        self, kernel: KernelFile, inputs: Sequence[np.ndarray], values: Mapping[str, int | float]
    ) -> dict[str, int]:
        """The defines that lowering for the target would give, of operands that may be images too."""
        tensors = [Tensor(str(number), array.shape, NAMES[array.dtype]) for number, array in enumerate(inputs)]
        return used(kernel, self.target, bool(values.get("F16"))) | dict(
            imaged(kernel, tensors, values, self.target).defines
        )

    @staticmethod
    def _images(
        kernel: KernelFile, inputs: Sequence[np.ndarray], values: Mapping[str, int | float]
    ) -> dict[int, tuple[int, int]]:
        """Width and height of the inputs that the defines among `values` say are images, by number."""
        found = {}
        for name, (row, _) in kernel.textures.items():
            if values.get(f"IMAGE_{name}"):
                number, across = kernel.inputs.index(name), int(values[f"FOLD_{name}"]) * evaluate(row, values)
                found[number] = across // TEXEL, inputs[number].size // across
        return found

    def run(
        self,
        kernel: KernelFile,
        inputs: Sequence[np.ndarray],
        output: tuple[tuple[int, ...], Any],
        dims: Mapping[str, int | float],
        tuning: Mapping[str, int] | None = None,
        scratch: int = 0,
        before: np.ndarray | None = None,
        **defines: int,
    ) -> np.ndarray:
        """Run once and return the output, a (shape, dtype).
        Fails if the kernel wrote outside it, or its header would refuse the call.

        `scratch`: floats of a second output, which nobody reads. `before`: what stands in the output, for a kernel that
        works in place.
        """
        shape, dtype = output
        chosen = kernel.tuning(**(tuning or {}))
        defines = self._advantages(kernel, inputs, {**dims, **chosen, **defines}) | defines
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffers = [self.guarded(array, NAN) for array in inputs]
        written = [nbytes, 4 * scratch] if scratch else [nbytes]
        stands = [np.full(size, NAN, np.uint8) for size in written]
        stands[0] = stands[0] if before is None else before
        buffers += [self.guarded(array, PATTERN) for array in stands]
        given = [(NAMES[array.dtype], array.size) for array in inputs] + [(NAMES[np.dtype(dtype)], int(np.prod(shape)))]
        given += [("f32", scratch)] if scratch else []
        images = self._images(kernel, inputs, {**dims, **chosen, **defines})
        for number, (width, height) in images.items():
            given[number] = given[number][0], TEXEL * width * height
        launched = kernel.launch(dims, chosen)
        launch = Launch({**defines, **chosen}, given, len(written), kernel.scalars(dims), *launched, images)
        assert (wrong := Bounds(kernel).misuse(launch)) is None, wrong
        program = self.program(kernel, {**defines, **chosen})
        bound_to = [inside for _, inside in buffers]
        for number, size in images.items():
            bound_to[number] = self.device.image(bound_to[number], *size, given[number][0], kernel.inputs[number])
        limits = self.target.limits
        assert (over := limits.refuses_group(launched[1])) is None, over
        self.device.launch(self.device.bind(program, bound_to, kernel.scalars(dims)), *launched)
        self.device.finish()
        if limits.local_memory:
            assert (over := limits.refuses_local(self.device.local_bytes)) is None, over
        inside = []
        for (parent, _), size in zip(buffers[len(inputs) :], written, strict=True):
            whole = self.device.read(parent, (size + 2 * GUARD,), np.dtype(np.uint8))
            outside = np.concatenate([whole[:GUARD], whole[GUARD + size :]])
            assert (outside == PATTERN).all(), (
                f"{kernel.name} wrote {int((outside != PATTERN).sum())} bytes outside its output"
            )
            inside.append(whole[GUARD : GUARD + size])
        return inside[0].view(dtype).reshape(shape)


def assert_same_in_place(
    bench: Bench,
    kernel: KernelFile,
    inputs: Sequence[np.ndarray],
    output: tuple[tuple[int, ...], Any],
    dims: Mapping[str, int | float],
    tuning: Mapping[str, int] | None = None,
    scratch: int = 0,
    **defines: int,
) -> bool:
    """Run where the output is a place of its own, and over the input that the header names: every bit must be the same.
    False where the header says that these sizes cannot be done in place."""
    index = kernel.inplace(dims, {**defines, **kernel.tuning(**(tuning or {}))})
    if index is None:
        return False
    if kernel.inputs[index] in kernel.textures:
        defines |= {f"IMAGE_{kernel.inputs[index]}": 0}  # a stand-in is read as no image
    over = [*inputs[:index], inputs[0] if index else inputs[1], *inputs[index + 1 :]]  # a stand-in
    apart = bench.run(kernel, inputs, output, dims, tuning, scratch, **defines)
    same = bench.run(kernel, over, output, dims, tuning, scratch, before=inputs[index], INPLACE=1, **defines)
    np.testing.assert_array_equal(same, apart)
    return True


def values(kind: str, shape: Sequence[int], stored: str, seed: int = 0) -> np.ndarray:
    """Test values in storage `stored`: "normal", all "equal", "largest" (the largest half, both signs)."""
    rng = np.random.default_rng([seed, *shape])
    if kind == "equal":
        return np.full(shape, 3.1415, STORED[stored])
    if kind == "largest":
        return rng.choice(np.array([-65504.0, 65504.0]), shape).astype(STORED[stored])
    return rng.normal(0.0, 1.0, shape).astype(STORED[stored])


def exact(*arrays: np.ndarray) -> list[np.ndarray]:
    """The stored values, as the float64 that references compute with."""
    return [array.astype(np.float64) for array in arrays]


QUICK = 2  # cases of a kernel's tunables that are no sweep: the defaults in both storages


def tunings(kernel: KernelFile) -> list[Any]:
    """(stored, tuning) cases: the defaults, then every other listed value alone, taking turns with the storage.
    Each value runs once.

    All but the first are marked `sweep`: every value compiles a kernel, which takes longer than all else.
    """
    changes = [{name: value} for name, listed in kernel.header["tune"].items() for value in listed[1:]]
    cases = [(("f16", "f32")[turn % 2], change) for turn, change in enumerate([{}, {}, *changes])]
    marks = [()] * QUICK + [pytest.mark.sweep] * (len(cases) - QUICK)
    return [
        pytest.param(stored, change, id=f"{kernel.name}-{stored}-{_label(change)}", marks=mark)
        for (stored, change), mark in zip(cases, marks[: len(cases)], strict=True)
    ]


def tunings_of(kernels: Mapping[str, KernelFile], names: Sequence[str]) -> list[Any]:
    """(name, stored, tuning) cases of several kernels, as `tunings` gives them for one."""
    return [
        pytest.param(name, *case.values, id=case.id, marks=case.marks)
        for name in names
        for case in tunings(kernels[name])
    ]


def _label(change: Mapping[str, int]) -> str:
    return ",".join(f"{name}={value}" for name, value in change.items()) or "defaults"
