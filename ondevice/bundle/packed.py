"""A bundle as one file: a ZIP archive of stored entries (docs/bundle.md, "One file"), mapped and read in place.

The directory is checked as a whole before anything is given out: entries follow each other without a gap, so none
overlaps another, lies outside, or is something else to another reader.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from ondevice.bundle import format as f
from ondevice.bundle.files import CHUNK
from ondevice.bundle.mapped import Mapped
from ondevice.errors import BundleError

ENDING = ".odpack"
HEAD = b"PK\3\4"  # of the first local header: what a packed bundle is known by
LOCAL = struct.Struct("<4s5H3I2H")
ENTRY = struct.Struct("<4s6H3I5H2I")
WIDE_END = struct.Struct("<4sQ2H2I4Q")  # ZIP64's record
LOCATOR = struct.Struct("<4sIQI")
END = struct.Struct("<4s4H2IH")
EXTRA = struct.Struct("<2H")
ENTRY_MARK, WIDE_END_MARK, LOCATOR_MARK, END_MARK = b"PK\1\2", b"PK\6\6", b"PK\6\7", b"PK\5\6"
WIDE, PADDING = 1, 0xD935  # ids of extra fields: ZIP64's values, and zipalign's
FULL = (1 << 32) - 1  # a value that ZIP64 holds
MOST = f.MAX_FILES + 1  # entries
_FIX = "copy the file again, or write it again with `ondevice pack`"


class Place(NamedTuple):
    """Where a file's bytes are."""

    offset: int
    bytes: int


def alignment(name: str) -> int:
    """What the place of a file is a multiple of: of weights a page, on any phone."""
    return 16_384 if name.startswith("weights/") else 64


class Packed:
    """The files of a bundle in one file."""

    def __init__(self, path: Path) -> None:
        """Raises BundleError where it cannot be mapped, or its directory is not as docs/bundle.md says."""
        self.path = path
        try:
            self._mapped = Mapped(path)
        except (OSError, ValueError) as exc:
            raise BundleError(f"cannot be mapped ({exc}).", where=path.name, fix=_FIX) from exc
        self._data = self._mapped.data
        self._places = read_directory(self._data, path.name)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return self._find(name).bytes

    def read(self, name: str) -> bytes:
        """All of a file."""
        place = self._find(name)
        return self._data[place.offset : place.offset + place.bytes]

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file in parts."""
        place = self._find(name)
        end = place.offset + place.bytes
        for start in range(place.offset, end, CHUNK):
            yield self._data[start : min(start + CHUNK, end)]
        self.forget(name)

    def map(self, name: str) -> np.ndarray:
        """All of a file, where it lies."""
        place = self._find(name)
        return self._mapped.array(place.offset, place.bytes)

    def forget(self, name: str) -> None:
        """Let a file's pages leave memory; who touches them again reads them again."""
        self.drop(name, 0, self._find(name).bytes)

    def fetch(self, name: str, start: int, nbytes: int) -> None:
        """Have bytes of a file in memory now."""
        self._mapped.fetch(self._find(name).offset + start, nbytes, name)

    def expect(self, name: str, start: int, nbytes: int) -> None:
        """Begin to read these bytes from the disk."""
        self._mapped.expect(self._find(name).offset + start, nbytes)

    def drop(self, name: str, start: int, nbytes: int) -> None:
        """Let the pages of these bytes leave memory."""
        self._mapped.drop(self._find(name).offset + start, nbytes)

    def _find(self, name: str) -> Place:
        if (place := self._places.get(name)) is None:
            raise BundleError(f"is missing from {self.path.name}.", where=name, fix=_FIX)
        return place


def read_directory(data: mmap.mmap | bytes, file: str) -> dict[str, Place]:
    """Where each file of a packed bundle is, by its path. Raises BundleError, naming `file` or the entry."""
    count, begin, end = _read_end(data, file)
    places: dict[str, Place] = {}
    folded: set[str] = set()
    at, free = begin, 0  # the next entry of the directory; the first byte that no entry before it has
    for number in range(count):
        entry = f"entry {number} of {file}"
        if at + ENTRY.size > end:
            _fail("the directory ends within it", entry)
        mark, _, _, flags, method, _, _, crc, packed, size, *rest = ENTRY.unpack_from(data, at)
        names, extras, comment, disk, _, _, offset = rest
        if mark != ENTRY_MARK or comment or disk:
            _fail("is no entry of the directory, or has a comment or another disk", entry)
        if at + ENTRY.size + names + extras > end:
            _fail("the directory ends within it", entry)
        path = data[at + ENTRY.size : at + ENTRY.size + names]
        name = _checked(path, entry)
        if name.casefold() in folded:
            _fail("is there twice", name)
        folded.add(name.casefold())
        at += ENTRY.size + names
        size, packed, offset = _wide(data, at, at + extras, (size, packed, offset), name)
        at += extras
        if method:
            _fail(f"is compressed (got method {method}, expected 0)", name)
        if flags:
            _fail(f"is encrypted or of unknown size (got flags {flags}, expected 0)", name)
        if packed != size or size > f.MAX_BYTES:
            _fail(f"has {packed} bytes packed and {size} unpacked (expected the same, at most {f.MAX_BYTES})", name)
        if offset != free:
            _fail(f"begins at {offset} (expected {free}, where the entry before it ends)", name)
        place = _read_local(data, offset, begin, (flags, method, crc, size, path), name)
        places[name] = Place(place, size)
        free = place + size
    if at != end or free != begin:
        _fail(f"has bytes of no entry (got {begin - free} before the directory, {end - at} after it)", file)
    return places


