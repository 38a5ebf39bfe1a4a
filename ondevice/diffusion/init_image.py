"""Pictures to begin from: a file as pixels, in a bounded amount of memory, and the size that is drawn from it.

A file is what a person sees in it: turned upright, the first frame of several, its transparent parts on a ground of one
colour. Colour profiles are not applied, as in diffusers.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from ondevice.diffusion.files import opened
from ondevice.errors import UsageError

log = logging.getLogger(__name__)
MEMORY = 1 << 28
"""Bytes that reading a picture takes at most, beside the file's own."""

FILE_LIMIT = 1 << 26
"""Bytes of a file. Larger ones hold more pixels than any model draws."""

SIDE_LIMIT = 1 << 16
"""Of a side: resampling keeps 48 bytes for each pixel of it, however low the picture is."""

SCANS_LIMIT = 200
"""Of a progressive JPEG, which is decoded once per scan. Encoders write ten."""

WHITE = (255, 255, 255)
# measured of a pixel: decoder, Pillow's copy, ours
_BYTES = {"PNG": 8, "BMP": 8, "GIF": 8, "JPEG": 8, "progressive JPEG": 14, "TIFF": 16, "WEBP": 18}
_READS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_OTHERS = {
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
    b"<": "a web page or SVG",
}
_STRIP = 1 << 18  # pixels that are composed at once
_GIF_BLOCKS = 1000  # before the first frame
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # of a TIFF, whose tiles may be larger than the picture
_UNSURE = ("F", "I", "LAB")  # modes whose numbers are no colours that everybody shows alike
_GREYS = {"1": 255, "L;2": 85, "L;4": 17}  # what a step of grey in a PNG is of 255
# EXIF orientation: quarter turns, then mirrored
_UPRIGHT = {2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}


def parse_colour(text: str) -> tuple[int, int, int]:
    """'#ffcc00', 'white' or 'rgb(255, 204, 0)'.

    Raises:
        UsageError: it is no colour, or a transparent one.
    """
    try:
        red, green, blue, *alpha = ImageColor.getrgb(text)
        if alpha:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{text[:40]!r} is not a colour (expected #rrggbb or a name).",
            where="--background",
            fix="write white or '#ffffff'",
        ) from None
    return red, green, blue


def read_image(path: str | Path, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """uint8[h, w, 3] of a PNG, JPEG, WebP, BMP, GIF or TIFF file of any depth, turned upright,
    its transparent parts laid on `background`.

    Says on the log what is left out of the file or added to it. It takes at most MEMORY bytes, whatever the file says.

    Raises:
        UsageError: the file is missing, damaged, too large or of another format.
    """
    where = str(path)
    fix = "check the path, or save it as a smaller PNG"
    with opened(Path(path), FILE_LIMIT, lambda why: _refused(where, why, fix)) as (file, _):
        data = file.read(FILE_LIMIT)
    return decode_image(data, where, background)


def decode_image(data: bytes, where: str, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """The same of a file's bytes; `where` names it in errors and on the log."""
    kind = _kind(data)
    if kind not in _READS:
        raise _refused(where, f"it is {kind}")
    try:
        if kind in _CANVASES:  # Pillow has memory for the canvas before it says how large it is
            _check_size(_CANVASES[kind](data), kind, where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels, orientation = _decode(data, kind, background, where)
    except UsageError:
        raise
    except UnidentifiedImageError:
        raise _refused(where, "its header is damaged") from None
    except Image.DecompressionBombError:  # Pillow's own bound, which is higher
        raise _refused(where, "it has too many pixels", "shrink it") from None
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise _refused(where, str(error)[:120] or type(error).__name__) from None
    if orientation in _UPRIGHT:
        turns, mirrored = _UPRIGHT[orientation]
        pixels = np.rot90(pixels, turns)
        pixels = np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)
    return pixels


def _refused(where: str, why: str, fix: str = "save it as PNG and try again") -> UsageError:
    return UsageError(f"not a readable image ({why}; expected {', '.join(_READS)}).", where=where, fix=fix)


def _kind(data: bytes) -> str:
    """A format that is read, or words for what the file is."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return "a HEIC or AVIF picture or a film"
    start = data[:64].lstrip()
    found = next((name for mark, name in _SIGNATURES.items() if data.startswith(mark)), None)
    return found or next(
        (name for mark, name in _OTHERS.items() if start.startswith(mark)), "no picture" if data else "empty"
    )


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the canvas."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _gif_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the screen and of the first frame on it. ValueError: there is none."""

    def number(place: int) -> int:
        return data[place] | data[place + 1] << 8

    try:
        place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)  # behind the table of colours
        for _ in range(_GIF_BLOCKS):
            if data[place] == 0x2C:
                left, top, width, height = (number(place + i) for i in (1, 3, 5, 7))
                return max(number(6), left + width), max(number(8), top + height)
            place += 2  # behind the extension's label
            while data[place]:
                place += 1 + data[place]
            place += 1
    except IndexError:
        pass
    raise ValueError("it has no frame")


_CANVASES: dict[str, Callable[[bytes], tuple[int, int]]] = {"WEBP": _webp_size, "GIF": _gif_size}


def _check_size(size: tuple[int, int], kind: str, where: str) -> None:
    width, height = size
    limit = MEMORY // _BYTES[kind]
    if width * height > limit or max(size) > SIDE_LIMIT:
        what = f"too large (got {width}x{height}, expected at most {limit} pixels of a {kind}, {SIDE_LIMIT} per side)."
        raise UsageError(what, where=where, fix="shrink it")


def _decode(data: bytes, kind: str, background: tuple[int, int, int], where: str) -> tuple[np.ndarray, int]:
    """(uint8[h, w, 3], EXIF orientation). Nothing is decoded before size and scans are known."""
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        _check_size(image.size, "progressive JPEG" if image.info.get("progressive") else kind, where)
        if kind == "TIFF":
            tags = image.tag_v2  # type: ignore[attr-defined]
            _check_size((int(tags.get(_TILE_WIDTH, 1)), int(tags.get(_TILE_LENGTH, 1))), kind, where)
        if image.mode in _UNSURE:
            raise ValueError(f"its pixels are of Pillow's mode {image.mode}, of which viewers show what they like")
        if kind == "JPEG" and (scans := data.count(b"\xff\xda")) > SCANS_LIMIT:
            raise ValueError(f"it has {scans} scans, at most {SCANS_LIMIT} are read")
        _correct_transparency(image)
        image.load()
        if (frames := getattr(image, "n_frames", 1)) > 1:
            log.warning("%s: it has %d pictures; the first is taken", where, frames)
        _say_profile(image, where)
        pixels, composed = _compose(image, background)
        if composed:
            log.warning(
                "%s: its transparent parts are laid on #%02x%02x%02x (--background chooses)", where, *background
            )
        return pixels, _orientation(image)


def _correct_transparency(image: Image.Image) -> None:
    """The transparent colour of a PNG in the units of the pixels that Pillow gives:
    it scales greys of few bits and cuts colours of 16."""
    tiles = getattr(image, "tile", None)
    key, stored = image.info.get("transparency"), str(tiles[0][3]) if tiles else ""
    if isinstance(key, int) and image.mode in ("1", "L"):
        image.info["transparency"] = key * _GREYS.get(stored, 1) & 255
    if isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 if stored == "RGB;16B" else value & 255 for value in key)


