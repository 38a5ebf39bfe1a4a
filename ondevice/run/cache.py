"""Compiled kernels between processes: one file per program, keyed by everything that could change it."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import math
import os
import time
from pathlib import Path

from ondevice.base.paths import cache_dir
from ondevice.base.publish import PARTIAL, published_file
from ondevice.base.publish.hidden import is_dead

log = logging.getLogger(__name__)

LIMIT = 512 << 20  # bytes kept; the least recently used go first
TRIM_EVERY = 1 / 32  # of the limit may be saved between two looks at all that is there, which take 6 us a file
# seconds after which a half-written file belongs to a process that died, where there are no locks to tell
STALE = 3600.0
_MAGIC = b"ondevice kernel 1\n"
_unseen: dict[Path, float] = {}  # bytes that this process has saved in a folder since it looked at all of it


class KernelCache:
    """Binaries by key. Never fails a run: what cannot be read is a miss, what cannot be written is logged once.

    Safe between processes: a file appears whole, and its content is checked against its own hash when read.
    """

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        base = cache_dir()
        self.folder, self.limit = folder or (base and base / "kernels"), limit
        self.hits = self.misses = 0
        self._writable = True

    @staticmethod
    def key(*parts: str) -> str:
        """Hash of source, options, device and driver; the lengths keep two splits of one text apart."""
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    @property
    def keeps(self) -> bool:
        """Whether binaries can be kept, as far as is known before any was."""
        folder = self.folder
        while folder is not None and not folder.exists() and folder != folder.parent:
            folder = folder.parent  # which is made when there is something to keep
        return self._writable and folder is not None and folder.is_dir() and os.access(folder, os.W_OK)

    def holds(self, key: str) -> bool:
        """Whether there is a file of that key, which may be damaged."""
        return self.folder is not None and self._path(key).exists()

    def load(self, key: str) -> bytes | None:
        """The binary, or None. A file that is not what was written is removed."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            self.misses += 1
            return None
        head = len(_MAGIC) + 32
        if not data.startswith(_MAGIC) or hashlib.sha256(data[head:]).digest() != data[len(_MAGIC) : head]:
            log.warning("cached kernel %s.bin is damaged; it is built again", key)
            self.misses += 1
            self.drop(key)
            return None
        self.hits += 1
        with contextlib.suppress(OSError):
            os.utime(self._path(key))  # the trim goes by time of last use
        return data[head:]

    def save(self, key: str, binary: bytes) -> None:
        """Keep a binary: another process sees all of it or nothing."""
        if not self._writable:
            return
        try:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            with published_file(path) as file:
                file.write(_MAGIC + hashlib.sha256(binary).digest() + binary)
        except OSError as error:
            self._writable = False
            _not_kept(
                f"{self.folder} cannot be written ({error.strerror or error})"
                if self.folder
                else "there is no home folder"
            )
            return
        unseen = _unseen.get(path.parent, math.inf) + len(binary)
        if unseen > self.limit * TRIM_EVERY:
            unseen = 0
            with contextlib.suppress(OSError):  # a folder may take files and not be listed
                self._trim(path.parent)
        _unseen[path.parent] = unseen

    def drop(self, key: str) -> None:
        """Forget a binary that is damaged or that the driver refused."""
        with contextlib.suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        if self.folder is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        return self.folder / f"{key}.bin"

    def _trim(self, folder: Path) -> None:
        """Remove the least recently used files over the limit, and what dead processes left half-written."""
        files: list[tuple[float, int, Path]] = []
        for path in folder.iterdir():
            with contextlib.suppress(OSError):  # another process may remove it first
                info = path.stat()
                if path.suffix == ".bin":
                    files.append((info.st_mtime, info.st_size, path))
                elif PARTIAL in path.name and (is_dead(path) or info.st_mtime < time.time() - STALE):
                    path.unlink()
        kept = 0
        for _, size, path in sorted(files, reverse=True):
            kept += size
            if kept > self.limit:
                with contextlib.suppress(OSError):
                    path.unlink()


@functools.cache
def _not_kept(why: str) -> None:
    """Say once a process why every run compiles anew."""
    log.warning("compiled kernels are not kept: %s; set ONDEVICE_CACHE to a folder that can be", why)
