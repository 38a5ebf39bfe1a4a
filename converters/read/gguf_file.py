"""Read a .gguf file without trusting it: every count, length, offset and name is checked before a tensor is offered.

Layout, little-endian: "GGUF", version (2 or 3), numbers of tensors and of metadata; metadata as key, type, value; of
each tensor its name, sizes (the innermost first), type and offset; then, aligned, the data. Blocks of few bits are
widened to float32 by the package `gguf` (the format's own), tensor by tensor as they are read.

Reference: docs/gguf.md of ggml; what stable-diffusion.cpp and ComfyUI-GGUF write.
"""

from __future__ import annotations

import importlib.util
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ondevice.converters.component import lazy
from ondevice.converters.read.ckpt_file import Ckpt
from ondevice.converters.read.safetensors_file import AGAIN, DTYPES, HEADER_LIMIT, TENSOR_LIMIT, FileSlice
from ondevice.errors import CheckpointError

MAGIC = b"GGUF"
_WINDOW = 1 << 18  # bytes of the header that are read at once
_NAME_LIMIT = 512  # bytes of a tensor's name
_MOST_DIMS = 4
_MOST_ROW = 1 << 48
_OTHER = "use a file of another quantization, such as q8_0, q4_0 or f16"
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""What ComfyUI-GGUF's converter calls the shape of a tensor that it wrote as rows of 256."""


class _Plain(NamedTuple):
    """A type whose elements NumPy has; `dtype` as safetensors calls it."""

    dtype: str


class _Blocks(NamedTuple):
    """A type of few bits: `size` elements of a row are `length` bytes."""

    name: str
    size: int
    length: int


_TYPES: dict[int, _Plain | _Blocks] = {
    0: _Plain("F32"),
    1: _Plain("F16"),
    2: _Blocks("Q4_0", 32, 18),
    3: _Blocks("Q4_1", 32, 20),
    6: _Blocks("Q5_0", 32, 22),
    7: _Blocks("Q5_1", 32, 24),
    8: _Blocks("Q8_0", 32, 34),
    10: _Blocks("Q2_K", 256, 84),
    11: _Blocks("Q3_K", 256, 110),
    12: _Blocks("Q4_K", 256, 144),
    13: _Blocks("Q5_K", 256, 176),
    14: _Blocks("Q6_K", 256, 210),
    20: _Blocks("IQ4_NL", 32, 18),
    23: _Blocks("IQ4_XS", 256, 136),
    24: _Plain("I8"),
    25: _Plain("I16"),
    26: _Plain("I32"),
    27: _Plain("I64"),
    28: _Plain("F64"),
    30: _Plain("BF16"),
}
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_WHOLE_NUMBERS = frozenset({0, 1, 2, 3, 4, 5, 10, 11})


class _Header:
    """Reads values one after another, at most HEADER_LIMIT bytes of them."""

    def __init__(self, file: FileSlice) -> None:
        self.file, self.where, self.at = file, str(file.path), 0
        self._window, self._first = b"", 0

    def take(self, length: int) -> bytes:
        """The next `length` bytes. Raises CheckpointError where the file or the bound ends before."""
        self.skip(length)
        begin = self.at - length
        if not self._first <= begin or self.at > self._first + len(self._window):
            most = min(max(length, _WINDOW), self.file.size - begin)
            self._window, self._first = bytes(self.file.read(begin, most)), begin
        return self._window[begin - self._first : self.at - self._first]

    def skip(self, length: int) -> None:
        """Leave `length` bytes out. Raises as `take` does."""
        if self.at + length > self.file.size:
            raise CheckpointError("the header ends before all it announces.", where=self.where, fix=_cut())
        if self.at + length > HEADER_LIMIT:
            raise CheckpointError(
                f"the header is over {HEADER_LIMIT >> 20} MB.",
                where=self.where,
                fix="use an image model's file",
            )
        self.at += length

    def number(self, form: str) -> Any:
        """The next number of a `struct` format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, limit: int, what: str) -> str:
        """The next string of at most `limit` bytes."""
        length = self.number("<Q")
        if length > limit:
            raise CheckpointError(
                f"{what} is {length:,} bytes long (expected at most {limit}).", where=self.where, fix=AGAIN
            )
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{what} is not UTF-8.", where=self.where, fix=AGAIN) from None

    def value(self, kind: int) -> Any:
        """The next value of metadata: a number, or a list of at most 8 whole numbers; None for what is left out."""
        if kind in _FORMATS:
            return self.number(_FORMATS[kind])
        if kind == _STRING:
            self.skip(self.number("<Q"))
            return None
        if kind != _ARRAY:
            raise CheckpointError(f"metadata of the type {kind} is unknown.", where=self.where, fix=AGAIN)
        inner, count = self.number("<I"), self.number("<Q")
        if inner in _FORMATS:
            if inner in _WHOLE_NUMBERS and count <= 8:
                return [self.number(_FORMATS[inner]) for _ in range(count)]
            self.skip(count * struct.calcsize(_FORMATS[inner]))
            return None
        if inner != _STRING:
            raise CheckpointError(f"an array of the type {inner} is unknown.", where=self.where, fix=AGAIN)
        # each has eight bytes of length, so that the file's own size bounds how many are walked
        for _ in range(count):
            self.skip(self.number("<Q"))
        return None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor as the header has it, checked on its own; `rows` are of the innermost size."""

    shape: tuple[int, ...]
    kind: _Plain | _Blocks
    row: int
    length: int
    offset: int


