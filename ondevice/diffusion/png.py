"""PNG files whose bytes any player can write (docs/png.md): the same picture and texts give the same file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np

from ondevice.diffusion.deflate import zlib_stream

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PART = 1 << 20  # bytes of an IDAT chunk
BAND = 64  # rows that are filtered at a time
RGB = 2  # colour type, of 8 bits


def encode_png(pixels: np.ndarray, texts: Mapping[str, str]) -> bytes:
    """A file of uint8[h, w, 3]. `texts`, by keyword, hold no zero; those beyond Latin-1 are written as UTF-8."""
    height, width, _ = pixels.shape
    stream = zlib_stream(filtered(pixels))
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 8, RGB, 0, 0, 0))]
    chunks += [_text(keyword, text) for keyword, text in texts.items()]
    chunks += [(b"IDAT", stream[start : start + PART]) for start in range(0, len(stream), PART)]
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in [*chunks, (b"IEND", b"")])


def filtered(pixels: np.ndarray) -> np.ndarray:
    """The rows of uint8[h, w, 3] as PNG compresses them: uint8[h * (1 + 3 w)], each after the number of its filter.

    A row's filter is the one whose bytes, from -128 to 127, have the least sum of absolute values; of several the
    first.
    """
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, 3 * width)
    out = np.empty((height, 1 + 3 * width), np.uint8)
    for start in range(0, height, BAND):
        raw = rows[start : start + BAND].astype(np.int16)
        before = rows[start - 1] if start else np.zeros(3 * width, np.uint8)
        _filter(raw, np.concatenate([before[None].astype(np.int16), raw[:-1]]), out[start : start + BAND])
    return out.reshape(-1)


def _filter(raw: np.ndarray, up: np.ndarray, out: np.ndarray) -> None:
    """Filter int16[n, 3 w], of which `up` are the rows above, into uint8[n, 1 + 3 w]."""
    left, corner = np.zeros_like(raw), np.zeros_like(raw)
    left[:, 3:], corner[:, 3:] = raw[:, :-3], up[:, :-3]
    to_left, to_up = np.abs(up - corner), np.abs(left - corner)  # how far left + up - corner is from each
    to_corner = np.abs(left + up - 2 * corner)
    nearest = np.where(to_up <= to_corner, up, corner)
    paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)
    least = np.full(len(raw), np.iinfo(np.int64).max)
    for number, guess in enumerate((np.int16(0), left, up, (left + up) >> 1, paeth)):
        rest = (raw - guess).astype(np.uint8)
        cost = np.abs(rest.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64)
        better = cost < least
        least[better] = cost[better]
        out[better, 0], out[better, 1:] = number, rest[better]


def _text(keyword: str, text: str) -> tuple[bytes, bytes]:
    """A text's chunk: tEXt where Latin-1 has all its letters, else iTXt, uncompressed and of no language."""
    head = keyword.encode("latin-1") + b"\0"
    try:
        return b"tEXt", head + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", head + b"\0\0\0\0" + text.encode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
