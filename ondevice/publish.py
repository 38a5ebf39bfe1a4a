"""A file or a folder appears whole or not at all: it is filled beside its place under a hidden name, and renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ondevice.errors import BundleError, OnDeviceError

PARTIAL = ".partial-"  # in the hidden name of what is not whole yet
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def system(name: str, error: type[OnDeviceError] = BundleError) -> Iterator[None]:
    """The operating system's refusals as `error`."""
    try:
        yield
    except OSError as exc:
        fix = "free space on this disk, or choose another folder with --out" if exc.errno in _FULL else "choose another folder with --out"
        raise error(f"cannot be written ({exc.strerror or exc}).", where=name, fix=fix) from exc


@contextmanager
def published_file(path: Path) -> Iterator[BinaryIO]:
    """A file to fill; it takes the place of `path`, which may be a file already, when the block ends well.

    Whatever is raised in the block, or on Ctrl-C: nothing new is left and an old file stays as it was. Raises OSError where the operating
    system refuses: the caller knows which flag or folder to name.
    """
    beside = path.with_name(f".{path.name}{PARTIAL}{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:  # not a temporary file of Python's: those are closed to other users, whatever the umask
            yield file
        os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def published(target: Path, error: type[OnDeviceError] = BundleError) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `target`, which may be a folder already, when the block ends well.

    Whatever is raised in the block, or on Ctrl-C: nothing new is left and an old folder stays as it was. The hidden folder is one that
    nobody else has (`.NAME.partial-...`). Between the two renames of a replacement the old folder is in it, as `old`.
    """
    with system(target.name, error):
        hidden = Path(tempfile.mkdtemp(prefix=f".{target.name}{PARTIAL}", dir=target.parent))
    new, old = hidden / "new", hidden / "old"
    try:
        with system(target.name, error):
            new.mkdir()  # not `hidden` itself: that one is closed to other users, whatever the umask
        yield new
        with system(target.name, error):
            if target.is_dir() and any(target.iterdir()):
                target.rename(old)
            new.rename(target)
            _sync(target.parent)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(hidden, ignore_errors=True)


def foreign(folder: Path, ours: Collection[str]) -> str | None:
    """The first file in `folder` that is none of `ours`: a picture that a user saved there must not be deleted with the rest."""
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
