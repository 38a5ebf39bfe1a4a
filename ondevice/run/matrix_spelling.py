"""How a device's compiler is told of a matrix unit: a define for programs that multiply in it, where this machine's CPU
has one, the process may use it, and a small kernel that does gives the right numbers.

That kernel runs in a process of its own: a compiler that does not know the instruction ends the process, and so does a
CPU. What it found is remembered beside compiled kernels. Without the define the same programs are plain C, slower and
as right.
"""

from __future__ import annotations

import functools
import logging
import re
import subprocess
import sys
from typing import Any

import numpy as np

from ondevice.base.matrix_unit import AMX, DPBF16, MatrixUnit, matrix_unit
from ondevice.run.cache import KernelCache
from ondevice.run.discovery import OPTIONS, Found, compile_program, discover, opencl, unit_of

log = logging.getLogger(__name__)
DEFINES = {AMX: "OD_AMX", DPBF16: "OD_DPBF16"}
SECONDS = 60.0  # that a compiler may take over a small kernel
_ASKS = re.compile(r"^#define MATH_\w+ 1$", re.M)  # of programs that multiply in another math than float32
_RIGHT = b"right"

# Sums of 16 rows by 16 columns of 32 products each: `left` in rows, `right` in pairs of rows, as the unit reads them.
PROBES = {
    DPBF16: """
typedef __bf16 pairs __attribute__((ext_vector_type(32)));
float16 dot(float16 sum, pairs a, pairs b) __asm("llvm.x86.avx512bf16.dpbf16ps.512");
__kernel void probe(__global const int* left, __global const int* right, __global float* sums) {
  for (int row = 0; row < 16; row++) {
    float16 sum = 0.0f;
    for (int k = 0; k < 16; k++) {
      const int16 a = (int16)(left[row * 16 + k]), b = vload16(k, right);
      sum = dot(sum, __builtin_astype(a, pairs), __builtin_astype(b, pairs));
    }
    vstore16(sum, row, sums);
  }
}""",
    AMX: """
__kernel void probe(__global const int* left, __global const int* right, __global float* sums) {
  uchar shapes[64] __attribute__((aligned(64)));
  for (int i = 0; i < 64; i++) shapes[i] = 0;
  shapes[0] = 1;
  for (int tile = 0; tile < 3; tile++) {
    shapes[16 + 2 * tile] = 64;
    shapes[48 + tile] = 16;
  }
  const long stride = 64;
  __asm__ volatile("ldtilecfg (%0)" ::"r"(shapes) : "memory");
  __asm__ volatile("tilezero %%tmm0" ::: "memory");
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm1" ::"r"(left), "r"(stride) : "memory");
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm2" ::"r"(right), "r"(stride) : "memory");
  __asm__ volatile("tdpbf16ps %%tmm2, %%tmm1, %%tmm0" ::: "memory");
  __asm__ volatile("tilestored %%tmm0, (%0,%1,1)" ::"r"(sums), "r"(stride) : "memory");
  __asm__ volatile("tilerelease" ::: "memory");
}""",
}


def options_for(source: str, found: Found) -> tuple[str, ...]:
    """Options of a build beside the usual ones: how the matrix unit is spelled, for a program that multiplies in it."""
    if not _ASKS.search(source):
        return ()
    if not (unit := usable(found)).name:
        _said(found)
        return ()
    return (f"-D{DEFINES[unit.name]}=1",)


@functools.cache
def usable(found: Found) -> MatrixUnit:
    """What a device offers and a probe has seen to be right."""
    unit = unit_of(found)
    wrong = _probed(found, unit.name) if unit.name else None
    return MatrixUnit("", wrong) if wrong else unit


@functools.cache
def _said(found: Found) -> None:
    """Once, as it is slow."""
    log.warning("products in bf16 are computed in plain C on %s: %s", found.name, usable(found).why)


def _probed(found: Found, name: str) -> str | None:
    """Why the unit is not used after all; None where its numbers are right."""
    cache, key = KernelCache(), KernelCache.key(PROBES[name], *OPTIONS, *found.identity)
    if cache.load(key) == _RIGHT:
        return None
    words = [sys.executable, "-m", "ondevice.run.matrix_spelling", found.index, name]
    try:
        done = subprocess.run(words, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"a kernel that tries it could not be run ({type(error).__name__})"
    if done.returncode:
        return f"a kernel that tries it {done.stdout.decode().strip() or f'ended its process ({done.returncode})'}"
    cache.save(key, _RIGHT)
    return None


def probe(device: Any, name: str) -> str | None:
    """Multiply two matrices on a pyopencl device with the unit. What is wrong; None where nothing is.
    It may end the process."""
    cl, rng = opencl(), np.random.default_rng(0)
    left, right = (_bfloats(rng.standard_normal(shape).astype(np.float32)) for shape in ((16, 32), (32, 16)))
    pairs = right.reshape(16, 2, 16).transpose(0, 2, 1)
    context = cl.Context([device])
    queue = cl.CommandQueue(context)
    flags = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
    given = [cl.Buffer(context, flags, hostbuf=_halves(side)) for side in (left, pairs)]
    sums, got = cl.Buffer(context, cl.mem_flags.WRITE_ONLY, 16 * 16 * 4), np.zeros((16, 16), np.float32)
    try:
        _, kernel = compile_program(cl.Program(context, PROBES[name]), "probe")
        kernel(queue, (1,), (1,), *given, sums)
        cl.enqueue_copy(queue, got, sums)
    except (cl.Error, RuntimeError) as error:
        return f"does not run ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    worst = float(np.abs(got - left.astype(np.float64) @ right).max())
    return None if worst < 1e-4 else f"is off by {worst:.2g}"


def _bfloats(values: np.ndarray) -> np.ndarray:
    """The values as bfloat16 holds them when the rest is cut off; float32."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _halves(values: np.ndarray) -> np.ndarray:
    """The upper halves of the values' bits: bfloat16."""
    return np.ascontiguousarray((np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16))


def main(index: str, name: str) -> int:
    """Try the unit on the device of this index, in a process of its own; prints what is wrong."""
    if name == AMX:
        matrix_unit()  # the permission is the process's
    device = next(found.handle for found in discover()[0] if found.index == index)
    if wrong := probe(device, name):
        print(wrong)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