def read_gguf(path: Path) -> Ckpt:
    """The named tensors of a file, lazy, under the names that the rest of the readers know.

    Quantized ones are float32. Raises CheckpointError for a file that is damaged, hostile, of another version or byte
    order, or holds a type that is not read.
    """
    file = FileSlice(path)
    header = _Header(file)
    where = header.where
    header.take(len(MAGIC))
    version, count, pairs = header.number("<I"), header.number("<Q"), header.number("<Q")
    if version not in (2, 3):
        what = f"this is GGUF of version {version:,} (expected 2 or 3)"
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3)
        raise CheckpointError(
            f"{what}{', in the other byte order' if swapped else ''}.", where=where, fix="convert the model again"
        )
    if count > TENSOR_LIMIT or pairs > TENSOR_LIMIT:
        what = f"it announces {count:,} tensors and {pairs:,} values (expected at most {TENSOR_LIMIT:,})."
        raise CheckpointError(what, where=where, fix=AGAIN)
    metadata = {}
    for _ in range(pairs):
        key = header.text(HEADER_LIMIT, "a key")
        value = header.value(header.number("<I"))
        if key == "general.alignment" or key.startswith(_ORIGINAL_SHAPE):
            metadata[key] = value
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment > 1 << 16 or alignment & (alignment - 1):
        raise CheckpointError(f"the alignment is {alignment!r}.", where=where, fix=AGAIN)
    entries: dict[str, _Entry] = {}
    for _ in range(count):
        name = header.text(_NAME_LIMIT, "the name of a tensor")
        if name in entries:
            raise CheckpointError(f"the tensor {name[:200]} is there twice.", where=where, fix=AGAIN)
        entries[name] = _entry(header, name, alignment)
    if few := [entry.kind.name for entry in entries.values() if isinstance(entry.kind, _Blocks)]:
        _widening_is_there(few[0], where)
    start = -(-header.at // alignment) * alignment
    _apart_and_inside(entries, file.size - start, where)
    tensors = {
        name: _tensor(file, name, entry, _shape(name, entry, metadata, where), start) for name, entry in entries.items()
    }
    return Ckpt(_known_names(tensors))


def _cut() -> str:
    return f"{AGAIN}; it may be cut short"


def _entry(header: _Header, name: str, alignment: int) -> _Entry:
    where = f"{header.where} tensor {name[:200]}"
    dims = header.number("<I")
    if dims > _MOST_DIMS:
        raise CheckpointError(f"it has {dims:,} dimensions (expected at most {_MOST_DIMS}).", where=where, fix=AGAIN)
    sizes = [header.number("<Q") for _ in range(dims)]
    number, offset = header.number("<I"), header.number("<Q")
    kind = _TYPES.get(number)
    if kind is None:
        raise CheckpointError(f"its type, GGML's number {number}, is not read.", where=where, fix=_OTHER)
    row = sizes[0] if sizes else 1
    if not all(0 <= size < _MOST_ROW for size in sizes) or math.prod(sizes) >= _MOST_ROW:
        raise CheckpointError(f"its sizes are {sizes}.", where=where, fix=AGAIN)
    if isinstance(kind, _Blocks):
        if row % kind.size:
            what = f"its rows of {row} are no whole blocks of {kind.name} ({kind.size} each)."
            raise CheckpointError(what, where=where, fix=AGAIN)
        length = math.prod(sizes) // kind.size * kind.length
    else:
        length = math.prod(sizes) * DTYPES[kind.dtype][1].itemsize
    if offset % alignment:
        raise CheckpointError(f"its offset {offset:,} is no multiple of {alignment}.", where=where, fix=AGAIN)
    return _Entry(tuple(reversed(sizes)), kind, row, length, offset)


def _apart_and_inside(entries: Mapping[str, _Entry], size: int, where: str) -> None:
    """Raise CheckpointError where a tensor's data lies outside the file's or over another's."""
    end, before = 0, ""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].length)):
        if entry.offset < end:
            what = f"the tensors {before[:200]} and {name[:200]} overlap."
            raise CheckpointError(what, where=where, fix=AGAIN)
        end, before = entry.offset + entry.length, name
        if end > size:
            what = f"the data of {name[:200]} lies outside the file (it ends at byte {end:,} of {max(size, 0):,})."
            raise CheckpointError(what, where=where, fix=_cut())


