"""Hostile bundles in one file: ZIP archives that other tools wrote, or that nobody should."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from player.hostile import GOLDEN, MANIFEST, TINY, Hostile

LOCAL, ENTRY, END = 0x04034B50, 0x02014B50, 0x06054B50
SHARD, KERNEL = "weights/tiny-000.bin", "kernels/pick.cl"


@dataclass(frozen=True)
class Entry:
    """What is written of a file, in its local header and in the directory. None: what it is."""

    name: str
    data: bytes
    listed: str | None = None
    method: int = 0
    flags: int = 0
    size: int | None = None
    packed: int | None = None
    crc: int | None = None
    offset: int | None = None
    alignment: int = 64
    extra: bytes = b""
    local_extra: bytes = b""
    attributes: int = 0o100644 << 16

    def head(self) -> bytes:
        crc = crc32(self.data) if self.crc is None else self.crc
        size = len(self.data) if self.size is None else self.size
        return struct.pack(
            "<4HLLL", self.flags, self.method, 0, 33, crc, size if self.packed is None else self.packed, size
        )


def entries() -> list[Entry]:
    """The golden bundle's, as `ondevice pack` orders them."""
    folder = GOLDEN / f"{TINY}.ondevice"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names.sort(key=lambda name: name != MANIFEST)
    return [
        Entry(name, (folder / name).read_bytes(), alignment=16_384 if name.startswith("weights/") else 64)
        for name in names
    ]


def archive(rows: list[Entry], before: bytes = b"", **end: int) -> bytes:
    """A file of these, laid out as docs/bundle.md says where a row says nothing else."""
    out, offsets = bytearray(before), []
    for row in rows:
        offsets.append(len(out))
        name = row.name.encode()
        gap = -(len(out) + 30 + len(name) + len(row.local_extra) + 6) % row.alignment
        extra = row.local_extra + struct.pack("<3H", 0xD935, 2 + gap, row.alignment) + bytes(gap)
        out += struct.pack("<LH", LOCAL, 20) + row.head() + struct.pack("<2H", len(name), len(extra)) + name + extra
        out += row.data
    begin = len(out)
    for row, offset in zip(rows, offsets, strict=True):
        name = (row.name if row.listed is None else row.listed).encode()
        place = offset if row.offset is None else row.offset
        out += struct.pack("<L2H", ENTRY, 0x0314, 20) + row.head()
        out += struct.pack("<5H2L", len(name), len(row.extra), 0, 0, 0, row.attributes, place) + name + row.extra
    count = end.get("count", len(rows))
    size, place = end.get("size", len(out) - begin), end.get("place", begin)
    return bytes(out) + struct.pack("<L4H2LH", END, 0, 0, count, count, size, place, 0)


def changed(file: str, /, **fields: object) -> Callable[[], bytes]:
    """The archive, with another word about one file."""
    return lambda: archive([replace(row, **fields) if row.name == file else row for row in entries()])


