"""A file or a folder appears whole or not at all: it is filled beside its place under a hidden name, and renamed.

A link as the place stays a link: what it leads to is replaced. The hidden names of killed runs are removed by the next
one (hidden.py).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ondevice.base.process.signals import Held
from ondevice.base.publish.append import append_lines
from ondevice.base.publish.hidden import NEW, OLD, PARTIAL, claim_file, claim_folder, longest_name, sweep
from ondevice.base.publish.rename import exchange, move_to_free
from ondevice.errors import BundleError, OnDeviceError

__all__ = [
    "FULL",
    "PARTIAL",
    "append_lines",
    "check_space",
    "foreign",
    "hidden_folder",
    "longest_name",
    "published",
    "published_file",
    "real",
    "recover",
    "system",
]

FULL = {errno.ENOSPC, errno.EDQUOT}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_ATTEMPTS = 3  # to take a place that others make and remove at the same time


@contextmanager
def system(name: str, error: type[OnDeviceError] = BundleError, needed: int = 0) -> Iterator[None]:
    """The operating system's refusals as `error`.
    On a full disk the fix says how much is `needed` (bytes), where that is known."""
    try:
        yield
    except OSError as exc:
        free = f"free {mb(needed)} on this disk" if needed else "free space on this disk"
        fix = (
            f"{free}, or choose another folder with --out" if exc.errno in FULL else "choose another folder with --out"
        )
        raise error(f"cannot be written ({exc.strerror or exc}).", where=name, fix=fix) from exc


def check_space(folder: Path, needed: int, what: str, error: type[OnDeviceError] = BundleError) -> None:
    """Raise `error` where the disk of `folder` has less than `needed` bytes left for `what`."""
    with system(str(folder), error):
        free = shutil.disk_usage(folder).free
    if free < needed:
        said = f"{what} not fit on this disk (got {free // 10**6} MB free, expected {mb(needed)})."
        raise error(said, where=str(folder), fix=f"free {mb(needed - free)}, or choose another folder with --out")


def mb(size: int) -> str:
    """Bytes as a person frees them: rounded up."""
    return f"{-(-size // 10**6)} MB"


@contextmanager
def published_file(path: Path, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to fill; it takes the place of `path`, which may be a file already, when the block ends well.

    Whatever is raised in the block, or on Ctrl-C: nothing new is left and an old file stays as it was. Raises OSError
    where the operating system refuses: the caller knows which flag or folder to name.

    Args:
        replace: False: the name must be free, and be so until the end; FileExistsError where it is not, or another run
            took it first.
    """
    place = real(path) if replace else real(path.parent) / path.name
    if not replace and os.path.lexists(place):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    if place.exists() and not stat.S_ISREG(place.stat().st_mode):  # a device or a pipe must not become a file
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    sweep(place)
    claim, file = claim_file(place)
    try:
        with file:
            yield file
        os.replace(claim.path, place) if replace else move_to_free(claim.path, place)
    finally:
        claim.release()


@contextmanager
def published(
    target: Path, error: type[OnDeviceError] = BundleError, check: Callable[[Path], None] = lambda folder: None
) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `target`, which may be a folder already, when the block ends well.

    Whatever is raised in the block, or on Ctrl-C: nothing new is left and an old folder stays as it was. An old and the
    new one change places in one step; where the system cannot do that, there is a moment between two renames in which
    the old one is `old` in the hidden folder, and a run that is killed in it leaves it to the next one to put back.

    Args:
        check: raises for a folder (at `target`, or moved from there) that must not be replaced. It is asked at the end,
            of what is at `target` by then: another run may have finished first, or somebody have put a file there.
    """
    with hidden_folder(target, error) as (hidden, place):
        new = hidden / NEW
        with system(target.name, error):
            new.mkdir()  # not `hidden` itself: that one is closed to other users, whatever the umask
        yield new
        with system(target.name, error), Held():
            _take(new, place, hidden / OLD, check)
            _sync(place.parent)


@contextmanager
def hidden_folder(target: Path, error: type[OnDeviceError] = BundleError) -> Iterator[tuple[Path, Path]]:
    """A hidden folder beside `target`, gone when the block ends, and where `target` really is."""
    with system(target.name, error):
        place = real(target)
        sweep(place)
        claim = claim_folder(place)
    try:
        yield claim.path, place
    finally:
        claim.release()


def recover(target: Path) -> None:
    """Remove what killed runs for `target` left, and put back what one of them had moved away. Never raises.

    Whoever looks whether something is at `target` asks for this first.
    """
    with suppress(OSError, ValueError):  # ValueError: a name that no file can have
        sweep(real(target))


def _take(new: Path, place: Path, old: Path, check: Callable[[Path], None]) -> None:
    """Rename `new` to `place`, where nothing, an empty folder, or what `check` allows to replace may be."""
    for _ in range(_ATTEMPTS):
        try:
            os.rename(new, place)  # fails over a folder that is not empty, and over any file
            return
        except OSError as exc:
            if exc.errno not in _TAKEN or not os.path.lexists(place):
                raise
        check(place)
        try:
            exchanged = exchange(new, place)
        except FileNotFoundError:  # it has gone since
            continue
        if exchanged:
            try:
                check(new)  # what was at `place`, now where nobody adds to it
            except BaseException:
                exchange(new, place)
                raise
            return
        os.rename(place, old)
        check(old)
        os.rename(new, place)
        return
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(place))


def real(path: Path) -> Path:
    """Where a path leads, past every link.

    Raises OSError for links that lead to each other, for names that are too long, and where the working
    directory has gone.
    """
    place = Path(os.path.realpath(path))
    try:
        link = stat.S_ISLNK(place.lstat().st_mode)
    except FileNotFoundError:
        return place
    if link:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return place


def foreign(folder: Path, ours: Collection[str]) -> str | None:
    """The first file in `folder` that is none of `ours`:
    a picture that a user saved there must not be deleted with the rest."""
    for path in sorted(folder.rglob("*")):
        if (not path.is_dir() or path.is_symlink()) and (name := path.relative_to(folder).as_posix()) not in ours:
            return name
    return None


def _sync(folder: Path) -> None:
    """Make renames durable. Some file systems refuse to sync a folder; the files themselves are synced already."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError:
            return
        finally:
            os.close(handle)
