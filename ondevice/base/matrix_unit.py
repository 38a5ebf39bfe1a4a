"""The matrix unit of this machine's CPU: instructions that multiply small matrices of bfloat16.

Which there are, Linux says (cpuid's flags). The tiles of AMX need a permission besides, once per process: without it
the first instruction ends the process by SIGILL. It holds for threads that run already and for forked children, not for
programs that are executed. https://docs.kernel.org/arch/x86/xstate.html
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ondevice.base.machine import cpu_flags

AMX, DPBF16 = "amx", "dpbf16"
# What each is called by, best first. Beside its tiles, kernels for AMX round by an instruction of AVX512_BF16.
FLAGS = {AMX: ("amx_tile", "amx_bf16", "avx512_bf16"), DPBF16: ("avx512_bf16",)}
_ARCH_PRCTL = 158  # the number of the system call on x86-64
_REQUEST, _TILES = 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
_REASONS = {
    errno.ENOSPC: "a thread's signal stack is too small for its tiles (ENOSPC)",
    errno.EPERM: "the system does not permit its tiles (EPERM)",
}


@dataclass(frozen=True, slots=True)
class MatrixUnit:
    """What a CPU has: `name` is AMX, DPBF16 or "" for none; `why` says what speaks for it, or against a better one."""

    name: str
    why: str


def matrix_unit(flags: Collection[str] | None = None, request: Callable[[], int] | None = None) -> MatrixUnit:
    """The best that this process may use.

    Args:
        flags: of the CPU, as Linux names them; None: this machine's.
        request: asks for the permission to use AMX's tiles, and returns 0 or an errno; None: this process's own, which
            asks once.
    """
    flags = cpu_flags() if flags is None else flags
    refused = ""
    for name, needed in FLAGS.items():
        if not {*needed} <= {*flags}:
            continue
        code = (request or permission)() if name == AMX else 0
        if not code:
            return MatrixUnit(name, f"{refused}the CPU has {' and '.join(needed)}")
        refused = f"AMX cannot be used: {_REASONS.get(code, os.strerror(code))}; "
    return MatrixUnit("", f"the CPU has no {FLAGS[DPBF16][0]}")


@functools.cache
def permission() -> int:
    """Ask Linux to let this process use AMX's tiles. 0, or the errno of the refusal."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return errno.ENOSYS
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.syscall(_ARCH_PRCTL, _REQUEST, _TILES) == 0 else ctypes.get_errno()
