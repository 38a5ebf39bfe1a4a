"""Find the entries of the zip archive that torch.save writes, without trusting it.

torch stores every entry uncompressed, so an entry is a slice of the file: nothing is inflated here and no bomb can go
off. Layout: local header and data an entry, then the central directory, then the end record (APPNOTE 6.3.10, sections
4.3.7, 4.3.12, 4.3.14 to 4.3.16; zip64 for files over 4 GiB).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from ondevice.converters.read.safetensors_file import AGAIN, FileSlice
from ondevice.converters.read.signatures import BUNDLE, IS_BUNDLE, NO_BUNDLE
from ondevice.errors import CheckpointError

DIRECTORY_LIMIT = 64 << 20
ENTRY_LIMIT = 100_000
_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF
_ENCRYPTED = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """Bytes `offset` to `offset + size` of the archive, uncompressed."""

    offset: int
    size: int


class _Damaged(Exception):
    """What is wrong with the archive; `read_directory` adds where."""


def read_directory(file: FileSlice) -> dict[str, Entry]:
    """{name: entry} of every file in the archive. Raises CheckpointError."""
    try:
        return _read_directory(file)
    except _Damaged as error:
        raise CheckpointError(f"the zip archive is damaged: {error}.", where=str(file.path), fix=AGAIN) from None


def _read_directory(file: FileSlice) -> dict[str, Entry]:
    count, size, offset = _end_record(file)
    if count > ENTRY_LIMIT or size > DIRECTORY_LIMIT:
        raise _Damaged(f"its directory is too large (got {count:,} entries in {size:,} bytes)")
    if offset + size > file.size:
        raise _Damaged("its directory lies outside the file")
    directory, at = bytes(file.read(offset, size)), 0
    if directory.startswith(b"PK\x01\x02") and b"data.pkl" not in directory:
        name_size = struct.unpack_from("<H", directory.ljust(_CENTRAL.size, b"\0"), 28)[0]
        first = directory[_CENTRAL.size : _CENTRAL.size + name_size].decode("utf-8", "replace")
        if first == BUNDLE:
            raise CheckpointError(IS_BUNDLE, where=str(file.path), fix=NO_BUNDLE)
        raise CheckpointError(
            f"this is a zip archive of other files (such as {first[:100]!r}), not one of torch.save.",
            where=str(file.path),
            fix="unpack it, and give the weight file or the folder that is in it",
        )
    if b"/constants.pkl" in directory:  # beside compressed code
        raise CheckpointError(
            "this is a TorchScript program, not weights.",
            where=str(file.path),
            fix="use the weights that it was made from",
        )
    entries: dict[str, Entry] = {}
    for _ in range(count):
        name, entry, at = _central_entry(file, directory, at, offset)
        if name in entries:
            raise _Damaged(f"the entry {name[:200]!r} is there twice")
        if not name.endswith("/"):
            entries[name] = entry
    if at != size:
        raise _Damaged("its directory holds more than its entries")
    ranges = sorted((entry.offset, entry.offset + entry.size, name) for name, entry in entries.items() if entry.size)
    for (_, end, before), (begin, _, after) in pairwise(ranges):
        if begin < end:
            raise _Damaged(f"the entries {before[:200]!r} and {after[:200]!r} overlap")
    return entries


def _end_record(file: FileSlice) -> tuple[int, int, int]:
    """(entries, bytes, offset) of the central directory."""
    tail_size = min(file.size, _END.size + _FULL16 + _END64_LOCATOR.size)
    tail = bytes(file.read(file.size - tail_size, tail_size))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise _Damaged("it has no end record; the file is cut short")
    _, disk, first_disk, _, count, size, offset, _ = _END.unpack_from(tail, at)
    if disk or first_disk:
        raise _Damaged("it is one part of several")
    locator = at - _END64_LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
        _, _, position, _ = _END64_LOCATOR.unpack_from(tail, locator)
        if position + _END64.size > file.size:
            raise _Damaged("its zip64 end record lies outside the file")
        magic, _, _, _, _, _, _, count, size, offset = _END64.unpack(file.read(position, _END64.size))
        if magic != b"PK\x06\x06":
            raise _Damaged("its zip64 end record is not where it should be")
    return count, size, offset


def _central_entry(file: FileSlice, directory: bytes, at: int, end: int) -> tuple[str, Entry, int]:
    """One directory entry at `at`: its name, where its data is, and where the next one starts.
    Data must end before `end`."""
    if at + _CENTRAL.size > len(directory):
        raise _Damaged("its directory is cut short")
    fields = _CENTRAL.unpack_from(directory, at)
    magic, flags, method = fields[0], fields[3], fields[4]
    packed, size, name_size, extra_size, comment_size, header = (*fields[8:13], fields[16])
    if magic != b"PK\x01\x02":
        raise _Damaged("its directory holds something that is no entry")
    name_at = at + _CENTRAL.size
    extra_at = name_at + name_size
    following = extra_at + extra_size + comment_size
    if following > len(directory):
        raise _Damaged("its directory is cut short")
    name = directory[name_at:extra_at].decode("utf-8", "replace")
    size, packed, header = _with_zip64(directory[extra_at : extra_at + extra_size], size, packed, header)
    if method or flags & _ENCRYPTED or packed != size:
        raise _Damaged(f"the entry {name[:200]!r} is compressed or encrypted, which torch.save never does")
    if header + _LOCAL.size > end:
        raise _Damaged(f"the entry {name[:200]!r} lies outside the file")
    magic, _, _, _, _, _, _, _, _, local_name, local_extra = _LOCAL.unpack(file.read(header, _LOCAL.size))
    offset = header + _LOCAL.size + local_name + local_extra
    if magic != b"PK\x03\x04":
        raise _Damaged(f"the entry {name[:200]!r} is not where the directory says")
    if offset + size > end:
        raise _Damaged(f"the entry {name[:200]!r} lies outside the file")
    return name, Entry(offset, size), following


def _with_zip64(extra: bytes, *fields: int) -> tuple[int, ...]:
    """`fields` (size, packed size, header offset) with those that are all ones replaced
    by the extra field 0x0001's, in that order."""
    if _FULL32 not in fields:
        return fields
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field_end = min(at + 4 + length, len(extra))
            values = [
                value for (value,) in struct.iter_unpack("<Q", extra[at + 4 : field_end - (field_end - at - 4) % 8])
            ]
            if len(values) >= fields.count(_FULL32):
                return tuple(values.pop(0) if field == _FULL32 else field for field in fields)
        at += 4 + length
    raise _Damaged("a size is over 4 GiB and its zip64 field is missing")
