"""Which OpenCL devices there are, why some are not used, and which one a user means.

pyopencl is imported on first use, after icd.py has made the drivers visible; importing this module costs nothing.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ondevice.base import machine
from ondevice.base.matrix_unit import MatrixUnit, matrix_unit
from ondevice.errors import NoDeviceError
from ondevice.run import icd
from ondevice.run.cache import KernelCache
from ondevice.run.compiled_apart import compile_apart

OPTIONS = ("-cl-std=CL1.2",)
PLAIN = (*OPTIONS, "-cl-opt-disable")  # as a driver builds it that is not to optimize
EMBEDDED = "Intel(R) OpenCL"  # platform name of the extra `cpu`, and of Intel's CPU runtime where the system has it
INSTALL = (
    'run pip install "ondevice[cpu]" (a CPU runtime, no root needed), or install your GPU vendor\'s OpenCL driver '
    "or apt-get install pocl-opencl-icd"
)
LIMIT = "CL_CONFIG_CPU_TARGET_ARCH"  # Intel's CPU runtime then compiles for an older CPU
LIST = "name one that `ondevice devices` lists"
_PROBE = "__kernel void probe(__global float* x) { x[get_global_id(0)] = vload_half(0, (const __global half*)x); }"


@dataclass(frozen=True, slots=True)
class Found:
    """A device that a driver reports."""

    index: str  # "platform:device", as the loader counts them
    name: str
    platform: str
    version: str
    driver: str
    kind: str  # cpu, gpu, accelerator, other
    handle: Any
    part: str = ""  # of a device that was cut: which it is

    @property
    def title(self) -> str:
        """Its name, and which part of it this is."""
        return f"{self.name}, {self.part}" if self.part else self.name

    @property
    def rank(self) -> int:
        """Order of preference: GPU, the embedded CPU runtime, other CPUs, the rest."""
        if self.kind == "gpu":
            return 0
        return (1 if self.platform.startswith(EMBEDDED) else 2) if self.kind == "cpu" else 3

    @property
    def identity(self) -> tuple[str, ...]:
        """Everything about a device that a compiled kernel depends on. Of a CPU that is more than its name: two of one
        name, on machines that share a home or in virtual ones, may have other instructions."""
        features = machine.cpu_features() if self.kind == "cpu" else ""
        return (
            self.name,
            self.platform,
            self.handle.platform.version,
            self.version,
            self.driver,
            os.environ.get(LIMIT, ""),
            features,
        )

    @property
    def refused(self) -> str | None:
        """Why it cannot be used; None if it can. The answer needs a build, so it is looked for when first asked."""
        return _refusal(self)

    def facts(self) -> dict[str, Any]:
        """Names, versions and limits (bytes, work-items): what a benchmark row or a bug report must say."""
        device, unit = self.handle, unit_of(self)
        return {
            "name": self.title,
            "platform": self.platform,
            "vendor": device.vendor.strip(),
            "version": self.version,
            "driver": self.driver,
            "kind": self.kind,
            "compute_units": device.max_compute_units,
            "vector_floats": device.native_vector_width_float,
            "global_bytes": device.global_mem_size,
            "max_alloc_bytes": device.max_mem_alloc_size,
            "max_work_group": device.max_work_group_size,
            "local_bytes": device.local_mem_size,
            "max_image_width": device.image2d_max_width if device.image_support else 0,
            "max_image_height": device.image2d_max_height if device.image_support else 0,
            "alignment": device.mem_base_addr_align // 8,
            "caps": sorted({*capabilities(device), *["matrix_unit"] * bool(unit.name)}),
            "matrix_unit": unit.name,
            "maps_weights": self.kind == "cpu",
        }


def capabilities(device: Any) -> list[str]:
    """What a pyopencl device has of `ondevice.target.CAPABILITIES`, sorted.

    Images over buffers are an extension of OpenCL 1.2, a part of 2.x, and an extension again of 3.0.
    """
    extensions = set(str(device.extensions).split())
    images = "cl_khr_image2d_from_buffer" in extensions or device.version.startswith("OpenCL 2.")
    has = {
        "half": "cl_khr_fp16" in extensions,
        "image2d": device.image_support and images,
        "subgroups": bool({"cl_khr_subgroups", "cl_intel_subgroups"} & extensions),
        "wave_constants": "cl_qcom_subgroup_constant_load" in extensions,
    }
    return [name for name, there in has.items() if there]


def unit_of(found: Found) -> MatrixUnit:
    """The matrix unit of a CPU that its compiler is told of, by what the machine says; nothing is built for it (that
    does matrix_unit.py). Of a GPU extensions say it instead."""
    if found.kind != "cpu":
        return MatrixUnit("", "it is no CPU")
    if not found.platform.startswith(EMBEDDED):
        return MatrixUnit("", f"{found.platform} gets plain C; it is spelled for {EMBEDDED}")
    if limit := os.environ.get(LIMIT):
        return MatrixUnit("", f"{LIMIT} is {limit!r}")
    return matrix_unit()


@functools.cache
def opencl() -> Any:
    """The pyopencl module. Raises NoDeviceError where it cannot be imported."""
    os.environ.setdefault("PYOPENCL_NO_CACHE", "1")  # one cache, ours
    embedded()
    try:
        import pyopencl
    except (ImportError, OSError) as error:
        fix = (
            f"{'unset LD_LIBRARY_PATH, or ' if os.environ.get('LD_LIBRARY_PATH') else ''}pip install "
            "--force-reinstall pyopencl"
        )
        raise NoDeviceError(f"pyopencl cannot be imported: {error}.", where="OpenCL", fix=fix) from None
    return pyopencl


def compile_program(program: Any, entry: str, options: Sequence[str] = OPTIONS) -> tuple[Any, Any]:
    """Build a pyopencl Program for the device of its context, and make its kernel: Mali compiles only then.
    Raises what pyopencl raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # drivers remark on success; a failure carries its log
        built = program.build(options=list(options))
    return built, opencl().Kernel(built, entry)


