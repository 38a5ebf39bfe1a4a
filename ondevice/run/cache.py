"""Compiled kernels between processes: one file a program, keyed by everything that could change it."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from ondevice.paths import cache_dir

log = logging.getLogger(__name__)

LIMIT = 512 << 20  # bytes kept; the least recently used go first
_MAGIC = b"ondevice kernel 1\n"


class KernelCache:
    """Binaries by key. Never fails a run: what cannot be read is a miss, what cannot be written is logged once."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder or cache_dir() / "kernels", limit
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

    def load(self, key: str) -> bytes | None:
        """The binary, or None. A file that is not what was written is removed."""
        path = self.folder / f"{key}.bin"
        try:
            data = path.read_bytes()
        except OSError:
            self.misses += 1
            return None
        head = len(_MAGIC) + 32
        if not data.startswith(_MAGIC) or hashlib.sha256(data[head:]).digest() != data[len(_MAGIC) : head]:
            log.warning("cached kernel %s is damaged; it is built again", path.name)
            self.drop(key)
            self.misses += 1
            return None
        self.hits += 1
        try:
            os.utime(path)
        except OSError:
            pass
        return data[head:]

    def save(self, key: str, binary: bytes) -> None:
        """Write beside, then rename: another process sees all of it or nothing."""
        if not self._writable:
            return
        beside = self.folder / f".{key}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(_MAGIC + hashlib.sha256(binary).digest() + binary)
            beside.replace(self.folder / f"{key}.bin")
            self._trim()
        except OSError as error:
            self._writable = False
            beside.unlink(missing_ok=True) if self.folder.is_dir() else None
            log.warning("compiled kernels are not kept: %s cannot be written (%s)", self.folder, error.strerror)

    def drop(self, key: str) -> None:
        """Forget a binary that the driver refused."""
        try:
            (self.folder / f"{key}.bin").unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s", error)

    def _trim(self) -> None:
        files = sorted(((path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob("*.bin")), reverse=True)
        kept = 0
        for _, size, path in files:
            kept += size
            if kept > self.limit:
                path.unlink(missing_ok=True)
