"""A file that is mapped, whose pages can be fetched before they are needed and dropped afterwards.

A mapped file that another process cuts ends this one by a signal when a page behind its end is touched. Pages that are
fetched are asked for in a way that gives an error instead.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from pathlib import Path

import numpy as np

from ondevice.bundle import format as f
from ondevice.errors import BundleError

STEP = 16 << 20  # bytes that are fetched at once: Ctrl-C is heard between two
AROUND = 2 << 20  # bytes that Linux maps at most around a page that is touched: those that it keeps together
POPULATE_READ = 22  # of Linux 5.14 and later; Python has no name for it
CHANGED = "draw again, and leave the bundle alone meanwhile; convert the checkpoint again if that does not help"


class Mapped:
    """All bytes of a file, read-only; pages are read when they are touched. Raises OSError or ValueError where that
    cannot be."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._state = self._now()

    def array(self, start: int = 0, nbytes: int = -1) -> np.ndarray:
        """Bytes from `start` on, all by default, where they lie: uint8, read-only."""
        return np.frombuffer(self.data, np.uint8, nbytes, start)

    def fetch(self, start: int, nbytes: int, where: str) -> None:
        """Have these bytes in memory now. Raises BundleError, naming `where`, for a file that is not what it was when
        it was mapped, or that cannot be read."""
        if (now := self._now()) != self._state:
            cut = f"was cut to {now[0]} bytes" if now[0] < self._state[0] else "was changed"
            raise BundleError(f"{cut} while it was drawn with.", where=where, fix=CHANGED)
        first, end = _pages(start, nbytes)
        for at in range(first, end, STEP):
            try:
                self.data.madvise(POPULATE_READ, at, min(STEP, end - at))
            except (OSError, AttributeError) as error:
                if isinstance(error, OSError) and error.errno in (errno.EFAULT, errno.EIO):
                    what = "cannot be read (it was cut, or the disk failed)."
                    raise BundleError(what, where=where, fix=f.DAMAGED) from error
                return  # a system that knows no such thing reads pages as they are touched

    def expect(self, start: int, nbytes: int) -> None:
        """Have the system begin to read these bytes from the disk."""
        self._advise("MADV_WILLNEED", start, nbytes)

    def drop(self, start: int, nbytes: int) -> None:
        """Let the pages of these bytes leave memory, and those before that came with the first; who touches them again
        reads them again."""
        first = start // AROUND * AROUND
        self._advise("MADV_DONTNEED", first, start + nbytes - first)

    def _advise(self, advice: str, start: int, nbytes: int) -> None:
        first, end = _pages(start, nbytes)
        if end > first and (number := getattr(mmap, advice, None)) is not None:  # Windows has none
            self.data.madvise(number, first, end - first)

    def _now(self) -> tuple[int, int]:
        """Bytes, and when it was last written to."""
        info = os.fstat(self._descriptor)
        return info.st_size, info.st_mtime_ns


def _pages(start: int, nbytes: int) -> tuple[int, int]:
    """From the first page of some bytes to the end of their last."""
    page = mmap.PAGESIZE
    return start // page * page, -(-(start + nbytes) // page) * page
