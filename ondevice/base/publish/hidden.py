"""Hidden names beside a target: `.NAME.partial-...`, each with a lock that lives as long as the process that fills it.

What a killed run leaves is known by its name, whose last digits are a hash of the rest, and by its lock, which nobody
holds: the next run for the same target removes it. A file that a user named alike fails the first, what a living run
fills fails the second. Where the file system has no locks, leftovers stay.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ondevice.base.process.signals import Held

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

PARTIAL = ".partial-"  # in the hidden name of what is not whole yet
LOCK, NEW, OLD = "lock", "new", "old"  # in a hidden folder
LONGEST = 255  # bytes of a name, where the file system does not say
_NAME = re.compile(rf"\.(?P<name>.+){re.escape(PARTIAL)}(?P<token>[0-9a-f]{{8}})[0-9a-f]{{8}}", re.DOTALL)
_ATTEMPTS = 10


class Claim:
    """A hidden file or folder beside `target` that is this process's until it is released."""

    living: dict[Path, Claim] = {}  # what this process has not released yet

    def __init__(self, target: Path, path: Path, lock: int | None) -> None:
        self.target, self.path, self._lock = target, path, lock
        Claim.living[path] = self

    def release(self) -> None:
        """Remove what is left under the hidden name; an old folder that was moved there,
        and that nothing replaced, goes back first.

        Raises OSError where it cannot go back: it is kept then.
        """
        with Held():
            put_back(self.path, self.target)
            remove(self.path)
            Claim.living.pop(self.path, None)
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None


def release_all() -> None:
    """Release what an exception in the midst of cleaning up has left."""
    for claim in list(Claim.living.values()):
        with suppress(OSError):
            claim.release()


def claim_file(target: Path) -> tuple[Claim, BinaryIO]:
    """A new hidden file, open for writing."""
    for _ in range(_ATTEMPTS):
        with Held():
            path = _fresh(target)
            # not a temporary file of Python's: those are closed to other users, whatever the umask
            file = path.open("xb")
            if _lock(file.fileno()) is not False and _linked(file.fileno()):
                # A second handle keeps the lock while the first is closed and the file gets its name.
                return Claim(target, path, os.dup(file.fileno()) if fcntl else None), file
            file.close()
            remove(path)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))


def claim_folder(target: Path) -> Claim:
    """A new hidden folder, closed to other users; empty but for its lock."""
    for _ in range(_ATTEMPTS):
        with Held():
            path = _fresh(target)
            os.mkdir(path, 0o700)
            try:
                handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:  # another run took it for a leftover
                continue
            except BaseException:
                remove(path)
                raise
            if _lock(handle) is not False and _linked(handle):
                return Claim(target, path, handle)
            os.close(handle)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))


def sweep(target: Path) -> None:
    """Remove what killed runs for this target left;
    a folder that one of them had moved away goes back. Never raises."""
    longest = longest_name(target.parent)
    head = _head(target.name, longest)
    with suppress(OSError), os.scandir(target.parent) as entries:
        for name in [entry.name for entry in entries if entry.name.startswith(head)]:
            if name == hidden_name(target.name, name[-16:-8], longest):
                _remove_dead(target.parent / name, target)


def is_dead(path: Path) -> bool:
    """Whether this is the hidden file of a process that ended, whatever its target was."""
    found = _NAME.fullmatch(path.name)
    if not found or path.name != hidden_name(found["name"], found["token"], LONGEST):
        return False
    with suppress(OSError):
        handle = _open(path)
        try:
            return bool(_lock(handle))
        finally:
            os.close(handle)
    return False


def hidden_name(name: str, token: str, longest: int = LONGEST) -> str:
    """The hidden name for a target called `name`; cut, so that it fits a file system that takes `longest` bytes."""
    proof = hashlib.sha256(os.fsencode(f"{name}/{token}")).hexdigest()[:8]
    return f"{_head(name, longest)}{token}{proof}"


def put_back(hidden: Path, target: Path) -> bool:
    """Where a replacement ended between its two renames, the old folder takes its name again."""
    old = hidden / OLD
    if not os.path.lexists(old) or os.path.lexists(target):
        return False
    os.rename(old, target)
    return True


def remove(path: Path) -> None:
    """Delete a hidden file or folder as far as the system lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_dead(path: Path, target: Path) -> None:
    with suppress(OSError):
        folder = stat.S_ISDIR(path.lstat().st_mode)
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600) if folder else _open(path)
        try:
            if not _lock(handle):
                return
            if put_back(path, target):
                log.warning("%s is back where it was: a run that was killed had moved it to %s", target.name, path.name)
            else:
                log.warning("removed %s, which a killed run left", path)
            remove(path)
        finally:
            os.close(handle)


def _open(path: Path) -> int:
    """A handle of a regular file, for its lock. Raises OSError for anything else."""
    handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
    return handle


def _lock(handle: int) -> bool | None:
    """Whether the lock is ours now; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def wait_for_lock(handle: int) -> None:
    """Take the lock of a file once others are done with it; nothing where there are no locks."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


def _linked(handle: int) -> bool:
    """Whether the file still has a name: another run may have taken it for a leftover before it was locked."""
    return os.fstat(handle).st_nlink > 0


def _fresh(target: Path) -> Path:
    return target.with_name(hidden_name(target.name, secrets.token_hex(4), longest_name(target.parent)))


def _head(name: str, longest: int) -> str:
    room, encoded = longest - len(f".{PARTIAL}") - 16, os.fsencode(name)
    return f".{name if len(encoded) <= room else encoded[:room].decode(errors='ignore')}{PARTIAL}"


def longest_name(folder: Path) -> int:
    """Bytes that a file's name may have there."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return LONGEST
