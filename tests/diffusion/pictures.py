"""Picture files that Pillow does not write: PNGs of any depth, and headers that promise more than the file holds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

GREY, RGB, INDEXED, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    values: np.ndarray, kind: int, depth: int, *, more: Sequence[bytes] = (), size: tuple[int, int] | None = None
) -> bytes:
    """Rows of samples (h, w * samples per pixel) of `depth` bits.
    `size`: (width, height) in the header, if not the rows' own."""
    samples = {GREY: 1, RGB: 3, INDEXED: 1, GREY_ALPHA: 2, RGBA: 4}[kind]
    height, width = values.shape[0], values.shape[1] // samples
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, -1, 2), axis=2)[:, :, 16 - depth :]
    rows = b"".join(b"\0" + np.packbits(row.ravel()).tobytes() for row in bits)
    width, height = size or (width, height)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)
