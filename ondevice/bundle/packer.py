"""Write a bundle as one file (docs/bundle.md, "One file"): all of it or nothing, a part at a time.

What is copied is checked by its sha256 on the way, so that no damaged bundle is passed on.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ondevice.base.publish import check_space, published_file, real, system
from ondevice.bundle import format as f
from ondevice.bundle import packed as z
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.errors import BundleError

UNIX, PLAIN, WITH_WIDE = 0x0314, 20, 45  # who made it; versions that an unpacker needs
DATE = 1 << 5 | 1  # 1980-01-01
REGULAR = 0o100644 << 16
_CRC = 14  # where a local header has it
Written = Callable[[int, int], None]  # bytes written, bytes in all


def pack_bundle(
    bundle: Bundle, out: str | os.PathLike[str], *, force: bool = False, progress: Written | None = None
) -> Path:
    """Write a bundle to the file `out` and return its path.

    force: replace a packed bundle that is there. Anything else that is there is never touched.

    Raises BundleError where `out` cannot be written or replaced, the disk is too full, or the bundle is damaged or one
    file already. Whatever is raised, or on Ctrl-C: nothing new is left and an old file stays as it was.
    """
    target = _writable(bundle, Path(out))
    sizes = {f.MANIFEST: bundle.files.size(f.MANIFEST)}
    sizes |= {name: entry.bytes for name, entry in sorted(bundle.manifest.files.items())}
    ends = _layout(sizes)
    total = ends[-1] + sum(map(len, _directory(sizes, ends, [0] * len(ends))))
    check_space(target.parent, total, "the file does")
    with system(str(out), needed=total):
        try:
            with published_file(target, replace=force) as file:
                sums = [_put(bundle, name, file, total, progress) for name in sizes]
                file.writelines(_directory(sizes, ends, sums))
                file.flush()
                os.fsync(file.fileno())
                open_bundle(file.name)
        except FileExistsError:  # at once, or as another run took the name meanwhile
            fix = "choose another name with --out, or replace it with --force"
            raise BundleError("is there already.", where=str(target), fix=fix) from None
    return target


def _writable(bundle: Bundle, out: Path) -> Path:
    """Where `out` leads. Raises BundleError unless a file can be written there, or replaced."""
    if isinstance(bundle.files, z.Packed):
        raise BundleError("is one file already.", where=str(bundle.path), fix="copy it as it is")
    with system(str(out)):
        target, head = real(out), b""
        if target.is_file():
            with target.open("rb") as file:
                head = file.read(len(z.HEAD))
    if target.is_relative_to(bundle.path):
        raise BundleError("lies inside the bundle.", where=str(out), fix="choose another folder with --out")
    if not target.parent.is_dir():
        what = f"the folder {target.parent} does not exist."
        raise BundleError(what, where=target.name, fix="create it, or choose another with --out")
    if os.path.lexists(target) and head != z.HEAD:
        what = "is there already and is no packed bundle."
        raise BundleError(what, where=str(target), fix="choose another name with --out")
    return target


def _layout(sizes: dict[str, int]) -> list[int]:
    """Where each file ends, in the order of `sizes`."""
    ends: list[int] = []
    for name, size in sizes.items():
        start = ends[-1] if ends else 0
        ends.append(start + len(_local(name, size, 0, start)) + size)
    return ends


def _put(bundle: Bundle, name: str, file: BinaryIO, total: int, progress: Written | None) -> int:
    """Write one entry and give its CRC-32. `total`: bytes of the whole file."""
    start, crc, digest, entry = file.tell(), 0, hashlib.sha256(), bundle.manifest.files.get(name)
    size = bundle.files.size(name)
    file.write(_local(name, size, 0, start))
    for chunk in bundle.files.chunks(name):
        file.write(chunk)
        digest.update(chunk)
        crc = zlib.crc32(chunk, crc)
        if progress:
            progress(file.tell(), total)
    if entry and digest.hexdigest() != entry.sha256:
        what = f"was changed: its sha256 is not the one in {f.MANIFEST}."
        raise BundleError(what, where=name, fix=f.DAMAGED)
    end = file.tell()
    file.seek(start + _CRC)
    file.write(struct.pack("<I", crc))
    file.seek(end)
    return crc


def _local(name: str, size: int, crc: int, at: int) -> bytes:
    """The local header of an entry that begins at `at`, up to its bytes."""
    path, sizes, wide = name.encode(), (size, size), b""
    needed = PLAIN
    if size >= z.FULL:
        wide = z.EXTRA.pack(z.WIDE, 16) + struct.pack("<2Q", *sizes)
        sizes, needed = (z.FULL, z.FULL), WITH_WIDE
    align = z.alignment(name)
    gap = -(at + z.LOCAL.size + len(path) + len(wide) + z.EXTRA.size + 2) % align
    extra = wide + z.EXTRA.pack(z.PADDING, 2 + gap) + struct.pack("<H", align) + bytes(gap)
    return z.LOCAL.pack(z.HEAD, needed, 0, 0, 0, DATE, crc, *sizes, len(path), len(extra)) + path + extra


def _directory(sizes: dict[str, int], ends: list[int], sums: list[int]) -> list[bytes]:
    """The central directory, and the records after it."""
    entries = [
        _entry(name, size, crc, start)
        for (name, size), crc, start in zip(sizes.items(), sums, [0, *ends[:-1]], strict=True)
    ]
    count, size, begin = len(entries), sum(map(len, entries)), ends[-1]
    if size >= z.FULL or begin >= z.FULL:
        record = z.WIDE_END.size - 12  # what follows the field that says so
        entries += [
            z.WIDE_END.pack(z.WIDE_END_MARK, record, UNIX, WITH_WIDE, 0, 0, count, count, size, begin),
            z.LOCATOR.pack(z.LOCATOR_MARK, 0, begin + size, 1),
        ]
    end = z.END.pack(z.END_MARK, 0, 0, count, count, min(size, z.FULL), min(begin, z.FULL), 0)
    return [*entries, end]


def _entry(name: str, size: int, crc: int, start: int) -> bytes:
    """An entry of the directory, of a file whose local header is at `start`."""
    path, values = name.encode(), (size, size, start)
    wide = struct.pack(f"<{sum(value >= z.FULL for value in values)}Q", *(v for v in values if v >= z.FULL))
    extra = z.EXTRA.pack(z.WIDE, len(wide)) + wide if wide else b""
    packed, unpacked, offset = (min(value, z.FULL) for value in values)
    needed = WITH_WIDE if wide else PLAIN
    head = z.ENTRY.pack(
        z.ENTRY_MARK,
        UNIX,
        needed,
        0,
        0,
        0,
        DATE,
        crc,
        packed,
        unpacked,
        len(path),
        len(extra),
        0,
        0,
        0,
        REGULAR,
        offset,
    )
    return head + path + extra