def zipped(how: Callable[[zipfile.ZipFile], None], compression: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    """What Python's zipfile writes."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as file:
            how(file)

    return write


def everything(file: zipfile.ZipFile, prefix: str = "") -> None:
    for row in entries():
        file.writestr(prefix + row.name, row.data)


def overlapping() -> bytes:
    """Every entry is the same bytes: a small file that is unpacked to a large one."""
    first, *rest = entries()
    return archive([first, *(replace(row, offset=0) for row in rest)])


def in_another(row: Entry) -> bytes:
    """An entry whose header lies in the bytes of another."""
    data = archive([row])
    rows = entries()
    rows[1] = replace(rows[1], data=data)
    return archive([*rows, replace(row, offset=len(archive(rows[:1])))])


def packed() -> list[Hostile]:
    def case(what: str, data: Callable[[], bytes]) -> Hostile:
        return tool(what, lambda path: path.write_bytes(data()))

    def tool(what: str, write: Callable[[Path], object]) -> Hostile:
        def make(folder: Path) -> Path:
            write(folder / "b.odpack")
            return folder / "b.odpack"

        return Hostile(f"packed: {what}", make)

    wide = struct.pack("<2HQ", 1, 8, 1 << 40)
    return [
        tool("compressed", zipped(everything, zipfile.ZIP_DEFLATED)),
        tool("by another tool, in another place", zipped(everything)),
        tool("with a folder before its names", zipped(lambda file: everything(file, "tiny.ondevice/"))),
        case("an entry that is a folder", lambda: archive([*entries(), Entry("kernels/", b"")])),
        tool("of nothing", zipped(lambda file: None)),
        tool("a text", lambda path: path.write_text("PK is how it begins")),
        tool("four bytes", lambda path: path.write_bytes(struct.pack("<L", LOCAL))),
        tool("no bytes", lambda path: path.write_bytes(b"")),
        case("a program before it", lambda: archive(entries(), before=b"#!/bin/sh\n")),
        case(
            "bytes before the first entry, which say they are one",
            lambda: archive(entries(), before=struct.pack("<L", LOCAL)),
        ),
        case("its manifest last", lambda: archive([*entries()[1:], entries()[0]])),
        case("its manifest twice", lambda: archive([*entries(), entries()[0]])),
        case(
            "a file twice, once in capitals",
            lambda: archive([*entries(), replace(entries()[1], name="KERNELS/PICK.CL")]),
        ),
        case("a way up", changed(KERNEL, name="../pick.cl")),
        case("a name from the root", changed(KERNEL, name="/kernels/pick.cl")),
        case("a name with a zero byte", changed(KERNEL, name="kernels/pick.cl\0.txt")),
        case("a name of another script", changed(KERNEL, name="kernels/рick.cl")),
        case("another name in its directory", changed(KERNEL, listed="kernels/kick.cl")),
        case("a name that is longer in its directory", changed(KERNEL, listed="kernels/pick.cl.cl")),
        case("a file that its manifest does not have, in place of one", changed(KERNEL, name="kernels/kick.cl")),
        case("a file too few", lambda: archive([row for row in entries() if row.name != KERNEL])),
        case("an encrypted file", changed(KERNEL, flags=1)),
        case("a file whose size comes after it", changed(KERNEL, flags=8)),
        case("a file that says it is compressed", changed(KERNEL, method=8)),
        case("a method nobody knows", changed(KERNEL, method=99)),
        case("a size of 2^32 - 1", changed(KERNEL, size=2**32 - 1)),
        case("a size of 2^40 by ZIP64, of one number", changed(KERNEL, size=2**32 - 1, extra=wide, local_extra=wide)),
        case(
            "a size of 2^64 by ZIP64",
            changed(KERNEL, size=2**32 - 1, extra=struct.pack("<2H2Q", 1, 16, 2**64 - 1, 2**64 - 1)),
        ),
        case("a size past the end", changed(SHARD, size=1 << 20)),
        case("a size too small", changed(SHARD, size=512)),
        case("two sizes", changed(KERNEL, packed=10)),
        case("an offset past the end", changed(KERNEL, offset=2**32 - 2)),
        case("an offset in the directory", changed(KERNEL, offset=18_000)),
        case("an offset of an entry before", changed(KERNEL, offset=0)),
        case("entries that are all the first", overlapping),
        case("an entry within an entry", lambda: in_another(replace(entries()[1], name="kernels/within.cl"))),
        case("weights between pages", changed(SHARD, alignment=512)),
        case("a kernel between lines", changed(KERNEL, alignment=8)),
        case("extra fields that are cut", changed(KERNEL, extra=b"\1\0\xff\xff")),
        case("a count of 65,535", lambda: archive(entries(), count=65_535)),
        case("a count of one less", lambda: archive(entries(), count=len(entries()) - 1)),
        case("a directory at 0", lambda: archive(entries(), place=0)),
        case("a directory without an end", lambda: archive(entries(), size=2**32 - 2)),
        case("a directory by ZIP64 that is not there", lambda: archive(entries(), place=2**32 - 1)),
        case("its last byte cut", lambda: archive(entries())[:-1]),
        case("half of it", lambda: archive(entries())[:9000]),
        case("a byte after it", lambda: archive(entries()) + b"\0"),
        case("another archive after it", lambda: archive(entries()) * 2),
        case(
            "one bit of a shard",
            lambda: archive(
                [replace(row, data=b"\1" + row.data[1:]) if row.name == SHARD else row for row in entries()]
            ),
        ),
        case("a kernel of another size", changed(KERNEL, data=b"more")),
    ]
