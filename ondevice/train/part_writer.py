"""Part files, and lists of them, of a JSONL of captions and pictures: what `create_pretraining_data.py` of PaddleMIX's
recipes makes, with its folders and names."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ondevice.base.paths import is_file
from ondevice.base.publish import published
from ondevice.errors import UsageError
from ondevice.train.part_files import LIST, LISTS, LONGEST, Said

LISTED, PARTS = "filelist", "laion400m_format_data"
"""Folders: of the lists, and of the parts."""
_LINE = 1 << 20  # bytes of a line of the JSONL


@dataclass(frozen=True, slots=True)
class Asked:
    """What is made, and of what.

    Args:
        rows: the JSONL; pictures are beside it.
        caption, image: keys of its objects.
        name: of the lists.
        per_part: samples of a part.
        zipped: whether parts are gzipped.
        repeat: how often the list has each part: for as many readers as there are parts.
    """

    rows: Path
    caption: str = "caption"
    image: str = "image"
    name: str = "custom_dataset"
    per_part: int = 1000
    zipped: bool = False
    repeat: int = 1


def write_parts(asked: Asked, out: Path, said: Said) -> Path:
    """Make the folder `out`: parts, a list of them, and a list of that list, whose path is given. Rows that cannot be
    used are told to `said`, and left out.

    Raises:
        UsageError: there are no rows, or none can be used; or `out` is there already, or cannot be written.
    """
    if out.exists():
        raise UsageError("it is there already.", where=f"--output_path {out}", fix="name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with published(out, UsageError) as new:
        (new / PARTS).mkdir()
        (new / LISTED).mkdir()
        names = list(_parts(asked, new / PARTS, said))
        if not names:
            what = "it has no line whose caption and picture can be read."
            raise UsageError(what, where=str(asked.rows), fix=f'write lines {{"{asked.caption}": ..., ...}}')
        lines = [f"../{PARTS}/{name}\n" for name in names] * asked.repeat
        (new / LISTED / f"{asked.name}{LIST}").write_text("".join(lines), "utf-8")
        (new / LISTED / f"{asked.name}{LISTS}").write_text(f"{asked.name}{LIST}\n", "utf-8")
    return out / LISTED / f"{asked.name}{LISTS}"


def _parts(asked: Asked, folder: Path, said: Said) -> Iterator[str]:
    """Names of the parts, each when it is written."""
    rows = _rows(asked, said)
    number = 0
    while (first := next(rows, None)) is not None:
        number += 1
        name = f"part-{number:06}" + (".gz" if asked.zipped else "")
        with _created(folder / name, asked.zipped) as file:
            _write(file, first)
            for _ in range(asked.per_part - 1):
                if (row := next(rows, None)) is None:
                    break
                _write(file, row)
        yield name


def _created(path: Path, zipped: bool) -> BinaryIO:
    return gzip.GzipFile(path, "wb", mtime=0) if zipped else path.open("wb")  # type: ignore[return-value]


def _write(file: BinaryIO, row: tuple[str, Path]) -> None:
    caption, path = row
    file.write(f"{caption}\t\t".encode())
    with path.open("rb") as picture:
        base64_of(picture, file)
    file.write(b"\n")


def base64_of(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a file as base64 without line breaks, a block at a time."""
    while block := source.read(3 << 16):  # a multiple of three bytes: no padding inside
        target.write(base64.b64encode(block))


def _rows(asked: Asked, said: Said) -> Iterator[tuple[str, Path]]:
    """(caption, picture's path) of each line that can be used."""
    try:
        file = asked.rows.open("rb")
    except OSError as error:
        what = f"it cannot be read ({error.strerror})."
        raise UsageError(what, where=f"--input_path {asked.rows}", fix="give a JSONL file") from error
    with file:
        number = 0
        while line := file.readline(_LINE + 1):
            number += 1
            try:
                if row := _row(line, asked):
                    yield row
            except ValueError as error:
                said(f"{asked.rows}, line {number}: {error}; left out")
                while len(line) > _LINE and not line.endswith(b"\n"):
                    line = file.readline(_LINE + 1)


def _row(line: bytes, asked: Asked) -> tuple[str, Path] | None:
    """Raises ValueError for a line that cannot be used; None for an empty one."""
    if len(line) > _LINE:
        raise ValueError(f"the line is longer than {_LINE >> 20} MB")
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error})") from error
    found: Sequence[object] = [row.get(key) if isinstance(row, dict) else None for key in (asked.caption, asked.image)]
    caption, image = found
    if not isinstance(caption, str) or not isinstance(image, str) or not image or "\0" in image:
        raise ValueError(f"it has no {asked.caption} and {asked.image}, two texts")
    if not (caption + image).isascii() and any("\ud800" <= one <= "\udfff" for one in caption + image):
        raise ValueError(f"its {asked.caption} or {asked.image} has half of a pair of characters")
    path = asked.rows.parent / image
    if not is_file(path):
        raise ValueError(f"there is no picture {image}")
    if 4 * (path.stat().st_size + 2) // 3 > LONGEST - _LINE:
        raise ValueError(f"{image} is larger than a line may be ({(LONGEST * 3 // 4) >> 20} MB)")
    return " ".join(caption.split()), path
