"""Read a .safetensors file without trusting it:
every offset, size, name and dtype is checked before a tensor is offered.

Layout: 8 bytes little-endian header size N; N bytes of JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}};
the data, with offsets counted from its start. The format's own rules are kept: no holes, no overlaps, no duplicate
keys, nothing after the last tensor.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ondevice.converters.component import lazy
from ondevice.converters.read.json_text import parse_object
from ondevice.converters.read.signatures import HEAD, foreign
from ondevice.errors import CheckpointError
from ondevice.graph.origin import InFile, with_origin

# The largest honest header is under 1 MB, or a few with a picture in its metadata. The reference implementation's
# bound, 100 MB, lets a hostile header of empty lists fill gigabytes once parsed.
HEADER_LIMIT = 16 << 20
TENSOR_LIMIT = 1_000_000
AGAIN = "download the file again"

DTYPES: dict[str, tuple[ir.DataType, np.dtype]] = {
    "F64": (ir.DataType.DOUBLE, np.dtype("<f8")),
    "F32": (ir.DataType.FLOAT, np.dtype("<f4")),
    "F16": (ir.DataType.FLOAT16, np.dtype("<f2")),
    "BF16": (ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
    "F8_E4M3": (ir.DataType.FLOAT8E4M3FN, np.dtype(ml_dtypes.float8_e4m3fn)),
    "F8_E5M2": (ir.DataType.FLOAT8E5M2, np.dtype(ml_dtypes.float8_e5m2)),
    "I64": (ir.DataType.INT64, np.dtype("<i8")),
    "I32": (ir.DataType.INT32, np.dtype("<i4")),
    "I16": (ir.DataType.INT16, np.dtype("<i2")),
    "I8": (ir.DataType.INT8, np.dtype("i1")),
    "U64": (ir.DataType.UINT64, np.dtype("<u8")),
    "U32": (ir.DataType.UINT32, np.dtype("<u4")),
    "U16": (ir.DataType.UINT16, np.dtype("<u2")),
    "U8": (ir.DataType.UINT8, np.dtype("u1")),
    "BOOL": (ir.DataType.BOOL, np.dtype("?")),
}


class FileSlice:
    """Reads parts of one file later, if it is still the file that was checked.

    Reads instead of mapping: mapped pages count as the process's memory until the system takes them back (a converter
    would seem to hold the whole checkpoint), and a mapped file that shrinks kills the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stamp = self._state(os.stat(path))
        except OSError as error:
            raise CheckpointError(
                f"cannot read the file ({error.strerror}).", where=str(path), fix="check the path"
            ) from None
        self.size = self._stamp[0]
        if self.size < 1024 and self.read(0, self.size).startswith(b"version https://git-lfs"):
            raise CheckpointError(
                "this is a git-lfs pointer, not the file itself.",
                where=str(path),
                fix="run `git lfs pull` in its folder",
            )

    @staticmethod
    def _state(stat: os.stat_result) -> tuple[int, int, int]:
        return stat.st_size, stat.st_mtime_ns, stat.st_ino

    def read(self, offset: int, length: int) -> bytearray:
        """`length` bytes from `offset`, in fresh memory. Raises CheckpointError."""
        data = bytearray(length)
        try:
            with open(self.path, "rb", buffering=0) as file:
                changed = self._state(os.fstat(file.fileno())) != self._stamp
                file.seek(offset)
                view, done = memoryview(data), 0
                while done < length and (count := file.readinto(view[done:])):  # one call reads at most 2 GiB
                    done += count
        except OSError as error:
            raise CheckpointError(
                f"cannot read the file ({error.strerror}).", where=str(self.path), fix="check the disk"
            ) from None
        if changed or done < length:
            raise CheckpointError(
                "the file changed while it was being read.",
                where=str(self.path),
                fix="run again when nothing writes to it",
            )
        return data


