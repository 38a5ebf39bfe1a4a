"""What a GPU must be able to do for us. A handful of verbs; everything else is built on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np


class Device(Protocol):
    """A queue that runs kernels in order. Every verb may raise DeviceError."""

    name: str
    dialect: str  # "opencl" or "metal": picks the prelude

    def facts(self) -> dict[str, Any]:
        """Platform, driver, limits: what a benchmark row or a bug report must say.

        A session reads `global_bytes` (0: unknown), `maps_weights` (whether `upload` takes no memory of its own) and
        `caps` (which of `ondevice.target.CAPABILITIES` it has).
        """
        ...

    def prepare(self, programs: Sequence[tuple[str, str]], apart: bool) -> None:
        """Have programs (source, entry) that will be built compiled ahead, where there is a way to do that on several
        cores; with `apart` in one that takes little memory here."""
        ...

    def build(self, source: str, entry: str, where: str) -> Any:
        """Compile `source`; `where` names file and defines in an error. Returns what `bind` takes.
        Raises KernelBuildError."""
        ...

    def alloc(self, nbytes: int, what: str) -> Any:
        """A buffer of undefined content; `what` names it in an error."""
        ...

    def upload(self, data: np.ndarray, what: str) -> Any:
        """A read-only buffer with the bytes of `data`, without a copy where the device is the host;
        `data` must not change."""
        ...

    def sub(self, buffer: Any, offset: int, nbytes: int) -> Any:
        """Part of a buffer, sharing its bytes."""
        ...

    def image(self, buffer: Any, width: int, height: int, dtype: str, what: str) -> Any:
        """A read-only image of `width` by `height` texels of four `dtype` ("f16" or "f32") over a buffer's bytes, from
        its first on and row after row; what is written to the buffer is read from the image. `what` names it in an
        error. It is for `bind`, in a buffer's place."""
        ...

    def write(self, buffer: Any, data: np.ndarray) -> None:
        """Copy an array in."""
        ...

    def give(self, buffer: Any, data: np.ndarray) -> None:
        """Copy an array in before what is launched next; it must not change."""
        ...

    def fill(self, buffer: Any, offset: int, data: np.ndarray) -> None:
        """Copy bytes in from `offset` on, while kernels run that do not use that part; returns when they are there."""
        ...

    def read(self, buffer: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Wait for all work, then copy out."""
        ...

    def copy(self, source: Any, target: Any, nbytes: int, offset: int = 0) -> None:
        """Enqueue a copy of the first `nbytes` of one buffer to `offset` bytes into another."""
        ...

    def bind(self, program: Any, buffers: Sequence[Any], scalars: Sequence[int | float], where: str = "") -> Any:
        """A kernel with its arguments, ready to launch many times; keeps the buffers alive.
        `where` names it in errors."""
        ...

    def launch(self, bound: Any, grid: tuple[int, int, int], group: tuple[int, int, int]) -> Any:
        """Enqueue; returns what `wait` and `seconds` take."""
        ...

    def flush(self) -> None:
        """See that the device begins with what was enqueued, without waiting for it."""
        ...

    def wait(self, launched: Any) -> None:
        """Until this launch is done."""
        ...

    def waiting(self, launched: Any) -> Callable[[], None]:
        """Begin to wait for a launch, beside what other devices do; what is returned is called for the end of that,
        before anything else is asked."""
        ...

    def reading(self, buffer: Any, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
        """Begin to `read`, as `waiting` does."""
        ...

    def seconds(self, launched: Any) -> float:
        """How long a finished launch ran on the device."""
        ...

    def span(self, launched: Any) -> tuple[float, float]:
        """When a finished launch began and ended, in seconds of the device's own clock."""
        ...

    def finish(self) -> None:
        """Wait for all work."""
        ...

    def settle(self, seconds: float) -> bool:
        """Wait for all work, but not longer than `seconds`; whether it is done. Raises nothing of its own."""
        ...
