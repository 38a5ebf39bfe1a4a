"""Frames as one file that browsers and chats play: animated WebP, GIF, or MP4 (film_mp4.py)."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from ondevice.diffusion.files import write_output
from ondevice.diffusion.film_mp4 import SIDES as MP4_SIDES
from ondevice.diffusion.film_mp4 import check_encoder, encode_mp4
from ondevice.diffusion.picture_file import QUALITY, exif_and_xmp
from ondevice.errors import UsageError

FORMATS = {".webp": "WEBP", ".gif": "GIF"}
"""What is always there."""

MP4 = ".mp4"
_FORMATS = FORMATS | {MP4: "MP4"}
SIDES = {"WEBP": 16383, "GIF": 65535, "MP4": MP4_SIDES}
MOST_PIXELS = 1 << 27
"""Of all frames: Pillow holds every frame of a film until the last, four bytes a pixel."""

LOSSLESS = 1 << 16
"""Pixels of a frame up to which a WebP has it exactly: small ones show it most that a WebP's colours are coarser."""

RATES = (0.1, 50.0)
"""Frames per second. Browsers show frames of a GIF that are shorter than a fiftieth of a second at a tenth."""

MOST_LOOPS = 65535
_TICKS = {"WEBP": 1000, "GIF": 100}  # that a second has there


@dataclass(frozen=True, slots=True)
class Timing:
    """Frames per second, and how often a film is played; 0: for ever."""

    rate: float = 10.0
    loops: int = 0

    def __post_init__(self) -> None:
        """Refuse what a file cannot say. Raises UsageError."""
        if not RATES[0] <= self.rate <= RATES[1]:
            what = f"out of range (got {self.rate:g}, expected {RATES[0]:g} to {RATES[1]:g} frames per second)."
            raise UsageError(what, where="--fps", fix="use 10")
        if not 0 <= self.loops <= MOST_LOOPS:
            what = f"out of range (got {self.loops}, expected 0 to {MOST_LOOPS}; 0: for ever)."
            raise UsageError(what, where="--loop", fix="use 0 or 1")

    def milliseconds(self, kind: str, count: int) -> list[int]:
        """How long each of `count` frames is shown in a format; rounded so that no error grows."""
        ticks = _TICKS[kind]
        ends = [round((number + 1) * ticks / self.rate) for number in range(count)]
        return [(end - start) * 1000 // ticks for start, end in zip([0, *ends], ends, strict=False)]


def film_format(path: Path) -> str | None:
    """WEBP, GIF or MP4, by the end of a file's name; None for another name."""
    return _FORMATS.get(path.suffix.lower())


def check_film(path: Path, count: int, size: tuple[int, int]) -> None:
    """Refuse a film of `count` frames of size (width, height) that cannot be written. Raises UsageError."""
    kind, where = film_format(path), str(path)
    if kind is None:
        what = f"films are written as WebP, GIF or MP4 (got {path.suffix[:40]!r}, expected {', '.join(_FORMATS)})."
        raise UsageError(what, where=where, fix=f"name it {path.stem}.webp, or a folder for pictures and films")
    if max(size) > SIDES[kind]:
        what = f"a {kind} has at most {SIDES[kind]} pixels per side (got {size[0]}x{size[1]})."
        raise UsageError(what, where=where, fix="make a smaller one")
    if kind == "WEBP" and not features.check("webp"):
        raise UsageError("Pillow was built without webp here.", where=where, fix="install Pillow from PyPI")
    if kind == "MP4":
        check_encoder(where)
        if size[0] % 2 or size[1] % 2:
            what = f"an MP4 has an even number of pixels per side (got {size[0]}x{size[1]})."
            raise UsageError(what, where=where, fix=f"name it {path.stem}.webp")
    if (pixels := count * size[0] * size[1]) > MOST_PIXELS:
        most = MOST_PIXELS // (size[0] * size[1])
        what = f"the film is too large (got {pixels} pixels in {count} frames, expected at most {MOST_PIXELS})."
        raise UsageError(what, where=where, fix=f"use at most {most} frames" if most > 1 else "make a smaller one")


def write_film(
    path: Path, frames: Iterator[np.ndarray], count: int, timing: Timing, parameters: Mapping[str, Any]
) -> None:
    """Write `count` frames, uint8[h, w, 3], in the format that the name says, as `encoded_film` has them. The file
    appears whole or not at all.

    Raises:
        UsageError: it cannot be written there.
    """
    data = encoded_film(path, frames, count, timing, parameters)
    write_output(path, lambda file: file.write(data))


def encoded_film(
    path: Path, frames: Iterator[np.ndarray], count: int, timing: Timing, parameters: Mapping[str, Any]
) -> bytes:
    """The bytes of a film with what it was made with inside: in a WebP as in a picture's, in a GIF and an MP4 as a
    comment in JSON. An MP4 does not say how often it is played.

    Raises:
        UsageError: it cannot be encoded here.
    """
    kind = film_format(path)
    assert kind is not None, "check_film"
    about: dict[str, Any]
    first = next(frames)
    frames, (height, width, _) = itertools.chain([first], frames), first.shape
    if kind == "MP4":
        return encode_mp4(frames, (width, height), timing.rate, parameters, str(path))
    if kind == "WEBP":
        images = (Image.fromarray(pixels) for pixels in frames)
        exif, xmp = exif_and_xmp(parameters, None)
        about = {"method": 4, "exif": exif, "xmp": xmp, "loop": timing.loops}
        about |= {"lossless": True} if width * height <= LOSSLESS else {"quality": QUALITY}
    else:
        images = (indexed(pixels) for pixels in frames)
        about = {"comment": json.dumps(dict(parameters), sort_keys=True).encode()}
        about |= {} if timing.loops == 1 else {"loop": max(timing.loops - 1, 0)}  # it says how often more
    durations = timing.milliseconds(kind, count)
    out = io.BytesIO()
    next(images).save(out, format=kind, save_all=True, append_images=images, duration=durations, **about)
    return out.getvalue()


def indexed(pixels: np.ndarray) -> Image.Image:
    """uint8[h, w, 3] in 256 colours of its own, chosen by median cut and moved to the middle of what they stand for;
    the rest of each pixel's error goes to its neighbours (Floyd-Steinberg)."""
    image = Image.fromarray(pixels)
    palette = image.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