def _read_end(data: mmap.mmap | bytes, file: str) -> tuple[int, int, int]:
    """(entries, offset, end) of the directory."""
    end = len(data) - END.size
    if data[max(end, 0) : end + 4] != END_MARK:
        _fail("is cut, or was not packed by `ondevice pack` (expected an end record in its last 22 bytes)", file)
    _, *disks, here, count, size, begin, comment = END.unpack_from(data, end)
    if any(disks) or here != count or comment:
        _fail("has an end record of several disks, of two counts, or with a comment", file)
    if not 1 <= count <= MOST:
        _fail(f"has {count} entries (expected 1..{MOST})", file)
    if FULL in (size, begin):
        end -= WIDE_END.size + LOCATOR.size
        if end < 0:
            _fail("has no record of ZIP64 before its end record", file)
        mark, length, _, _, *disks, here, all_, size, begin = WIDE_END.unpack_from(data, end)
        if (mark, length, *disks, here, all_) != (WIDE_END_MARK, WIDE_END.size - 12, 0, 0, count, count):
            _fail("has a damaged record of ZIP64", file)
        if LOCATOR.unpack_from(data, end + WIDE_END.size) != (LOCATOR_MARK, 0, end, 1):
            _fail("has a damaged locator of ZIP64", file)
    if begin + size != end:
        _fail(f"has a directory of {size} bytes at {begin} (expected its end at {end})", file)
    return count, begin, end


def _read_local(
    data: mmap.mmap | bytes, at: int, limit: int, stated: tuple[int, int, int, int, bytes], name: str
) -> int:
    """Where the bytes of an entry begin. `stated`: flags, method, CRC-32, size and name as the directory says them;
    `limit`: where the directory begins."""
    mark, _, flags, method, _, _, crc, packed, size, names, extras = LOCAL.unpack_from(data, at)
    start = at + LOCAL.size + names + extras
    if start > limit:
        _fail("lies outside of the file", name)
    path = data[at + LOCAL.size : start - extras]
    size, packed = _wide(data, start - extras, start, (size, packed), name)
    if mark != HEAD or (flags, method, crc, size, path) != stated or packed != size:
        _fail("has another local header than the directory says", name)
    if start + size > limit:
        _fail("lies outside of the file", name)
    if start % alignment(name):
        _fail(f"has its bytes at {start} (expected a multiple of {alignment(name)})", name)
    return start


def _wide(data: mmap.mmap | bytes, at: int, end: int, values: tuple[int, ...], name: str) -> tuple[int, ...]:
    """`values` (uncompressed size, compressed size...), those that are full taken from ZIP64's extra field."""
    found = None
    while at < end:
        field, size = EXTRA.unpack_from(data, at)  # an end record follows at least
        at += EXTRA.size + size
        if at > end:
            _fail("has a damaged extra field", name)
        if field == WIDE and found is None:
            found = data[at - size : at]
    full = values.count(FULL)
    if not full:
        return values
    if found is None or len(found) != 8 * full:
        _fail(f"has no {full} values of ZIP64", name)
    held = iter(struct.unpack(f"<{full}Q", found))
    return tuple(next(held) if value == FULL else value for value in values)


def _checked(path: bytes, entry: str) -> str:
    """An entry's name, which must be a path as the manifest has them."""
    name = path.decode("latin-1")
    parts = name.split("/")
    if len(parts) > 3 or not all(f.NAME.fullmatch(part) for part in parts):
        _fail(f"is called {f.shown(name)} (expected one to three names joined by /)", entry)
    if (entry.startswith("entry 0 ")) != (name == f.MANIFEST):
        _fail(f"is called {f.shown(name)} (expected {f.MANIFEST} first, and once)", entry)
    return name


def _fail(what: str, where: str) -> NoReturn:
    raise BundleError(f"{what}.", where=where, fix=_FIX)
