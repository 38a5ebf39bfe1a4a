"""Films to train on: a folder of them, with a motion number for each in metadata.jsonl, and what is taken of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ondevice.errors import UsageError
from ondevice.train.jsonl import rows_of
from ondevice.train.pictures import FILE, METADATA, inside

MOTION, RATE = "motion_bucket_id", "fps"
_MOST_PIXELS = 1 << 28  # of a frame
_MOST_NUMBER = 1 << 20


@dataclass(frozen=True, slots=True)
class Film:
    """A film's file, how much moves in it, and its frames per second."""

    path: Path
    motion: int
    fps: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is taken of a film: `count` frames, one after the other, each made to cover width x height, and cut out of
    the middle."""

    count: int
    width: int
    height: int

    def of(self, path: Path, rng: np.random.Generator) -> np.ndarray:
        """uint8 [count, height, width, 3]. Raises UsageError for a file that is no film, or one of fewer frames."""
        try:
            with Image.open(path) as film:
                there = getattr(film, "n_frames", 1)
                if there < self.count or film.width * film.height > _MOST_PIXELS:
                    what = f"it has too few frames, or too large ones (got {there} of {film.width}x{film.height})."
                    raise UsageError(what, where=str(path), fix=f"give films of {self.count} frames or more")
                first = int(rng.integers(0, there - self.count + 1))
                frames = []
                for number in range(first, first + self.count):
                    film.seek(number)
                    frames.append(self._cut(film.convert("RGB")))
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise UsageError(f"it cannot be read as a film ({error}).", where=str(path), fix="remove it") from error
        return np.stack(frames)

    def _cut(self, frame: Image.Image) -> np.ndarray:
        part = max(self.width / frame.width, self.height / frame.height)
        wide, high = max(self.width, round(frame.width * part)), max(self.height, round(frame.height * part))
        if wide * high > _MOST_PIXELS:
            raise ValueError(f"its frames are too narrow or too low, {frame.width}x{frame.height}")
        if frame.size != (wide, high):
            frame = frame.resize((wide, high), Image.Resampling.BILINEAR)
        x, y = (wide - self.width) // 2, (high - self.height) // 2
        return np.asarray(frame.crop((x, y, x + self.width, y + self.height)), np.uint8)


def films_of(folder: Path, fps: int, flag: str = "data_dir") -> list[Film]:
    """The films that metadata.jsonl has lines for. Raises UsageError for a line that is none, or whose film is not
    there; and where there are none."""
    path, fix = folder / METADATA, f'write a line such as {{"{FILE}": "a.webp", "{MOTION}": 127}} for each film'
    try:
        found = [_film(folder, row, where, fps, fix) for where, row in rows_of(path, fix)]
    except OSError as error:
        what = f"there is no {METADATA} that can be read ({error.strerror})."
        raise UsageError(what, where=f"--{flag} {folder}", fix=fix) from error
    if not found:
        raise UsageError("it names no film.", where=str(path), fix=fix)
    return found


def _film(folder: Path, row: dict[str, Any], where: str, fps: int, fix: str) -> Film:
    name, motion, rate = row.get(FILE), _number(row.get(MOTION)), _number(row.get(RATE, fps))
    if not isinstance(name, str) or not name or "\0" in name or motion is None or rate is None:
        raise UsageError(f"the line has no {FILE} and {MOTION}, a text and a number.", where=where, fix=fix)
    path = inside(folder, name, where)
    if not path.is_file():
        raise UsageError(f"there is no film {name}.", where=where, fix="take the line out")
    return Film(path, motion, rate)


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_NUMBER else None
