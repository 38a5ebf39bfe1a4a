"""OpenCL devices: what there is, which to use and why not the others, and the device verbs on top of pyopencl.

pyopencl is imported on first use, after icd.py has made the drivers visible; importing this module costs nothing.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ondevice.errors import DeviceError, KernelBuildError, NoDeviceError
from ondevice.run import icd
from ondevice.run.cache import KernelCache

log = logging.getLogger(__name__)

OPTIONS = ["-cl-std=CL1.2"]
EMBEDDED = "Intel(R) OpenCL"
INSTALL = 'pip install "ondevice[cpu]" (a CPU runtime, no root needed), or install your GPU vendor\'s OpenCL driver'
_PROBE = "__kernel void probe(__global float* x) { x[get_global_id(0)] = vload_half(0, (const __global half*)x); }"


@dataclass(frozen=True, slots=True)
class Found:
    """A device that a driver reports. `refused` says why it cannot be used; None if it can."""

    index: str  # "platform:device"
    name: str
    platform: str
    version: str
    driver: str
    kind: str  # cpu, gpu, accelerator, other
    refused: str | None
    handle: Any

    @property
    def rank(self) -> int:
        """Order of preference: GPU, the embedded CPU runtime, other CPUs, the rest."""
        if self.kind == "gpu":
            return 0
        return (1 if self.platform.startswith(EMBEDDED) else 2) if self.kind == "cpu" else 3


@functools.cache
def _cl() -> Any:
    os.environ.setdefault("PYOPENCL_NO_CACHE", "1")  # one cache, ours
    os.environ.setdefault("PYOPENCL_COMPILER_OUTPUT", "0")
    _embedded()
    try:
        import pyopencl
    except (ImportError, OSError) as error:
        raise NoDeviceError(f"pyopencl cannot be imported: {error}.", where="OpenCL", fix="pip install --force-reinstall pyopencl") from None
    return pyopencl


@functools.cache
def _embedded() -> str | None:
    """Why the embedded runtime is not visible; None if it is."""
    return icd.prepare()


@functools.cache
def discover() -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """(devices, best first; remarks on what was looked for and not found)."""
    cl = _cl()
    remarks = [f"embedded CPU runtime: {why}"] if (why := _embedded()) else []
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        return (), (*remarks, f"OpenCL loader: {_code(error)}")
    found = []
    for p, platform in enumerate(platforms):
        try:
            devices = platform.get_devices()
        except cl.Error as error:
            remarks.append(f"{platform.name}: {_code(error)}")
            continue
        found += [_describe(f"{p}:{d}", device) for d, device in enumerate(devices)]
    return tuple(sorted(found, key=lambda device: (device.refused is not None, device.rank))), tuple(remarks)


def _describe(index: str, device: Any) -> Found:
    kinds = {_cl().device_type.GPU: "gpu", _cl().device_type.CPU: "cpu", _cl().device_type.ACCELERATOR: "accelerator"}
    kind = next((name for flag, name in kinds.items() if device.type & flag), "other")
    facts = (device.name.strip(), device.platform.name.strip(), device.version.strip(), device.driver_version.strip())
    return Found(index, *facts, kind, _unusable(device), device)


def _unusable(device: Any) -> str | None:
    """Build and forget a tiny kernel: some drivers report a device for which they cannot compile."""
    cl = _cl()
    if not device.available or not device.compiler_available:
        return "its driver says it is not available, or has no compiler"
    if "FPGA" in device.name or "FPGA" in device.platform.name:
        return "an FPGA emulator"
    if not device.endian_little:
        return "big-endian"
    try:
        cl.Kernel(cl.Program(cl.Context([device]), _PROBE).build(options=OPTIONS), "probe")
    except (cl.Error, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "error" in line.lower() or "unknown" in line.lower()), lines[0] if lines else "?")
        return f"it cannot build a kernel: {reason[:200]}"
    return None


def choose_device(spec: str | None = None) -> OpenCLDevice:
    """The device that `spec` (else `ONDEVICE_DEVICE`) asks for, or the best one: GPU, then embedded CPU runtime, then other CPUs.

    Args:
        spec: "0" (place in `ondevice devices`), "1:0" (platform and device), "cpu", "gpu", or part of a name.

    Raises:
        NoDeviceError: there is none, or none that fits; lists what was found and why it was not used.
    """
    found, remarks = discover()
    spec = spec or os.environ.get("ONDEVICE_DEVICE") or None
    there = "; ".join([*(f"{d.index} {d.name} [{d.platform}]{f': {d.refused}' if d.refused else ''}" for d in found), *remarks])
    usable = [device for device in found if device.refused is None]
    if not usable:
        raise NoDeviceError(f"no usable OpenCL device ({there or 'no driver'}).", fix=INSTALL)
    if spec is None:
        return OpenCLDevice(usable[0])
    wanted = spec.lower()
    fits = [d for d in found if wanted in (d.index, d.kind) or (not wanted.isdecimal() and wanted in f"{d.name} {d.platform}".lower())]
    if wanted.isdecimal() and int(wanted) < len(found):
        fits = [found[int(wanted)]]
    if not fits:
        raise NoDeviceError(f"no device fits {spec!r} (found: {there}).", where="--device", fix="name one that `ondevice devices` lists")
    if fits[0].refused:
        raise NoDeviceError(f"{fits[0].name} cannot be used: {fits[0].refused}.", where="--device", fix="name another that `ondevice devices` lists")
    return OpenCLDevice(fits[0])


def _code(error: Exception) -> str:
    """A driver's code by name, as pyopencl words it."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class OpenCLDevice:
    """The device verbs of device.py on one in-order queue."""

    dialect = "opencl"

    def __init__(self, found: Found, cache: KernelCache | None = None) -> None:
        cl = _cl()
        self._cl, self._found, self._device = cl, found, found.handle
        self.name = found.name
        self.cache = cache or KernelCache()
        self._context = cl.Context([self._device])
        self._queue = cl.CommandQueue(self._context, properties=cl.command_queue_properties.PROFILING_ENABLE)

    def facts(self) -> dict[str, Any]:
        """Names, versions and limits (bytes, work-items)."""
        device, found = self._device, self._found
        return {
            "name": found.name,
            "platform": found.platform,
            "version": found.version,
            "driver": found.driver,
            "kind": found.kind,
            "compute_units": device.max_compute_units,
            "global_bytes": device.global_mem_size,
            "max_alloc_bytes": device.max_mem_alloc_size,
            "max_work_group": device.max_work_group_size,
            "half": "cl_khr_fp16" in device.extensions,
            "sub_groups": "cl_khr_subgroups" in device.extensions or "cl_intel_subgroups" in device.extensions,
        }

    def build(self, source: str, entry: str, where: str) -> Any:
        """Compile, or take the cached binary; one that the driver refuses is built again from source.

        Raises:
            KernelBuildError: with the driver's log, which names the kernel file and line.
        """
        cl = self._cl
        key = self.cache.key(source, " ".join(OPTIONS), self._found.name, self._found.platform, self._found.version, self._found.driver)
        if (binary := self.cache.load(key)) is not None:
            try:
                program = cl.Program(self._context, [self._device], [binary]).build(options=OPTIONS)
                cl.Kernel(program, entry)
                return program, entry
            except (cl.Error, RuntimeError) as error:
                log.warning("the driver refused a cached kernel (%s); it is built again", _code(error))
                self.cache.drop(key)
        try:
            program = cl.Program(self._context, source).build(options=OPTIONS)
            cl.Kernel(program, entry)  # Mali compiles here, so the binary is complete only now
        except (cl.Error, RuntimeError) as error:
            lines = [line for line in str(error).splitlines() if line.strip() and "(options:" not in line and "(source saved" not in line]
            raise KernelBuildError(f"the driver of {self.name} refused it:\n" + "\n".join(lines[:20]), where=where) from None
        self.cache.save(key, program.get_info(cl.program_info.BINARIES)[0])
        return program, entry

    def alloc(self, nbytes: int, what: str) -> Any:
        """A read-write buffer.

        Raises:
            DeviceError: it is over the device's limit, or the driver has no memory left.
        """
        return self._buffer(self._cl.mem_flags.READ_WRITE, nbytes, what, None)

    def upload(self, data: np.ndarray, what: str) -> Any:
        """A read-only buffer: the array itself where host and device share memory, so a mapped file is never copied."""
        flags = self._cl.mem_flags
        shared = self._found.kind == "cpu" or bool(self._device.host_unified_memory)
        use = flags.USE_HOST_PTR if shared else flags.COPY_HOST_PTR
        return self._buffer(flags.READ_ONLY | use, data.nbytes, what, data)

    def _buffer(self, flags: Any, nbytes: int, what: str, data: np.ndarray | None) -> Any:
        limit = self._device.max_mem_alloc_size
        fix = "use a smaller --size, or another --device"
        if nbytes > limit:
            raise DeviceError(f"it needs {_mb(nbytes)}, and {self.name} gives at most {_mb(limit)} at once.", where=what, fix=fix)
        try:
            if data is None:
                return self._cl.Buffer(self._context, flags, size=max(nbytes, 1))
            return self._cl.Buffer(self._context, flags, hostbuf=data)
        except self._cl.Error as error:
            raise DeviceError(f"{self.name} could not give {_mb(nbytes)}: {_code(error)}.", where=what, fix=fix) from None

    def sub(self, buffer: Any, offset: int, nbytes: int) -> Any:
        """Bytes `offset` to `offset + nbytes` of a buffer, as a buffer."""
        return buffer.get_sub_region(offset, nbytes)

    def write(self, buffer: Any, data: np.ndarray) -> None:
        """Copy a contiguous array in; returns when it is there."""
        self._guard("write", lambda: self._cl.enqueue_copy(self._queue, buffer, np.ascontiguousarray(data)))

    def read(self, buffer: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Wait for all work, then copy out."""
        out = np.empty(shape, dtype)
        self._guard("read", lambda: self._cl.enqueue_copy(self._queue, out, buffer))
        return out

    def bind(self, program: Any, buffers: Sequence[Any], scalars: Sequence[int | float]) -> Any:
        """A kernel of its own with its arguments preset. set_args keeps no buffer alive, so they are returned beside it."""
        kernel = self._cl.Kernel(*program)
        kernel.set_args(*buffers, *(np.float32(s) if isinstance(s, float) else np.int32(s) for s in scalars))
        return kernel, tuple(buffers)

    def launch(self, bound: Any, grid: tuple[int, int, int], group: tuple[int, int, int]) -> Any:
        """Enqueue a bound kernel.

        Raises:
            DeviceError: the driver refused the launch.
        """
        return self._guard("launch", lambda: self._cl.enqueue_nd_range_kernel(self._queue, bound[0], grid, group))

    def seconds(self, launched: Any) -> float:
        """Device time of a finished launch."""
        return (launched.profile.end - launched.profile.start) * 1e-9

    def finish(self) -> None:
        """Wait for all work."""
        self._guard("finish", self._queue.finish)

    def _guard(self, what: str, call: Any) -> Any:
        try:
            return call()
        except self._cl.Error as error:
            raise DeviceError(f"{_code(error)}.", where=f"{self.name}: {what}", fix="run `ondevice devices`, and try another --device") from None


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
