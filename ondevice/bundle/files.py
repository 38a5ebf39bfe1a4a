"""Where a bundle's files are: in a folder, or in one file (packed.py)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from ondevice.bundle import format as f
from ondevice.bundle.mapped import Mapped
from ondevice.errors import BundleError

CHUNK = 1 << 20  # bytes that are read at a time of a file that is read as a whole


class Files(Protocol):
    """The files of one bundle by their paths in it. Each method raises BundleError for what it has not or cannot read.

    `path` is the folder or the file itself, without a link in it.
    """

    path: Path

    def size(self, name: str) -> int:
        """Bytes of a file."""

    def read(self, name: str) -> bytes:
        """All of a file."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file in parts, so that a large one is never whole in memory."""

    def map(self, name: str) -> np.ndarray:
        """All of a file: uint8, read-only, whose pages are read when they are touched."""

    def forget(self, name: str) -> None:
        """Let the pages of a file that was mapped leave memory."""

    def fetch(self, name: str, start: int, nbytes: int) -> None:
        """Have bytes of a file that is mapped in memory now. Raises BundleError, too, where it is not what it was."""

    def expect(self, name: str, start: int, nbytes: int) -> None:
        """Begin to read these bytes from the disk."""

    def drop(self, name: str, start: int, nbytes: int) -> None:
        """Let the pages of these bytes leave memory."""


class Folder:
    """The files of a bundle in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped: dict[str, Mapped] = {}

    def size(self, name: str) -> int:
        """Bytes of a file. Raises BundleError where it is not there or not inside the folder."""
        return self._find(name)[1]

    def read(self, name: str) -> bytes:
        """All of a file."""
        path, size = self._find(name)
        try:
            with path.open("rb") as handle:
                return handle.read(size)
        except OSError as exc:
            raise _unread(name, exc) from exc

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file in parts."""
        try:
            with self._find(name)[0].open("rb") as handle:
                while chunk := handle.read(CHUNK):
                    yield chunk
        except OSError as exc:
            raise _unread(name, exc) from exc

    def map(self, name: str) -> np.ndarray:
        """All of a file, mapped."""
        return self._map(name).array()

    def forget(self, name: str) -> None:
        """Map it no longer: its pages go once nobody holds an array of it."""
        self._mapped.pop(name, None)

    def fetch(self, name: str, start: int, nbytes: int) -> None:
        """Have bytes of a file in memory now."""
        self._map(name).fetch(start, nbytes, name)

    def expect(self, name: str, start: int, nbytes: int) -> None:
        """Begin to read these bytes from the disk."""
        self._map(name).expect(start, nbytes)

    def drop(self, name: str, start: int, nbytes: int) -> None:
        """Let the pages of these bytes leave memory."""
        self._map(name).drop(start, nbytes)

    def _map(self, name: str) -> Mapped:
        if name not in self._mapped:
            path, _ = self._find(name)
            try:
                self._mapped[name] = Mapped(path)
            except (OSError, ValueError) as exc:
                raise BundleError(f"cannot be mapped ({exc}).", where=name, fix=f.DAMAGED) from exc
        return self._mapped[name]

    def _find(self, name: str) -> tuple[Path, int]:
        """Path and bytes of a file, which must be a regular one inside the folder."""
        try:
            path = (self.path / name).resolve(strict=True)
            info = os.stat(path)
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            raise BundleError(f"is missing from {self.path.name}.", where=name, fix=f.DAMAGED) from None
        if not path.is_relative_to(self.path) or not stat.S_ISREG(info.st_mode):
            raise BundleError(f"is a link out of {self.path.name} or not a regular file.", where=name, fix=f.DAMAGED)
        return path, info.st_size


def _unread(name: str, error: OSError) -> BundleError:
    return BundleError(f"cannot be read ({error.strerror}).", where=name, fix="check the file's permissions")