def _compose(image: Image.Image, background: tuple[int, int, int]) -> tuple[np.ndarray, bool]:
    """(uint8[h, w, 3], whether anything of the ground is seen), strip by strip,
    so that there are never two whole copies more."""
    width, height = image.size
    pixels, composed = np.empty((height, width, 3), np.uint8), False
    ground = np.array(background, np.uint16)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        into = pixels[top : top + rows]
        if image.mode.startswith("I;16"):
            values = np.asarray(strip).astype(np.uint32)
            into[:] = ((values * 255 + 32767) // 65535)[..., np.newaxis]
            alpha = np.where(values == image.info.get("transparency"), 0, 255)[..., np.newaxis].astype(np.uint16)
        elif strip.has_transparency_data:
            both = np.asarray(strip.convert("RGBA"))
            into[:], alpha = both[..., :3], both[..., 3:].astype(np.uint16)
        else:
            into[:] = np.asarray(strip.convert("RGB"))
            continue
        if alpha.min() < 255:
            into[:] = (into * alpha + ground * (255 - alpha) + 127) // 255
            composed = True
    return pixels, composed


def _say_profile(image: Image.Image, where: str) -> None:
    profile = image.info.get("icc_profile") or b""
    if image.mode == "CMYK":
        log.warning(
            "%s: it is in the colours of print (CMYK), which are not exact here; save it as sRGB for exact ones", where
        )
    elif profile and b"sRGB" not in profile and "sRGB".encode("utf-16-be") not in profile:
        log.warning(
            "%s: its colour profile is not applied, as in diffusers; save it as sRGB for its own colours", where
        )


def _orientation(image: Image.Image) -> int:
    """As EXIF says; damaged EXIF says nothing."""
    try:
        value = image.getexif().get(0x0112)
    except Exception:  # it parses what a stranger wrote
        return 1
    return value if isinstance(value, int) else 1


def fitting_size(own: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of the sizes (width, height) that can be drawn the one for a picture of size `own`:
    nearest in shape, then in area."""

    def distance(size: tuple[int, int]) -> tuple[float, float]:
        wider, higher = (math.log(size[i] / own[i]) for i in (0, 1))
        return round(abs(wider - higher), 6), abs(wider + higher)

    return min(sizes, key=distance)


def squashed(own: tuple[int, int], size: tuple[int, int], step: int) -> bool:
    """Whether a picture of size `own` changes its shape at `size`,
    by more than rounding a side to a multiple of `step` does."""
    return abs(size[0] * own[1] - size[1] * own[0]) >= step * max(own)


def shape(size: tuple[int, int]) -> str:
    """'3:2', or the nearest in small numbers."""
    ratio = Fraction(*size).limit_denominator(16) or Fraction(*size)
    return f"{ratio.numerator}:{ratio.denominator}"
