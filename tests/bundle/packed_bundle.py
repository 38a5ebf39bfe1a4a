"""The tiny bundle as one file, and changes of its bytes, each with how its refusal begins:
the rows of refused_packed.json."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bundle.tiny_bundle import write_tiny

from ondevice.bundle import open_bundle, packed
from ondevice.bundle.packer import pack_bundle

Change = tuple[str, list[tuple[int, bytes]], dict[str, Any], str]


def write_packed(path: Path) -> Path:
    """tiny.odpack."""
    return pack_bundle(open_bundle(write_tiny(path.with_suffix(".ondevice"), force=True)), path, force=True)


def widened(data: bytes) -> bytes:
    """The same with each size and place in ZIP64's fields, as a file of many gigabytes has them."""
    entries = directory(data)
    out = bytearray()
    rows = []
    for at, local in entries:
        head = list(packed.ENTRY.unpack_from(data, at))
        name = data[at + packed.ENTRY.size :][: head[10]]
        place = packed.read_directory(data, "tiny")[name.decode()]
        start, wide = len(out), packed.EXTRA.pack(packed.WIDE, 16) + struct.pack("<2Q", place.bytes, place.bytes)
        own = list(packed.LOCAL.unpack_from(data, local))
        align = packed.alignment(name.decode())
        gap = -(start + packed.LOCAL.size + len(name) + len(wide) + 6) % align
        extra = wide + packed.EXTRA.pack(packed.PADDING, 2 + gap) + struct.pack("<H", align) + bytes(gap)
        own[1], own[7:9], own[10] = 45, [packed.FULL] * 2, len(extra)
        out += packed.LOCAL.pack(*own) + name + extra + data[place.offset : place.offset + place.bytes]
        wide = packed.EXTRA.pack(packed.WIDE, 24) + struct.pack("<3Q", place.bytes, place.bytes, start)
        unknown = packed.EXTRA.pack(0x5455, 5) + b"\1\0\0\0\0"  # a time, which readers pass over
        head[2], head[8:10], head[11], head[16] = 45, [packed.FULL] * 2, len(unknown + wide), packed.FULL
        rows.append(packed.ENTRY.pack(*head) + name + unknown + wide)
    begin, size, count = len(out), sum(map(len, rows)), len(rows)
    out += b"".join(rows)
    out += packed.WIDE_END.pack(packed.WIDE_END_MARK, 44, 0x0314, 45, 0, 0, count, count, size, begin)
    out += packed.LOCATOR.pack(packed.LOCATOR_MARK, 0, begin + size, 1)
    return bytes(out + packed.END.pack(packed.END_MARK, 0, 0, count, count, packed.FULL, packed.FULL, 0))


def directory(data: bytes) -> list[tuple[int, int]]:
    """Where each entry is in the directory, and its local header."""
    _, _, _, _, count, _, at, _ = packed.END.unpack_from(data, len(data) - packed.END.size)
    found = []
    for _ in range(count):
        head = packed.ENTRY.unpack_from(data, at)
        found.append((at, head[16]))
        at += packed.ENTRY.size + head[10] + head[11]
    return found


def packed_rows(file: str, data: bytes, changes: Callable[[bytes], list[Change]]) -> list[dict[str, Any]]:
    """Rows of refused_packed.json."""
    return [
        {"file": file, "what": what, "set": [[offset, new.hex()] for offset, new in values]}
        | more
        | {"message": message}
        for what, values, more, message in changes(data)
    ]


