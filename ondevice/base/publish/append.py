"""Lines at the end of a file: all of them or none, whoever else appends to it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ondevice.base.process.signals import Held
from ondevice.base.publish.hidden import wait_for_lock

log = logging.getLogger(__name__)
_TAIL = 1 << 20  # bytes at the end of a file in which half a line is looked for


def append_lines(path: Path, lines: Iterable[str], *, durable: bool = False) -> None:
    """Add lines to a file, which is made where there is none; what cannot be added whole, on a full disk, is not added.

    Runs that append at the same time take turns. Half a JSON object at the end, as a killed run leaves it, is cut off.
    `durable`: they are on the disk when this returns.

    Raises:
        OSError: the system refuses.
    """
    data = "".join(f"{line}\n" for line in lines).encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):  # a pipe or a terminal: nothing to cut off
            _write(handle, data)
            return
        wait_for_lock(handle)
        with Held():
            size, data = _whole(handle, path, data)
            try:
                _write(handle, data)
                if durable:
                    os.fsync(handle)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, size)
                raise
    finally:
        os.close(handle)


def _whole(handle: int, path: Path, data: bytes) -> tuple[int, bytes]:
    """The size of what is there as whole lines, and what to add:
    a last line without its end that is no half row gets one."""
    size = os.fstat(handle).st_size
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(size - _TAIL, 0))
        half = file.read().rpartition(b"\n")[2]
        if not half:
            return size, data
        try:
            json.loads(half)
        except (ValueError, RecursionError):
            if half.startswith(b"{"):
                log.warning("%s ended in half a row, which a killed run left; it is cut off", path)
                os.ftruncate(handle, size - len(half))
                return size - len(half), data
        return size, b"\n" + data
    return size, data


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
