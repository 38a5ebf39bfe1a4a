"""Metal on the CPU, as a device."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kernels.array_device import ArrayDevice, Bound, Image
from metal import build

from ondevice.errors import DeviceError

WHY = 1000  # bytes of a reason
LONGEST = 120  # seconds of a launch
REPORTED = 40  # lines of a sanitizer's report


@dataclass(frozen=True, slots=True)
class Program:
    """A kernel that was built: a function of this process, or the path of an executable."""

    run: Any
    kinds: tuple[str, ...]


class _Texture(ctypes.Structure):
    _fields_ = [("texels", ctypes.c_void_p), *((name, ctypes.c_uint) for name in ("width", "height", "pitch", "half"))]


class MetalOnCpu(ArrayDevice):
    """Runs launches in this process, or with `sanitized` each in one of its own, under the address and
    undefined-behaviour sanitizers, where every operand is an allocation of exactly its size.

    Args:
        folder: where kernels that were compiled are kept.
        sub_group: work-items of a SIMD-group: 8, 16, 32 or 64.
        reverse: run work-items and groups from last to first.
        sanitized: check every access.
    """

    dialect = "metal"
    caps = ("half", "image2d", "matrix_unit", "subgroups")

    def __init__(self, folder: Path, sub_group: int = 32, *, reverse: bool = False, sanitized: bool = False) -> None:
        self.name = f"Metal on the CPU, SIMD-groups of {sub_group}{', reverse' * reverse}{', sanitized' * sanitized}"
        self.sub_group, self.reverse, self.sanitized, self._folder = sub_group, reverse, sanitized, folder
        if not sanitized:  # kernels find its symbols
            ctypes.CDLL(str(build.runtime(folder)), ctypes.RTLD_GLOBAL)

    def build(self, source: str, entry: str, where: str) -> Program:
        """Compile a kernel. Raises KernelBuildError."""
        if self.sanitized:
            return Program(*build.program(source, entry, self._folder))
        path, kinds = build.library(source, entry, self._folder)
        function = ctypes.CDLL(str(path)).shim_run
        function.restype = ctypes.c_long
        return Program(function, kinds)

    def flush(self) -> None:
        """Nothing waits to begin."""

    def run(self, bound: Bound, grid: Sequence[int], group: Sequence[int]) -> int:
        kinds = tuple(
            "texture" if isinstance(one, Image) else "value" if one.dtype != np.uint8 else "buffer"
            for one in bound.operands
        )
        assert kinds == bound.program.kinds, f"given {kinds}, and it takes {bound.program.kinds}"
        groups = [size // step for size, step in zip(grid, group, strict=True)]
        return (self._run_apart if self.sanitized else self._run_here)(bound, groups, group)

    def _run_here(self, bound: Bound, groups: Sequence[int], sizes: Sequence[int]) -> int:
        held: list[Any] = [
            _Texture(one.buffer.ctypes.data, *_layout(one)) if isinstance(one, Image) else one for one in bound.operands
        ]
        places = [ctypes.addressof(one) if isinstance(one, _Texture) else one.ctypes.data for one in held]
        operands, three, why = ctypes.c_void_p * len(places), ctypes.c_uint * 3, ctypes.create_string_buffer(WHY)
        local: int = bound.program.run(
            operands(*places),
            three(*groups),
            three(*sizes),
            self.sub_group,
            int(self.reverse),
            why,
            ctypes.c_ulong(WHY),
        )
        if local < 0:
            raise DeviceError(why.value.decode(), where=bound.where)
        return local

    def _run_apart(self, bound: Bound, groups: Sequence[int], sizes: Sequence[int]) -> int:
        job = struct.pack("=9I", len(bound.operands), self.sub_group, int(self.reverse), *groups, *sizes)
        arrays = [one.buffer if isinstance(one, Image) else one for one in bound.operands]
        for one, array in zip(bound.operands, arrays, strict=True):
            layout = _layout(one) if isinstance(one, Image) else (0, 0, 0, 0)
            job += struct.pack("=6I", isinstance(one, Image), array.nbytes, *layout) + array.tobytes()
        environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
        how = {"input": job, "capture_output": True, "env": environment, "timeout": LONGEST}
        done = subprocess.run([bound.program.run], **how, check=False)
        if done.returncode:
            report = done.stderr.decode(errors="replace").splitlines()[:REPORTED]
            raise DeviceError("\n".join(["an access was refused:", *report]), where=bound.where)
        start = 8
        for array in arrays:
            array.view(np.uint8)[:] = np.frombuffer(done.stdout, np.uint8, array.nbytes, start)
            start += array.nbytes
        return int.from_bytes(done.stdout[:8], "little", signed=True)


def _layout(image: Image) -> tuple[int, int, int, int]:
    """Width, height, elements per row, whether in half."""
    return image.width, image.height, 4 * image.width, int(image.dtype == "f16")
