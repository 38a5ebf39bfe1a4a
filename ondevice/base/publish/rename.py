"""Renames that the standard library lacks: two names change places in one step,
and a name that is taken stays taken."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths are relative to the working directory, as everywhere
_FLAGS = {"linux": {"exchange": 2, "noreplace": 1}, "darwin": {"exchange": 2, "noreplace": 4}}
_UNABLE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}  # an old kernel, or a file system that cannot


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places: nobody ever sees one of them missing. False where the system cannot do that.

    Raises OSError where it can and refuses.
    """
    return _rename(one, other, "exchange")


def move_to_free(source: Path, target: Path) -> None:
    """Rename a file to a name that must be free, in one step: of several runs that want one name, one gets it.

    Raises:
        FileExistsError: it is taken, be it by a link that leads nowhere.
        OSError: the operating system refuses.
    """
    if _rename(source, target, "noreplace"):
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        # no hard links there: an empty file keeps the name until ours takes its place
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.replace(source, target)
    else:
        source.unlink()


def _rename(source: Path, target: Path, how: str) -> bool:
    if (call := _renames()) is None:
        return False
    if call(os.fsencode(source), os.fsencode(target), _FLAGS[sys.platform][how]) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


@functools.cache
def _renames() -> Callable[[bytes, bytes, int], int] | None:
    """renameat2 of Linux or renamex_np of macOS as (from, to, flags) -> 0 or -1;
    None where the C library has neither."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "linux":
            linux = library.renameat2
            linux.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
            return lambda source, target, flags: int(linux(_HERE, source, _HERE, target, flags))
        if sys.platform == "darwin":
            mac = library.renamex_np
            mac.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint)
            return lambda source, target, flags: int(mac(source, target, flags))
    except (AttributeError, OSError, TypeError):
        pass
    return None
