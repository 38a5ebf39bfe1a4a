"""Pictures to train on: folders of them, with captions in metadata.jsonl or without, and what is cut out of each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ondevice.base.paths import is_file
from ondevice.errors import UsageError, printable
from ondevice.train.jsonl import rows_of

log = logging.getLogger(__name__)
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")
METADATA = "metadata.jsonl"
FILE, TEXT = "file_name", "text"
LONGEST = 200  # characters of a name in a message
RESAMPLINGS = tuple(one.name.lower() for one in Image.Resampling)
"""How pictures are made smaller or larger, as Pillow calls it."""
_MOST_PIXELS = 1 << 28


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture's file and what it shows; `others`: what may be said of it instead."""

    path: Path
    caption: str
    others: tuple[str, ...] = ()

    def told(self, seed: int) -> str:
        """One of its captions: a function of a seed."""
        return (self.caption, *self.others)[seed % (1 + len(self.others))]


@dataclass(frozen=True, slots=True)
class Piece:
    """What was cut out of a picture.

    Args:
        pixels: float32 [3, size, size] in -1..1.
        whole: height and width of the picture before.
        corner: top and left of the piece, in pixels of its own size, of the picture mirrored as the piece is.
    """

    pixels: np.ndarray
    whole: tuple[int, int]
    corner: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cut:
    """How pictures of any size become those that are trained on: the shorter side is made `size`, and a square is cut
    out at random or from the middle.

    Args:
        center: from the middle.
        flip: mirror every other one.
        fixed: say of every piece that it is all of a picture of this size.
        resampling: one of RESAMPLINGS.
    """

    size: int
    center: bool = False
    flip: bool = False
    fixed: bool = False
    resampling: str = "bilinear"

    def of(self, path: Path, rng: np.random.Generator) -> Piece:
        """A piece of a picture. Raises UsageError for a file that is none."""
        return self.read(path, str(path), rng)

    def read(
        self, file: Path | BinaryIO, where: str, rng: np.random.Generator, whole: tuple[int, int] | None = None
    ) -> Piece:
        """The same of a file that is open, which stands at `where`; `whole`: the height and width that it had before
        it was made smaller, where that is known."""
        try:
            with Image.open(file) as opened:
                if opened.width * opened.height > _MOST_PIXELS:
                    what = f"the picture is too large (got {opened.width}x{opened.height})."
                    raise UsageError(what, where=where, fix="make it smaller")
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UsageError(f"it cannot be read as a picture ({error}).", where=where, fix="remove it") from error
        whole = whole or (picture.height, picture.width)
        part = self.size / min(picture.size)
        wide, high = (max(self.size, round(side * part)) for side in picture.size)
        if wide * high > _MOST_PIXELS:
            what = f"the picture is too narrow or too low (got {picture.width}x{picture.height})."
            raise UsageError(what, where=where, fix="cut it to another shape, or remove it")
        picture = picture.resize((wide, high), Image.Resampling[self.resampling.upper()])
        x, y = (round((side - self.size) / 2) for side in (wide, high))
        if not self.center:
            x, y = (int(rng.integers(0, side - self.size + 1)) for side in (wide, high))
        picture = picture.crop((x, y, x + self.size, y + self.size))
        if self.flip and rng.random() < 0.5:
            picture, x = ImageOps.mirror(picture), wide - self.size - x
        pixels = (np.asarray(picture, np.float32) / 127.5 - 1).transpose(2, 0, 1)
        return Piece(pixels, (self.size, self.size), (0, 0)) if self.fixed else Piece(pixels, whole, (y, x))


def files_of(folder: Path, flag: str) -> list[Path]:
    """The pictures of a folder, by name. Raises UsageError where there are none."""
    if not folder.is_dir():
        raise UsageError("there is no such folder.", where=f"--{flag} {folder}", fix="give a folder of pictures")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        what = f"the folder has no pictures ({', '.join(ENDINGS)})."
        raise UsageError(what, where=f"--{flag} {folder}", fix="give a folder of pictures")
    return found


def captioned(folder: Path, flag: str) -> list[Sample]:
    """The pictures of a folder that metadata.jsonl has lines for: {"file_name": ..., "text": ...}; where the text is a
    list of texts, any of them may be taken.

    A line whose picture is missing is said and left out; pictures without a line are said, too.

    Raises:
        UsageError: there is no such file, or nothing in it; a line is no such object, or leads out of the folder.
    """
    path = folder / METADATA
    if not path.is_file():
        what = f"there is no {METADATA} with a caption for each picture."
        fix = f'write a line such as {{"{FILE}": "a.png", "{TEXT}": "a cat"}} for each'
        raise UsageError(what, where=f"--{flag} {folder}", fix=fix)
    found, missing = [], []
    for where, name, (text, *others) in _lines(path):
        picture = inside(folder, name, where)
        if is_file(picture):
            found.append(Sample(picture, text, tuple(others)))
        else:
            missing.append(name)
    if missing:
        log.warning("%s: %d pictures are not there and are left out (%s)", path, len(missing), _some(missing))
    if not found:
        raise UsageError("it names no picture that is there.", where=str(path), fix="correct its file names")
    named = {one.path for one in found}
    if left := [one.name for one in files_of(folder, flag) if one not in named]:
        log.warning("%s: %d pictures have no line and are left out (%s)", path, len(left), _some(left))
    return found


def inside(folder: Path, name: str, where: str) -> Path:
    """A file that a line names. Raises UsageError for one that is not in the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UsageError(f"{FILE} leads out of the folder.", where=where, fix="name a file in it")
    return folder / name


def _some(names: list[str]) -> str:
    """The first three names, none of more than LONGEST characters."""
    some = [name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in map(printable, names[:3])]
    return ", ".join(some) + ("..." if len(names) > 3 else "")


def _lines(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(where it stands, file name, captions) of each line."""
    fix = f'write {{"{FILE}": ..., "{TEXT}": ...}}'
    for where, row in rows_of(path, fix):
        name, given = row.get(FILE), row.get(TEXT)
        texts = given if isinstance(given, list) else [given]
        texted = bool(texts) and all(isinstance(one, str) for one in texts)
        if not isinstance(name, str) or not texted or not name or "\0" in name:
            raise UsageError(f"the line has no {FILE} and {TEXT}, two texts.", where=where, fix=fix)
        yield where, name, [str(one) for one in texts]
