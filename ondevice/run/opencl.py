"""The device verbs of device.py on OpenCL, with compiled kernels kept between processes.

The Intel CPU runtime uses the cores that the process may run on: `taskset -c 0 ondevice generate ...` leaves
the others alone.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ondevice.base.machine import available_cores, available_memory
from ondevice.errors import DeviceError, KernelBuildError
from ondevice.run.cache import KernelCache
from ondevice.run.compiled_apart import compile_apart
from ondevice.run.discovery import INSTALL, OPTIONS, Found, code, compile_program, discover, find_device, opencl
from ondevice.run.matrix_spelling import options_for
from ondevice.run.waiting import Waiter

__all__ = ["INSTALL", "OpenCLDevice", "choose_device", "discover"]

log = logging.getLogger(__name__)

CHUNK = 64 << 20  # bytes a copy of weights moves at once: a mapped file never lies in memory as a whole
LOG_LINES = 20  # of a failed build
PART = 6  # programs at least that a process of its own compiles, as it takes half a second to start
COMPILERS = 4  # processes at most
COMPILER_BYTES = 512 << 20  # of free memory for each: it takes half of that
SMALLER = "use a smaller --size, or another --device"
TARGET = "convert for a --target of this device, or use another --device"
OTHER = "run `ondevice devices`, and try another --device"
_MEMORY = ("MEM_OBJECT_ALLOCATION_FAILURE", "OUT_OF_RESOURCES", "OUT_OF_HOST_MEMORY", "INVALID_BUFFER_SIZE")
_PLACE = re.compile(r"(?:error: )?\"?(\w+\.cl)\"?:(\d+):\d+: (?:(?:fatal )?error: )?(.+)")  # PoCL says "error" first
_NOISE = ("(options:", "(source saved", "Build on <")


def choose_device(spec: str | None = None, *, cache: KernelCache | None = None) -> OpenCLDevice:
    """The device that `spec` (else `ONDEVICE_DEVICE`) names, or the best one; `find_device` says how.
    Raises NoDeviceError."""
    return OpenCLDevice(find_device(spec), cache)


@dataclass(frozen=True, slots=True)
class _Program:
    """A built program, and its kernel by the types of its arguments (None: a buffer);
    `spare` is one whose types nobody told yet."""

    built: Any
    spare: list[Any]
    entry: str
    kernels: dict[tuple[type | None, ...], Any] = field(default_factory=dict)


class OpenCLDevice:
    """One device and one in-order queue, and another for what is copied meanwhile.
    Not for use by several threads at once."""

    dialect = "opencl"

    def __init__(self, found: Found, cache: KernelCache | None = None, options: Sequence[str] = OPTIONS) -> None:
        cl = opencl()
        self._options = tuple(options)
        self._cl, self._found, self._device = cl, found, found.handle
        self.name = found.title
        self.cache = cache or KernelCache()
        self._filling: Any = None  # the queue of `fill`, once it is used
        self._waiter = Waiter()  # whatever may last as long as a kernel, or a compiler, does
        try:
            self._context = cl.Context([self._device])
            # Profiling cost nothing measurable on the CPU runtimes, so every launch can be timed.
            self._queue = cl.CommandQueue(self._context, properties=cl.command_queue_properties.PROFILING_ENABLE)
        except cl.Error as error:
            raise DeviceError(f"it cannot be opened: {code(error)}.", where=self.name, fix=OTHER) from None

    @property
    def found(self) -> Found:
        """What it was opened as."""
        return self._found

    def facts(self) -> dict[str, Any]:
        """Names, versions and limits (bytes, work-items)."""
        return self._found.facts()

    def prepare(self, programs: Sequence[tuple[str, str]], apart: bool) -> None:
        """Have programs (source, entry) that are not in the cache compiled into it by other processes: by one, if that
        is to be `apart`, as each takes memory; by several where there are cores and programs enough for two. Never
        fails: `build` says what is wrong."""
        missing = [one for one in programs if not self.cache.holds(self._keyed(one[0])[1])]
        if not missing:
            return
        room = available_memory()
        most = COMPILERS if room is None else min(room // COMPILER_BYTES, COMPILERS)
        processes = 1 if apart else min(len(available_cores()), len(missing) // PART, most)
        if apart or processes > 1:
            compile_apart(self._found.index, self.cache, self._options, missing, processes)

    def _keyed(self, source: str) -> tuple[tuple[str, ...], str]:
        """The options that a source is compiled with, and the key of what comes of it."""
        options = (*self._options, *options_for(source, self._found))
        return options, self.cache.key(source, " ".join(options), *self._found.identity)

    def build(self, source: str, entry: str, where: str) -> Any:
        """Compile, or take the cached binary; one that the driver refuses is built again from source.

        Raises:
            KernelBuildError: with the driver's log, which names the kernel file and line.
        """
        cl, (options, key) = self._cl, self._keyed(source)
        if (binary := self.cache.load(key)) is not None:
            try:
                return self._loaded(binary, entry, options)
            except (cl.Error, RuntimeError) as error:
                log.warning("%s: the driver refused a cached kernel (%s); it is built again", where, code(error))
                self.cache.drop(key)
        try:
            built, kernel = self._waiter(lambda: compile_program(cl.Program(self._context, source), entry, options))
        except (cl.Error, RuntimeError) as error:
            raise self._build_error(str(error), where) from None
        binary = built.get_info(cl.program_info.BINARIES)[0]
        self.cache.save(key, binary)
        # What a program is compiled from stays with it, 4 MB in Intel's runtime, where one of its binary takes 0.5.
        with contextlib.suppress(cl.Error, RuntimeError):
            return self._loaded(binary, entry, options)
        return _Program(built, [kernel], entry)

    def _loaded(self, binary: bytes, entry: str, options: Sequence[str]) -> _Program:
        """A program of what a driver compiled before. Raises pyopencl's errors where it refuses that."""
        cl = self._cl
        built, kernel = self._waiter(
            lambda: compile_program(cl.Program(self._context, [self._device], [binary]), entry, options)
        )
        return _Program(built, [kernel], entry)

    def _build_error(self, text: str, where: str) -> KernelBuildError:
        """File, line and reason first, then as much of the driver's log as a screen holds."""
        lines = [line for line in text.splitlines() if line.strip() and not any(noise in line for noise in _NOISE)]
        reason = lines[0] if lines else "it gave no reason"
        if place := next((found for line in lines if "error" in line and (found := _PLACE.search(line))), None):
            reason = f"line {place[2]} of {place[1]}: {place[3].strip()}"
        shown = lines[1:LOG_LINES] + [f"... {len(lines) - LOG_LINES} more lines"] * (len(lines) > LOG_LINES)
        what = f"the driver of {self.name} ({self._found.platform} {self._found.driver}) refused it: {reason}"
        return KernelBuildError("\n".join([what, *shown]), where=where)

    def alloc(self, nbytes: int, what: str) -> Any:
        """A read-write buffer.

        Raises:
            DeviceError: it is over the device's limit, or the driver has no memory left.
        """
        return self._buffer(self._cl.mem_flags.READ_WRITE, nbytes, what, SMALLER)

    def upload(self, data: np.ndarray, what: str) -> Any:
        """A read-only buffer: the array itself where the device is a CPU,
        so a mapped file is never copied; else a copy.

        Raises:
            DeviceError: as `alloc`.
        """
        flags = self._cl.mem_flags
        if self._found.kind == "cpu":
            return self._buffer(flags.READ_ONLY | flags.USE_HOST_PTR, data.nbytes, what, OTHER, data)
        buffer = self._buffer(flags.READ_ONLY, data.nbytes, what, OTHER)
        flat = data.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK]
            copy = functools.partial(self._cl.enqueue_copy, self._queue, buffer, part, dst_offset=start)
            self._guard(f"copying {what}", copy)
        return buffer

    def _buffer(self, flags: Any, nbytes: int, what: str, fix: str, data: np.ndarray | None = None) -> Any:
        limit = self._device.max_mem_alloc_size
        if nbytes > limit:
            raise DeviceError(
                f"it needs {_mb(nbytes)} at once, and {self.name} gives at most {_mb(limit)}.", where=what, fix=fix
            )
        try:
            if data is None:
                return self._cl.Buffer(self._context, flags, size=max(nbytes, 1))
            return self._cl.Buffer(self._context, flags, hostbuf=data)
        except (self._cl.Error, MemoryError) as error:
            has = _mb(self._device.global_mem_size)
            raise DeviceError(
                f"{self.name} ({has}) could not give {_mb(nbytes)}: {code(error)}.", where=what, fix=fix
            ) from None

    def sub(self, buffer: Any, offset: int, nbytes: int) -> Any:
        """Bytes `offset` to `offset + nbytes` of a buffer, as a buffer that shares them."""
        try:
            return buffer.get_sub_region(offset, nbytes)
        except self._cl.Error as error:
            raise self._failure(error, f"bytes {offset} to {offset + nbytes} of a buffer") from None

    def image(self, buffer: Any, width: int, height: int, dtype: str, what: str) -> Any:
        """A read-only image of texels of four elements over a buffer's bytes.

        Raises:
            DeviceError: it is larger than the device's images, or the driver refuses it, such as for rows of a number
                of texels that it cannot align.
        """
        cl, shown = self._cl, f"an image of {width} by {height} texels"
        most = self._device.image2d_max_width, self._device.image2d_max_height
        if width > most[0] or height > most[1]:
            text = f"it is read as {shown}, and {self.name} takes at most {most[0]} by {most[1]}."
            raise DeviceError(text, where=what, fix=TARGET)
        order, kinds = cl.channel_order.RGBA, {"f16": cl.channel_type.HALF_FLOAT, "f32": cl.channel_type.FLOAT}
        desc = cl.ImageDescriptor()
        desc.image_type, desc.shape, desc.pitches = cl.mem_object_type.IMAGE2D, (width, height), (0, 0)
        desc.num_mip_levels, desc.num_samples, desc.buffer = 0, 0, buffer
        try:
            return cl.Image(self._context, cl.mem_flags.READ_ONLY, cl.ImageFormat(order, kinds[dtype]), desc=desc)
        except cl.Error as error:
            text = f"{self.name} could not read {dtype} as {shown} over a buffer: {code(error)}."
            raise DeviceError(text, where=what, fix=TARGET) from None

    def write(self, buffer: Any, data: np.ndarray) -> None:
        """Copy a contiguous array in; returns when it is there."""
        self._guard("write", lambda: self._cl.enqueue_copy(self._queue, buffer, np.ascontiguousarray(data)))

    def give(self, buffer: Any, data: np.ndarray) -> None:
        """Copy an array in before what is launched next."""
        self.write(buffer, data)

    def fill(self, buffer: Any, offset: int, data: np.ndarray) -> None:
        """Copy bytes in on a queue of its own, beside the kernels of the other; returns when they are there."""
        if self._filling is None:
            self._filling = self._cl.CommandQueue(self._context)
        copy = functools.partial(self._cl.enqueue_copy, self._filling, buffer, data, dst_offset=offset)
        self._guard("fill", copy)

    def read(self, buffer: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Wait for all work, then copy out."""
        out = np.empty(shape, dtype)
        self._guard("read", lambda: self._cl.enqueue_copy(self._queue, out, buffer))
        return out

    def copy(self, source: Any, target: Any, nbytes: int, offset: int = 0) -> None:
        """Enqueue a copy of the first `nbytes` of one buffer to `offset` bytes into another."""
        copy = functools.partial(
            self._cl.enqueue_copy, self._queue, target, source, byte_count=nbytes, dst_offset=offset
        )
        self._guard("copy", copy)

    def bind(self, program: Any, buffers: Sequence[Any], scalars: Sequence[int | float], where: str = "") -> Any:
        """A kernel and its arguments.
        Setting them at each launch takes 4 us where their types were told once; 15 us per number where not.

        Launches share one kernel object, as making one takes pyopencl longer than most kernels run. set_args keeps no
        buffer alive; the result does.

        Raises:
            DeviceError: the kernel takes other arguments.
        """
        types = (*[None] * len(buffers), *(np.float32 if isinstance(value, float) else np.int32 for value in scalars))
        where = where or program.entry
        try:
            if types not in program.kernels:
                kernel = program.spare.pop() if program.spare else self._cl.Kernel(program.built, program.entry)
                if any(types):
                    kernel.set_scalar_arg_dtypes(types)
                program.kernels[types] = kernel
            program.kernels[types].set_args(*buffers, *scalars)
        except (self._cl.Error, TypeError, RuntimeError, struct.error) as error:  # TypeError: another number of them
            what = (
                f"its arguments ({len(buffers)} buffers, {len(scalars)} numbers) do not fit the kernel "
                f"({code(error).partition(':')[0]})."
            )
            raise DeviceError(what, where=where, fix="convert the checkpoint again") from None
        return program.kernels[types], (*buffers, *scalars), where

    def launch(self, bound: Any, grid: tuple[int, int, int], group: tuple[int, int, int]) -> Any:
        """Enqueue a bound kernel; returns what `wait` and `seconds` take.

        Raises:
            DeviceError: the driver refused the launch.
        """
        kernel, arguments, where = bound
        try:
            kernel.set_args(*arguments)
            return self._cl.enqueue_nd_range_kernel(self._queue, kernel, grid, group)
        except self._cl.Error as error:
            raise self._failure(error, f"{where}, grid {grid}, group {group}") from None

    def flush(self) -> None:
        """See that the device begins with what was enqueued."""
        try:
            self._queue.flush()
        except self._cl.Error as error:
            raise self._failure(error, "flush") from None

    def wait(self, launched: Any) -> None:
        """Until this launch, and all before it, are done."""
        self._guard("wait", launched.wait)

    def waiting(self, launched: Any) -> Callable[[], None]:
        """Begin to wait for this launch, beside what other devices do; what is returned ends that, before anything else
        is asked. Intel's CPU runtime computes on the thread that waits, so devices that are to compute at the same time
        must all be waited for."""

        def wait() -> None:
            self._queue.flush()
            launched.wait()

        return self._begun("wait", wait, lambda made: None)

    def reading(self, buffer: Any, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
        """Begin to `read`, as `waiting` does."""
        out = np.empty(shape, dtype)
        return self._begun("read", lambda: self._cl.enqueue_copy(self._queue, out, buffer), lambda made: out)

    def seconds(self, launched: Any) -> float:
        """Device time of a finished launch."""
        return (launched.profile.end - launched.profile.start) * 1e-9

    def span(self, launched: Any) -> tuple[float, float]:
        """Device clock at a finished launch's begin and end."""
        return launched.profile.start * 1e-9, launched.profile.end * 1e-9

    def finish(self) -> None:
        """Wait for all work."""
        self._guard("finish", self._queue.finish)

    def settle(self, seconds: float) -> bool:
        """Wait for all work, but not longer than this; whether it is done."""
        return self._waiter.within(self._queue.finish, seconds)

    def _guard(self, what: str, call: Callable[[], Any]) -> Any:
        """Make a call that waits for the device. Ctrl-C is heard."""
        try:
            return self._waiter(call)
        except self._cl.Error as error:
            raise self._failure(error, what) from None

    def _begun(self, what: str, call: Callable[[], Any], give: Callable[[Any], Any]) -> Callable[[], Any]:
        """Begin such a call; what is returned ends it."""
        end = self._waiter.begin(call)

        def ended() -> Any:
            try:
                return give(end())
            except self._cl.Error as error:
                raise self._failure(error, what) from None

        return ended

    def _failure(self, error: Exception, what: str) -> DeviceError:
        fix = SMALLER if any(name in str(error) for name in _MEMORY) else OTHER
        return DeviceError(f"{self.name} failed: {code(error)}.", where=what, fix=fix)


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
