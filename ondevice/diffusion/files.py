"""Files that a picture is drawn from and written to: looked at before the work, so that nothing is lost after it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ondevice.base.publish import FULL, longest_name, published_file, real
from ondevice.errors import UsageError


@contextmanager
def opened(path: Path, limit: int, refused: Callable[[str], UsageError]) -> Iterator[tuple[BinaryIO, int]]:
    """(file, bytes in it) of a plain file of at most `limit` bytes.
    `refused(why)` is raised for any other, and where it cannot be read."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise refused("a folder, a pipe or a device, not a file")
        if info.st_size > limit:
            raise refused(f"{info.st_size} bytes, at most {limit} are read")
        with open(path, "rb") as file:
            yield file, info.st_size
    except FileNotFoundError:
        raise refused("no such file") from None
    except OSError as error:
        raise refused(error.strerror or "it cannot be read") from None


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None] | None = None, bundle: Path | None = None
) -> None:
    """Say so when a file cannot be written, or would take the place of one that the picture is drawn from
    or of another output.

    `outputs` and `inputs`: path by flag, None where it was not given. Links are followed: what they name is what
    would be written.

    Raises:
        UsageError: names the flag or the path, and what to do.
    """
    flags: dict[str, str] = {}
    for flag, path in outputs.items():
        if path is None:
            continue
        where = str(path)
        try:
            target = Path(os.path.realpath(path))
            size, limit = len(os.fsencode(target.name)), longest_name(target.parent)
            if size > limit:
                raise UsageError(
                    f"its name is too long (got {size} bytes, expected at most {limit}).", where=where, fix="shorten it"
                )
            place = real(path)
            info = os.stat(place) if os.path.lexists(place) else None
        except OSError as error:
            what = f"no file can be written there ({error.strerror})."
            raise UsageError(what, where=where, fix="name a file in an existing, writable folder") from None
        if (info and not stat.S_ISREG(info.st_mode)) or not os.access(place.parent, os.W_OK | os.X_OK):
            raise UsageError(
                "no file can be written there.", where=where, fix="name a file in an existing, writable folder"
            )
        for other, given in (inputs or {}).items():
            if given is not None and info and _same(given, info):
                what = f"{other} and {flag} name the same file, which would be lost."
                raise UsageError(what, where=where, fix=f"name another file with {flag}")
        if info and bundle and place.is_relative_to(os.path.realpath(bundle)):
            raise UsageError(
                "it is a file of the bundle, which would be lost.", where=where, fix=f"name another file with {flag}"
            )
        if (other := flags.setdefault(str(place), flag)) != flag:
            raise UsageError(f"{other} and {flag} name the same file.", where=where, fix="name two files")


def _same(path: Path, info: os.stat_result) -> bool:
    """Whether `path` is that file: by another hard link, or in other letters
    where a file system takes them for the same."""
    try:
        return os.path.samestat(os.stat(path), info)
    except OSError:
        return False


def write_output(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write a file: all of it or nothing. A link stays, and the file that it names is written.

    Raises:
        UsageError: the disk or the folder refused it.
    """
    try:
        with published_file(path) as file:
            fill(file)
    except OSError as error:
        raise UsageError(
            f"cannot be written ({error.strerror or error}).", where=str(path), fix=fix_of(error)
        ) from None


def fix_of(error: OSError) -> str:
    """What to do about a file that the system refused to write."""
    return (
        "free space on this disk, or name a file on another"
        if error.errno in FULL
        else "name a file in a folder that can be written"
    )