def read_with_metadata(path: Path) -> tuple[dict[str, ir.LazyTensor], dict[str, Any]]:
    """({name: lazy tensor} of a file, in the order of its header; the header's __metadata__, whose
    values may be anything).

    Raises CheckpointError naming the file and the tensor.
    """
    file = FileSlice(path)
    where = str(path)
    if file.size < 8:
        raise CheckpointError(
            f"the file is too short for a safetensors header (got {file.size} bytes).", where=where, fix=AGAIN
        )
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > HEADER_LIMIT:
        if kind := foreign(bytes(file.read(0, min(HEAD, file.size)))):
            raise CheckpointError(f"this is {kind.what}.", where=where, fix=kind.fix)
        raise CheckpointError(
            f"the header is too large (got {length:,} bytes, expected at most {HEADER_LIMIT:,}).",
            where=where,
            fix=AGAIN,
        )
    if length > file.size - 8:
        raise CheckpointError(
            f"the file ends inside its header (got {file.size:,} bytes, expected {length + 8:,} or more).",
            where=where,
            fix=AGAIN,
        )
    header = parse_object(bytes(file.read(8, length)), f"{where} header", AGAIN)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError("the header's __metadata__ is no object.", where=where, fix=AGAIN)
    if len(header) > TENSOR_LIMIT:
        raise CheckpointError(
            f"too many tensors (got {len(header):,}, expected at most {TENSOR_LIMIT:,}).", where=where, fix=AGAIN
        )
    start, end = 8 + length, file.size - 8 - length
    entries = {name: _entry(name, value, end, where) for name, value in header.items()}
    _no_gap_no_overlap(entries, end, where)
    return {
        name: _tensor(file, name, dtype, shape, start + begin) for name, (dtype, shape, begin, _) in entries.items()
    }, metadata


_Entry = tuple[str, tuple[int, ...], int, int]  # dtype, shape, begin, end


def _entry(name: str, value: Any, size: int, where: str) -> _Entry:
    """One header entry, checked on its own."""
    where = f"{where} tensor {name[:200]}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError("the header entry is not {dtype, shape, data_offsets}.", where=where, fix=AGAIN)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"the dtype is not one we read (got {str(dtype)[:40]!r}, expected one of {', '.join(DTYPES)}).",
            where=where,
            fix="use another file",
        )
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(x) is int and 0 <= x < 1 << 48 for x in shape):
        raise CheckpointError("the shape is not a list of at most 8 whole numbers.", where=where, fix=AGAIN)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(x) is int for x in offsets):
        raise CheckpointError("data_offsets is not a pair of whole numbers.", where=where, fix=AGAIN)
    begin, end = offsets
    if not 0 <= begin <= end <= size:
        raise CheckpointError(
            f"the data lies outside the file (got bytes {begin:,} to {end:,} of {size:,}).",
            where=where,
            fix=f"{AGAIN}; it may be cut short",
        )
    expected = math.prod(shape) * DTYPES[dtype][1].itemsize
    if expected != end - begin:
        raise CheckpointError(
            f"the data does not fit {dtype} {shape} (got {end - begin:,} bytes, expected {expected:,}).",
            where=where,
            fix=AGAIN,
        )
    return dtype, tuple(shape), begin, end


def _no_gap_no_overlap(entries: dict[str, _Entry], size: int, where: str) -> None:
    """The tensors must cover the data exactly. Raises CheckpointError naming the first pair that does not meet."""
    at, before = 0, "the start"
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin < at:
            raise CheckpointError(
                f"the tensors {before} and {name[:200]} overlap (byte {begin:,} is in both).", where=where, fix=AGAIN
            )
        if begin > at:
            raise CheckpointError(
                f"{begin - at:,} bytes before the tensor {name[:200]} belong to no tensor.", where=where, fix=AGAIN
            )
        at, before = end, name[:200]
    if at != size:
        raise CheckpointError(f"{size - at:,} bytes after the last tensor belong to no tensor.", where=where, fix=AGAIN)


def _tensor(file: FileSlice, name: str, dtype: str, shape: tuple[int, ...], offset: int) -> ir.LazyTensor:
    kind, numpy_dtype = DTYPES[dtype]
    length = math.prod(shape) * numpy_dtype.itemsize
    tensor = lazy(lambda: np.frombuffer(file.read(offset, length), numpy_dtype).reshape(shape), kind, shape, name)
    return with_origin(tensor, InFile(file.path, offset, length, name, kind, shape))