@functools.cache
def embedded() -> str | None:
    """Why the embedded runtime is not visible; None if it is."""
    return icd.prepare()


@functools.cache
def discover() -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """(devices, best first; remarks on what was looked for and not found)."""
    cl = opencl()
    remarks = [f"embedded CPU runtime: {why}"] if (why := embedded()) else []
    remarks += icd.broken()
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        return (), (*remarks, f"OpenCL loader: {code(error)}")
    found: list[Found] = []
    for p, platform in enumerate(platforms):
        try:
            devices = platform.get_devices()
            found += [_describe(f"{p}:{d}", device) for d, device in enumerate(devices)]
        except cl.Error as error:
            remarks.append(f"{platform.name}: {code(error)}")
            continue
        if not devices:
            remarks.append(f"{platform.name}: it has no devices")
    return tuple(sorted(found, key=lambda device: device.rank)), tuple(remarks)


def _describe(index: str, device: Any) -> Found:
    kinds = {
        opencl().device_type.GPU: "gpu",
        opencl().device_type.CPU: "cpu",
        opencl().device_type.ACCELERATOR: "accelerator",
    }
    kind = next((name for flag, name in kinds.items() if device.type & flag), "other")
    facts = (device.name.strip(), device.platform.name.strip(), device.version.strip(), device.driver_version.strip())
    return Found(index, *facts, kind, device)


@functools.cache
def _refusal(found: Found) -> str | None:
    cl, device = opencl(), found.handle
    if "FPGA" in found.name or "FPGA" in found.platform:
        return "an FPGA emulator"
    if not device.available or not device.compiler_available:
        return "its driver says it is not available, or has no compiler"
    if not device.endian_little:
        return "it is big-endian"
    # Some drivers report a device for which they cannot compile, so a tiny kernel is built; once it was, that
    # is remembered.
    cache, key = KernelCache(), KernelCache.key(_PROBE, *OPTIONS, *found.identity)
    if cache.load(key) is not None:
        return None
    compile_apart(found.index, cache, OPTIONS, [(_PROBE, "probe")])  # by a device's `build`, which has the same key
    if cache.load(key) is not None:
        return None
    try:
        compile_program(cl.Program(cl.Context([device]), _PROBE), "probe")
        cache.save(key, b"built")
    except (cl.Error, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        telling = [line for line in lines[1:] if "error" in line.lower() or "unknown" in line.lower()]
        return f"it cannot build a kernel: {(telling or lines or [type(error).__name__])[0][:200]}"
    return None


def find_device(spec: str | None = None) -> Found:
    """The device that `spec` (else `ONDEVICE_DEVICE`) asks for, or the best one:
    GPU, then embedded CPU runtime, then other CPUs.

    Args:
        spec: "0" (number in `ondevice devices`), "1:0" (platform and device), "cpu", "gpu", or part of a name.

    Raises:
        NoDeviceError: there is none, or none that fits; lists what was found and why it was not used.
    """
    found, remarks = discover()
    where = "--device"
    if not spec and (spec := os.environ.get("ONDEVICE_DEVICE")):
        where = "ONDEVICE_DEVICE"
    if not spec:
        usable = next((device for device in found if device.refused is None), None)
        if usable is None:
            raise NoDeviceError(f"no usable OpenCL device ({_there(found, remarks)}).", fix=_remedy(found) or INSTALL)
        return usable
    wanted = spec.lower().strip()
    if wanted.isdecimal() and len(wanted) < 10:
        fits = list(found[int(wanted) : int(wanted) + 1])
    else:
        fits = [d for d in found if wanted in (d.index, d.kind)]
        fits = fits or [
            d for d in found if ":" not in wanted and wanted in f"{d.name} {d.platform} {d.version}".lower()
        ]  # PoCL names itself only there
    if not fits:
        fix = _remedy(found) or (LIST if found else INSTALL)
        fix = f"unset {where}, or {LIST}" if where != "--device" and found else fix
        raise NoDeviceError(f"no device fits {spec[:100]!r} (found: {_there(found, remarks)}).", where=where, fix=fix)
    if (best := next((device for device in fits if device.refused is None), None)) is None:
        raise NoDeviceError(
            f"{fits[0].name} [{fits[0].platform}] cannot be used: {fits[0].refused}.",
            where=where,
            fix=_remedy(fits) or LIST,
        )
    return best


def _remedy(found: Sequence[Found]) -> str | None:
    """What helps against what was found to be the cause; None where nothing stands out."""
    if fix := icd.remedy():
        return fix
    if (limit := os.environ.get(LIMIT)) and any(
        device.platform.startswith(EMBEDDED) and device.refused for device in found
    ):
        return f"unset {LIMIT} (it is {limit!r}), or set it to instructions that this CPU has"
    return None


def _there(found: tuple[Found, ...], remarks: tuple[str, ...]) -> str:
    """What was found and why it is not used, in one line."""
    rows = [f"{n} {d.name} [{d.platform}]{f': {d.refused}' if d.refused else ''}" for n, d in enumerate(found)]
    return "; ".join([*rows, *remarks]) or "no driver is installed"


def code(error: Exception) -> str:
    """A driver's code by name, as pyopencl words it: "clCreateBuffer failed: OUT_OF_HOST_MEMORY"."""
    return str(error).splitlines()[0].rstrip(". ") if str(error) else type(error).__name__
