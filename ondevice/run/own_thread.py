"""A part of one core of Intel's CPU runtime: its kernels run on a thread of ours, and on no other.

That runtime computes on as many threads as there are cores, one of which is whichever thread waits for a queue. They
serve all queues, be these of parts of a device or not, so two parts of a core each do not get a core each: measured on
two cores, one of the two had both cores while the other had none. Its queues for "immediate command execution"
(cl_intel_exec_by_local_thread) run what is enqueued on the thread that enqueues it. So here a part's thread enqueues,
and does not hold Python's lock as it does: pyopencl does, whose calls return at once elsewhere.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from ondevice.errors import DeviceError
from ondevice.run.cache import KernelCache
from ondevice.run.discovery import Found, opencl
from ondevice.run.opencl import OpenCLDevice

EXTENSION, ENABLE = "cl_intel_exec_by_local_thread", 1 << 31
_Sizes = ctypes.c_size_t * 3


def opened(found: Found) -> OpenCLDevice:
    """A device, or a part of one, as what runs on it beside others."""
    alone = found.part and found.handle.max_compute_units == 1 and EXTENSION in found.handle.extensions.split()
    return OwnThread(found) if alone and _enqueue() is not None else OpenCLDevice(found)


@cache
def _enqueue() -> Callable[..., int] | None:
    """clEnqueueNDRangeKernel of the loader that pyopencl is linked with; None where it cannot be had."""
    try:
        call = ctypes.CDLL(opencl()._cl.__file__).clEnqueueNDRangeKernel
    except (OSError, AttributeError):
        return None
    sizes, none = ctypes.POINTER(ctypes.c_size_t), ctypes.c_void_p
    call.argtypes = [none, none, ctypes.c_uint, sizes, sizes, sizes, ctypes.c_uint, none, none]
    call.restype = ctypes.c_int
    return call


class OwnThread(OpenCLDevice):
    """A device whose launches are made in order on its own thread, and are done when that has made them. What a launch
    raises is raised by whoever waits for it next, or for anything after it."""

    def __init__(self, found: Found, cache: KernelCache | None = None) -> None:
        super().__init__(found, cache)
        self._queue = self._cl.CommandQueue(self._context, properties=ENABLE)
        self._enqueue = _enqueue()
        self._failed: DeviceError | None = None

    def launch(self, bound: Any, grid: tuple[int, int, int], group: tuple[int, int, int]) -> Any:
        """Have a bound kernel launched; returns what `wait` takes."""
        kernel, arguments, where = bound

        def launched() -> None:
            kernel.set_args(*arguments)
            assert self._enqueue is not None, "such a device is not opened without"
            queue, sizes = self._queue.int_ptr, (_Sizes(*grid), _Sizes(*group))
            if error := self._enqueue(queue, kernel.int_ptr, 3, None, *sizes, 0, None, None):
                name = self._cl.status_code.to_string(error, "%d")
                raise self._cl.Error(f"clEnqueueNDRangeKernel failed: {name}")

        return self._waiter.begin(partial(self._later, launched, f"{where}, grid {grid}, group {group}"))

    def give(self, buffer: Any, data: np.ndarray) -> None:
        """As `OpenCLDevice.give`, without waiting for it."""
        copy = partial(self._cl.enqueue_copy, self._queue, buffer, np.ascontiguousarray(data))
        self._waiter.begin(partial(self._later, copy, "give"))

    def _later(self, call: Callable[[], Any], where: str) -> None:
        """Make a call for which nobody waits."""
        if self._failed is None:
            try:
                call()
            except self._cl.Error as error:
                self._failed = self._failure(error, where)

    def flush(self) -> None:
        """Nothing is kept back."""

    def wait(self, launched: Any) -> None:
        """As `OpenCLDevice.wait`. Raises DeviceError for what was launched before, too."""
        launched()
        self._look()

    def waiting(self, launched: Any) -> Callable[[], None]:
        """As `OpenCLDevice.waiting`; the thread is at it already."""
        return partial(self.wait, launched)

    def settle(self, seconds: float) -> bool:
        """As `OpenCLDevice.settle`; of launches that wait for their turn none is made."""
        self._failed = DeviceError("given up.", where=self.name)

        def ended() -> None:
            try:
                self._queue.finish()
            finally:
                self._failed = None  # what is asked for later is behind this, and is no matter of what was given up

        return self._waiter.within(ended, seconds)

    def reading(self, buffer: Any, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
        """As `OpenCLDevice.reading`."""
        end = super().reading(buffer, shape, dtype)

        def ended() -> np.ndarray:
            out = end()
            self._look()
            return out

        return ended

    def _guard(self, what: str, call: Callable[[], Any]) -> Any:
        made = super()._guard(what, call)
        self._look()
        return made

    def _look(self) -> None:
        """Raise what a launch raised, once."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
