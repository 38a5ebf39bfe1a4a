"""Latents from a .npy file.
The header is read first and every word of it checked; nothing is mapped, and nothing unpickled.

NumPy's own reader is not for files of strangers: with an item size of 0 its mapping divides by zero, which
ends the process.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from ondevice.diffusion.files import opened
from ondevice.errors import UsageError

LATENTS_LIMIT = 1 << 26
"""Bytes of a file; a 4096x4096 picture needs 4 MB."""

HEADER_LIMIT = 4096
"""Bytes of a header; NumPy writes 118."""

DIMENSIONS_LIMIT = 8
_MAGIC = b"\x93NUMPY"
_LENGTHS = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}  # bytes of the header's length, by format version
_FLOAT = re.compile(r"[<>=]?f[248]")


def read_latents(path: Path) -> np.ndarray:
    """The array of a .npy file of floats (16, 32 or 64 bits, either byte order), in whatever shape it has.

    Raises:
        UsageError: the file is missing, too large, cut, no .npy file, or holds anything but one plain array of floats.
    """

    def refused(why: str) -> UsageError:
        return UsageError(
            f"no array can be read: {why}.", where=str(path), fix="save one array of float32 with numpy.save"
        )

    with opened(path, LATENTS_LIMIT, refused) as (file, size):
        try:
            dtype, order, shape = _read_header(file)
            count = math.prod(shape)
            if count * dtype.itemsize > size - file.tell():
                raise ValueError(
                    f"it is cut (its header says {list(shape)} of {dtype.name}, {size - file.tell()} bytes follow)"
                )
            return np.frombuffer(file.read(count * dtype.itemsize), dtype).reshape(shape, order=order)
        except ValueError as error:
            raise refused(str(error)) from None


def _read_header(file: BinaryIO) -> tuple[np.dtype, Literal["C", "F"], tuple[int, ...]]:
    """(dtype, order, shape). ValueError says what is wrong with it."""
    start = file.read(8)
    if start[:2] == b"PK":
        raise ValueError("it holds several arrays, or objects of torch (expected one array)")
    if start[:1] == b"\x80":
        raise ValueError("it is a pickle, and pickles are programs (expected .npy)")
    if start[:6] != _MAGIC:
        raise ValueError("it is not a .npy file")
    if start[6:] not in _LENGTHS:
        raise ValueError(f"its format is {'.'.join(map(str, start[6:])) or 'missing'} (expected 1.0, 2.0 or 3.0)")
    length = int.from_bytes(file.read(_LENGTHS[start[6:]]), "little")
    if length > HEADER_LIMIT:
        raise ValueError(f"its header is too long (got {length} bytes, expected at most {HEADER_LIMIT})")
    fields = _literal(file.read(length))
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header is damaged (expected descr, fortran_order and shape)")
    descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(descr, str) or not _FLOAT.fullmatch(descr):
        raise ValueError(f"it holds {str(descr)[:40]!r} (expected floats: '<f4')")
    if not isinstance(fortran, bool):
        raise ValueError("its header is damaged (fortran_order is neither True nor False)")
    if (
        not isinstance(shape, tuple)
        or len(shape) > DIMENSIONS_LIMIT
        or any(type(n) is not int or not 0 <= n <= LATENTS_LIMIT for n in shape)
    ):
        raise ValueError(
            f"its shape is {str(shape)[:40]} (expected at most {DIMENSIONS_LIMIT} whole numbers that a file can hold)"
        )
    return np.dtype(descr), "F" if fortran else "C", shape


def _literal(text: bytes) -> object:
    """A Python literal, or None where it is none: too deep, too many digits, cut, or code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        try:
            return ast.literal_eval(text.decode("latin-1"))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return None