def _shape(name: str, entry: _Entry, metadata: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """The tensor's shape, or the one that it had before it was written as rows of blocks."""
    if (said := metadata.get(_ORIGINAL_SHAPE + name)) is None:
        return entry.shape
    if not isinstance(said, list) or min(said, default=0) < 0 or math.prod(said) != math.prod(entry.shape):
        what = f"{_ORIGINAL_SHAPE}... is {said}, and it has {math.prod(entry.shape):,} elements."
        raise CheckpointError(what, where=f"{where} tensor {name[:200]}", fix=AGAIN)
    return tuple(said)


def _tensor(file: FileSlice, name: str, entry: _Entry, shape: tuple[int, ...], start: int) -> ir.LazyTensor:
    kind, offset = entry.kind, start + entry.offset
    if isinstance(kind, _Plain):
        dtype, form = DTYPES[kind.dtype]
        return lazy(lambda: np.frombuffer(file.read(offset, entry.length), form).reshape(shape), dtype, shape, name)
    return lazy(lambda: _widened(file, entry, kind.name, offset).reshape(shape), ir.DataType.FLOAT, shape, name)


def _widening_is_there(kind: str, where: str) -> None:
    """Raise CheckpointError where the package that widens blocks is not installed."""
    if importlib.util.find_spec("gguf") is None:
        what = f"reading {kind} needs the package gguf."
        raise CheckpointError(what, where=where, fix="pip install 'ondevice[gguf]', or use an f16 file")


def _widened(file: FileSlice, entry: _Entry, kind: str, offset: int) -> np.ndarray:
    """float32 [rows, row]: what the blocks of a tensor stand for."""
    from gguf import GGMLQuantizationType, dequantize  # slow to import, and of no use to other files

    rows = math.prod(entry.shape) // entry.row if entry.row else 0
    if not rows:
        return np.zeros((0, entry.row), np.float32)
    blocks = np.frombuffer(file.read(offset, entry.length), np.uint8).reshape(rows, -1)
    with np.errstate(all="ignore"):  # what is not finite is refused where it is written
        return np.ascontiguousarray(dequantize(blocks, GGMLQuantizationType[kind]), np.float32)


_PROJECTION = "text_encoder_2.text_model.text_projection"


def _known_names(tensors: Mapping[str, ir.LazyTensor]) -> dict[str, ir.LazyTensor]:
    """The tensors of a whole checkpoint of stable-diffusion.cpp, which calls text encoders' weights as transformers
    does, under the prefixes of one folder's parts; those of other files as they are."""
    renamed = {}
    for name, tensor in tensors.items():
        to = re.sub(r"^cond_stage_model\.1\.transformer\.", "text_encoder_2.", name)
        to = re.sub(r"^cond_stage_model\.transformer\.", "text_encoder.", to)
        if to == _PROJECTION:  # as OpenCLIP holds it
            to, tensor = "text_encoder_2.text_projection.weight", _transposed(tensor)
        renamed[to] = tensor
    return renamed if len(renamed) == len(tensors) else dict(tensors)


def _transposed(tensor: ir.LazyTensor) -> ir.LazyTensor:
    shape = tuple(reversed(tensor.shape.numpy()))
    return lazy(lambda: np.ascontiguousarray(tensor.numpy().T), tensor.dtype, shape, str(tensor.name))