def packed_changes(data: bytes) -> list[Change]:
    """(what it is, bytes to put at offsets, and how the file is cut or longer, how the refusal begins)."""
    entries = directory(data)
    (first, _), (second, local) = entries[:2]
    last, last_local = entries[-1]
    size, end = len(data), len(data) - packed.END.size
    name = second + packed.ENTRY.size
    path = data[name : name + packed.ENTRY.unpack_from(data, second)[10]].decode()
    assert path == "kernels/pick.cl" and data[last + packed.ENTRY.size :].startswith(b"weights/")
    count = len(entries)

    def at(offset: int, value: int, width: int = 2) -> list[tuple[int, bytes]]:
        return [(offset, value.to_bytes(width, "little"))]

    def end_record(size: int, place: int) -> str:
        return packed.END.pack(packed.END_MARK, 0, 0, count, count, size, place, 0).hex()

    def moved(own: int, by: int) -> list[tuple[int, bytes]]:
        """A shorter padding, so that the bytes begin earlier."""
        head = packed.LOCAL.unpack_from(data, own)
        return at(own + 28, head[10] - by) + at(own + 30 + head[9] + 2, head[10] - 4 - by)

    names = {data[row + 46 :][: packed.ENTRY.unpack_from(data, row)[10]]: (row, own) for row, own in entries}
    twice = names[b"samplers/tiny_2.json"]
    both = at(second + 46, ord("K"), 1) + at(local + 30, ord("K"), 1)
    weights = packed.ENTRY.unpack_from(data, last)[9]
    return [
        ("cut in its last byte", [], {"cut": size - 1}, "tiny.odpack: is cut, or was not packed"),
        ("cut in half", [], {"cut": size // 2}, "tiny.odpack: is cut, or was not packed"),
        ("cut to its first header", [], {"cut": 30}, "tiny.odpack: is cut, or was not packed"),
        ("cut to the end record", [], {"cut": 21}, "tiny.odpack: is cut, or was not packed"),
        ("a byte more", [], {"add": "00"}, "tiny.odpack: is cut, or was not packed"),
        ("a comment", at(end + 20, 1), {"add": "00"}, "tiny.odpack: is cut, or was not packed"),
        ("a comment that is not there", at(end + 20, 1), {}, "tiny.odpack: has an end record of several disks"),
        ("a second disk", at(end + 4, 1), {}, "tiny.odpack: has an end record of several disks"),
        ("the directory on another disk", at(end + 6, 1), {}, "tiny.odpack: has an end record of several disks"),
        ("two counts", at(end + 8, count - 1), {}, "tiny.odpack: has an end record of several disks"),
        ("no entry", at(end + 8, 0) + at(end + 10, 0), {}, "tiny.odpack: has 0 entries (expected 1..16385)"),
        (
            "too many",
            at(end + 8, 16386) + at(end + 10, 16386),
            {},
            "tiny.odpack: has 16386 entries (expected 1..16385)",
        ),
        ("an entry less", at(end + 8, count - 1) + at(end + 10, count - 1), {}, "tiny.odpack: has bytes of no entry"),
        (
            "an entry more",
            at(end + 8, count + 1) + at(end + 10, count + 1),
            {},
            f"entry {count} of tiny.odpack: the directory ends within it",
        ),
        ("the directory elsewhere", at(end + 16, first - 1, 4), {}, "tiny.odpack: has a directory of"),
        ("the directory after the end", at(end + 16, packed.FULL - 1, 4), {}, "tiny.odpack: has a directory of"),
        ("no record of ZIP64", at(end + 16, packed.FULL, 4), {}, "tiny.odpack: has a damaged record of ZIP64"),
        ("no mark of an entry", at(second, 0, 1), {}, "entry 1 of tiny.odpack: is no entry of the directory"),
        ("an entry with a comment", at(second + 32, 1), {}, "entry 1 of tiny.odpack: is no entry of the directory"),
        ("an entry on another disk", at(second + 34, 1), {}, "entry 1 of tiny.odpack: is no entry of the directory"),
        ("a name past the end", at(last + 28, 0xFFFF), {}, f"entry {count - 1} of tiny.odpack: the directory ends"),
        (
            "extra fields past the end",
            at(last + 30, 0xFFFF),
            {},
            f"entry {count - 1} of tiny.odpack: the directory ends",
        ),
        ("no name", at(last + 28, 0), {}, f'entry {count - 1} of tiny.odpack: is called "" (expected one to three'),
        ("a name outside", [(name, b"../..")], {}, 'entry 1 of tiny.odpack: is called "../..ls/pick.cl" (expected one'),
        (
            "an absolute name",
            at(name, ord("/"), 1),
            {},
            'entry 1 of tiny.odpack: is called "/ernels/pick.cl" (expected',
        ),
        (
            "a name with a backslash",
            at(name, ord("\\"), 1),
            {},
            'entry 1 of tiny.odpack: is called "\\\\ernels/pick.cl"',
        ),
        ("a name with a zero", at(name, 0, 1), {}, 'entry 1 of tiny.odpack: is called "\\u0000ernels/pick.cl"'),
        ("a name of no ASCII", at(name, 0xE9, 1), {}, 'entry 1 of tiny.odpack: is called "\\u00e9ernels/pick.cl"'),
        ("another first", at(first + 46, ord("c"), 1), {}, 'entry 0 of tiny.odpack: is called "cundle.json" (expected'),
        ("a name of four parts", [(name + 1, b"/r/n/")], {}, 'entry 1 of tiny.odpack: is called "k/r/n/'),
        (
            "a name twice",
            [(twice[0] + 46, b"kernels/Scale_add.cl"), (twice[1] + 30, b"kernels/Scale_add.cl")],
            {},
            "kernels/Scale_add.cl: is there twice",
        ),
        ("a name in one place", at(local + 30, ord("K"), 1), {}, f"{path}: has another local header than"),
        ("a file is missing", both, {}, f"{path}: is missing from tiny.odpack"),
        ("compressed", at(second + 10, 8), {}, f"{path}: is compressed (got method 8, expected 0)"),
        ("compressed in one place", at(local + 8, 8), {}, f"{path}: has another local header than"),
        ("encrypted", at(second + 8, 1), {}, f"{path}: is encrypted or of unknown size (got flags 1, expected 0)"),
        ("encrypted in one place", at(local + 6, 1), {}, f"{path}: has another local header than"),
        ("its size after the data", at(second + 8, 8), {}, f"{path}: is encrypted or of unknown size (got flags 8"),
        ("another CRC-32", at(local + 14, 0x12345678, 4), {}, f"{path}: has another local header than"),
        ("another packed size in one place", at(local + 18, 7, 4), {}, f"{path}: has another local header than"),
        ("other sizes", at(second + 20, 7, 4), {}, f"{path}: has 7 bytes packed and"),
        (
            "a smaller file in one place",
            at(second + 20, 7, 4) + at(second + 24, 7, 4),
            {},
            f"{path}: has another local header than",
        ),
        (
            "a smaller file",
            at(last + 20, weights - 512, 4)
            + at(last + 24, weights - 512, 4)
            + at(last_local + 18, weights - 512, 4)
            + at(last_local + 22, weights - 512, 4),
            {},
            "tiny.odpack: has bytes of no entry (got 512 before the directory, 0 after it)",
        ),
        (
            "a file into the directory",
            at(last + 20, weights + 1, 4)
            + at(last + 24, weights + 1, 4)
            + at(last_local + 18, weights + 1, 4)
            + at(last_local + 22, weights + 1, 4),
            {},
            "weights/tiny-000.bin: lies outside of the file",
        ),
        (
            "bytes after the last entry",
            [],
            {"cut": end, "add": "00000000" + end_record(end - first + 4, first)},
            "tiny.odpack: has bytes of no entry (got 0 before the directory, 4 after it)",
        ),
        (
            "too short for ZIP64",
            [],
            {"cut": 70, "add": end_record(packed.FULL, packed.FULL)},
            "tiny.odpack: has no record of ZIP64 before its end record",
        ),
        ("weights that begin within a page", moved(last_local, 64), {}, "weights/tiny-000.bin: has its bytes at"),
        ("a file that begins at no multiple", moved(local, 1), {}, f"{path}: has its bytes at"),
        ("overlapping", at(second + 42, 0, 4), {}, f"{path}: begins at 0 (expected {local}"),
        ("a gap", at(second + 42, local + 1, 4), {}, f"{path}: begins at {local + 1} (expected {local}"),
        ("no mark of a local header", at(local, 0, 1), {}, f"{path}: has another local header than"),
        ("a longer name in one place", at(local + 26, 0xFFFF), {}, f"{path}: lies outside of the file"),
        ("a longer extra field", at(local + 28, 0xFFFF), {}, f"{path}: lies outside of the file"),
        ("an extra field past its end", at(local + 47, 0xFFFF), {}, f"{path}: has a damaged extra field"),
        ("sizes in ZIP64 that is not there", at(second + 20, packed.FULL, 4), {}, f"{path}: has no 1 values of ZIP64"),
        (
            "a place in ZIP64 that is not there",
            at(second + 42, packed.FULL, 4),
            {},
            f"{path}: has no 1 values of ZIP64",
        ),
        (
            "an extra field that moves the data",
            at(local + 28, packed.LOCAL.unpack_from(data, local)[10] - 1),
            {},
            f"{path}: has a damaged extra field",
        ),
    ]


def wide_changes(data: bytes) -> list[Change]:
    """The same of the file that is all in ZIP64."""
    record, end = len(data) - 98, len(data) - 22
    rows = packed.WIDE_END.unpack_from(data, record)
    extra = int(rows[9]) + packed.ENTRY.size + len("bundle.json") + 9 + 4  # the first entry's values

    def at(offset: int, value: int, width: int = 2) -> list[tuple[int, bytes]]:
        return [(offset, value.to_bytes(width, "little"))]

    where = "tiny_zip64.odpack"
    return [
        ("no mark of the record", at(record, 0, 1), {}, f"{where}: has a damaged record of ZIP64"),
        ("a longer record", at(record + 4, 45, 8), {}, f"{where}: has a damaged record of ZIP64"),
        ("another disk in it", at(record + 16, 1, 4), {}, f"{where}: has a damaged record of ZIP64"),
        ("another count in it", at(record + 32, 1 << 40, 8), {}, f"{where}: has a damaged record of ZIP64"),
        ("the directory past the end", at(record + 48, (1 << 64) - 1, 8), {}, f"{where}: has a directory of"),
        ("no mark of the locator", at(record + 56, 0, 1), {}, f"{where}: has a damaged locator of ZIP64"),
        ("the record elsewhere", at(record + 64, 0, 8), {}, f"{where}: has a damaged locator of ZIP64"),
        ("two disks", at(record + 72, 2, 4), {}, f"{where}: has a damaged locator of ZIP64"),
        (
            "a size over the limit",
            at(extra, 1 << 41, 8) + at(extra + 8, 1 << 41, 8),
            {},
            "bundle.json: has 2199023255552",
        ),
        (
            "the largest size",
            at(extra, (1 << 64) - 1, 8) + at(extra + 8, (1 << 64) - 1, 8),
            {},
            "bundle.json: has 184467",
        ),
        ("the largest place", at(extra + 16, (1 << 64) - 1, 8), {}, "bundle.json: begins at 184467"),
        ("fewer values", at(extra - 2, 16), {}, "bundle.json: has no 3 values of ZIP64"),
        ("more values than are full", at(int(rows[9]) + 42, 0, 4), {}, "bundle.json: has no 2 values of ZIP64"),
        ("more values", at(extra - 2, 25), {}, "bundle.json: has a damaged extra field"),
        ("not its id", at(extra - 4, 2), {}, "bundle.json: has no 3 values of ZIP64"),
        ("a count that wraps", at(end + 8, 1) + at(end + 10, 1), {}, f"{where}: has a damaged record of ZIP64"),
    ]


def changed(data: bytes, row: dict[str, Any]) -> bytes:
    """A packed bundle after the change of a row of refused_packed.json."""
    out = bytearray(data)
    for offset, value in row["set"]:
        new = bytes.fromhex(value)
        out[offset : offset + len(new)] = new
    return bytes(out[: row.get("cut", len(out))]) + bytes.fromhex(row.get("add", ""))
