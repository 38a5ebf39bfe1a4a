"""What the system keeps of a bundle's files in memory, beside what processes have mapped."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def files(bundle: Path) -> Iterator[Path]:
    """All files of a bundle, a folder or one file."""
    yield from (path for path in ([bundle] if bundle.is_file() else sorted(bundle.rglob("*"))) if path.is_file())


def forget(bundle: Path) -> None:
    """Ask the system to drop a bundle's files from its page cache."""
    for path in files(bundle):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not on the disk yet cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_bytes(bundle: Path) -> int:
    """Bytes of a bundle's files in the system's page cache, by whole pages."""
    libc, total = ctypes.CDLL(None, use_errno=True), 0
    for path in files(bundle):
        size = path.stat().st_size
        if not size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            there = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
            whole = np.frombuffer(data, np.uint8)
            address, nbytes = ctypes.c_void_p(whole.ctypes.data), ctypes.c_size_t(size)
            if libc.mincore(address, nbytes, ctypes.c_void_p(there.ctypes.data)):
                raise OSError(ctypes.get_errno(), "mincore", str(path))
            total += int((there & 1).sum()) * mmap.PAGESIZE
            del whole  # else the file stays mapped
    return total
