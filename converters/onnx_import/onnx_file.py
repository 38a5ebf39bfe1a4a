"""Read an .onnx file without trusting it and without loading its weights, wherever they lie:
inside it or in files beside it.

A tensor of some size inside the file is treated like external data in that same file: the protobuf is walked
field by field, the bytes of large tensors are skipped, and only their places are kept. So a 2 GB file costs what
its graph costs.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ondevice.converters.component import FLOATS, WHOLE, lazy
from ondevice.converters.onnx_import.naming import fit_names
from ondevice.converters.read.safetensors_file import FileSlice
from ondevice.errors import CheckpointError

INLINE = 4096  # bytes of a tensor that stays in the graph: shapes, scales, small biases
# it warns of what is checked here, in words as long as a file's names
logging.getLogger("onnx_ir").setLevel(logging.ERROR)
# bytes without the weights; the largest honest one, a full UNet exported dynamically, is under 8 MB
GRAPH_LIMIT = 256 << 20
AGAIN = "export the model again, or download the file again"

# Field numbers of onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The graph of one file as protobuf bytes, its weights by place.
    `model` makes a fresh graph every time it is asked."""

    path: Path
    graph: bytes = field(repr=False)

    def proto(self) -> onnx.ModelProto:
        """The parsed graph; large tensors are references. Raises CheckpointError."""
        try:
            return onnx.ModelProto.FromString(self.graph)
        except DecodeError:
            raise CheckpointError("it is damaged, or no ONNX file.", where=str(self.path), fix=AGAIN) from None

    def model(self) -> ir.Model:
        """A graph with lazy weights, every place checked against its file.

        Raises:
            CheckpointError: a weight lies outside its file or its folder, or has a type we do not read.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of keys that it does not know, which are left alone
                model = ir.serde.deserialize_model(self.proto())
        except CheckpointError:
            raise
        except Exception as error:  # onnx_ir raises whatever its own code stumbles on; the file is to blame
            reason = str(error.__cause__ or error).splitlines()[0][:200]
            raise CheckpointError(f"its graph cannot be read ({reason}).", where=str(self.path), fix=AGAIN) from None
        named = (value.name for node in model.graph for value in (*node.inputs, *node.outputs) if value is not None)
        words = (
            word for node in model.graph for word in (node.name or "", node.op_type, node.domain, *node.attributes)
        )
        if not all(isinstance(word, str) for word in (*named, *words, *(value.name for value in model.graph.inputs))):
            # protobuf gives bytes then
            raise CheckpointError("a name in it is not UTF-8.", where=str(self.path), fix=AGAIN)
        files: dict[str, FileSlice] = {}
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = self._located(tensor, files)
            else:
                self._check_inside(tensor, str(value.name))
        for node in model.graph.all_nodes():
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    self._check_inside(attribute.value, f"{node.name or node.op_type}.{attribute.name}", strings=True)
        fit_names(model)
        return model

    def _check_inside(self, tensor: ir.TensorProtocol | None, name: str, *, strings: bool = False) -> None:
        """A tensor inside the graph: of a type we read, and with as much data as its shape says.
        onnx_ir takes no data for zeros."""
        try:
            kind = tensor.dtype if tensor is not None else None
        except ValueError:  # a number that stands for no type
            kind = None
        if strings and kind == ir.DataType.STRING:
            return
        if tensor is None or (kind not in FLOATS and kind not in WHOLE):
            raise self._refused(name, f"holds {kind.name if kind else 'nothing'} (expected floats or integers)")
        if not _whole(tensor):
            raise self._refused(name, f"does not hold what its shape {tensor.shape} says")

    def _located(self, tensor: ir.ExternalTensor, files: dict[str, FileSlice]) -> ir.LazyTensor:
        """The tensor, read when it is asked for."""
        name, location = str(tensor.name), str(tensor.location)
        if tensor.dtype not in FLOATS and tensor.dtype not in WHOLE:
            raise self._refused(name, f"holds {tensor.dtype.name} (expected floats or integers)")
        if location not in files:
            files[location] = FileSlice(self._beside(location, name))
        file, kind = files[location], tensor.dtype.numpy()
        shape = tuple(tensor.shape.numpy())
        if any(size < 0 for size in shape) or math.prod(shape) >= 1 << 48:
            raise self._refused(name, f"has the shape {list(shape)}")
        offset, length = tensor.offset or 0, math.prod(shape) * kind.itemsize
        if tensor.length is not None and tensor.length != length:
            raise self._refused(
                name, f"has {tensor.length:,} bytes where {tensor.dtype.name}{list(shape)} has {length:,}"
            )
        if offset < 0 or offset + length > file.size:
            raise self._refused(
                name,
                f"lies outside its file (got bytes {offset:,} to {offset + length:,} of the "
                f"{file.size:,} of {file.path.name})",
            )
        return lazy(lambda: np.frombuffer(file.read(offset, length), kind).reshape(shape), tensor.dtype, shape, name)

    def _beside(self, location: str, name: str) -> Path:
        """The file of external data, which must be in the .onnx file's folder;
        in a hub's cache both are links into another one."""
        parts = PurePosixPath(location).parts
        if (
            not parts
            or location.startswith("/")
            or ".." in parts
            or "\\" in location
            or ":" in location
            or "\0" in location
        ):
            raise self._refused(name, f"is said to lie outside the folder (in {location[:200]!r})")
        path, folder = self.path.parent / location, self.path.parent.resolve()
        try:
            real, found = path.resolve(), path.is_file()
        except (OSError, RuntimeError):  # a name that is too long for the system, links in a circle
            real, found = folder, False
        if not real.is_relative_to(folder) and real.parent != self.path.resolve().parent:
            raise self._refused(name, f"is said to lie outside the folder (in {location[:200]!r}, a link)")
        if not found:
            raise CheckpointError(
                f"the file {location[:120]} with the weights is missing.",
                where=str(self.path),
                fix="keep both files in one folder",
            )
        return path

    def _refused(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"the tensor {name[:200]} {what}.", where=str(self.path), fix=AGAIN)


def _whole(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor inside the graph has as much data as its shape says."""
    try:
        proto, count = tensor.raw, math.prod(tensor.shape.numpy())
        if not proto.HasField("raw_data"):
            lists = (proto.float_data, proto.double_data, proto.int32_data, proto.int64_data, proto.uint64_data)
            if min(proto.dims, default=0) < 0 or sum(map(len, lists)) != count:
                return False
        return tensor.numpy().size == count
    except Exception:  # as above; onnx_ir asserts, too
        return False


def read_onnx(path: Path) -> OnnxFile:
    """Walk the file at `path` and keep its graph. Raises CheckpointError."""
    size = FileSlice(path).size
    try:
        with open(path, "rb") as file:
            graph = _skeleton(file, size, path)
    except OSError as error:
        raise CheckpointError(
            f"cannot read the file ({error.strerror}).", where=str(path), fix="check its permissions"
        ) from None
    except _Damaged as error:
        raise CheckpointError(f"it is damaged, or no ONNX file ({error}).", where=str(path), fix=AGAIN) from None
    found = OnnxFile(path, graph)
    found.proto()
    return found


class _Damaged(Exception):
    """The bytes are no protobuf message."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message: its number, its kind on the wire, where it begins (its tag),
    and where its content lies."""

    number: int
    wire: int
    begin: int
    at: int
    end: int


def _fields(file: BinaryIO, at: int, end: int) -> Iterator[_Field]:
    """The fields between two places of a file, content unread. Raises _Damaged."""
    while at < end:
        begin = at
        tag, at = _varint(file, at)
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire not in (_BYTES, _VARINT, _FIXED32, _FIXED64):
            raise _Damaged(f"byte {begin:,} begins no field")
        if wire == _BYTES:
            length, at = _varint(file, at)
            stop = at + length
        elif wire == _VARINT:
            _, stop = _varint(file, at)
        else:
            stop = at + (4 if wire == _FIXED32 else 8)
        if stop > end:
            raise _Damaged(f"the field at byte {begin:,} ends after its message")
        yield _Field(number, wire, begin, at, stop)
        at = stop


def _varint(file: BinaryIO, at: int) -> tuple[int, int]:
    """(value, place after it)."""
    file.seek(at)
    value = 0
    for count, byte in enumerate(file.read(10)):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    raise _Damaged(f"the number at byte {at:,} has no end")


def _skeleton(file: BinaryIO, size: int, path: Path) -> bytes:
    """The message without the bytes of its large tensors."""
    room = GRAPH_LIMIT

    def copy(part: _Field) -> bytes:
        nonlocal room
        room -= part.end - part.begin
        if room < 0:
            raise CheckpointError(
                f"it holds more than {GRAPH_LIMIT >> 20} MB beside its weights.",
                where=str(path),
                fix="export with external data",
            )
        file.seek(part.begin)
        return file.read(part.end - part.begin)

    def tensor(part: _Field) -> bytes:
        if part.wire != _BYTES or part.end - part.at <= INLINE:
            return copy(part)
        rest, raw = b"", None
        for inner in _fields(file, part.at, part.end):
            if inner.number == _RAW_DATA and inner.wire == _BYTES:
                raw = inner
            else:
                rest += copy(inner)
        if raw is None:
            return _message(_INITIALIZER, rest)
        place = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", path.name), ("offset", raw.at), ("length", raw.end - raw.at)):
            place.external_data.add(key=key, value=str(value))
        return _message(_INITIALIZER, rest + place.SerializeToString())

    def graph(part: _Field) -> bytes:
        return _message(_GRAPH, _walk(file, part.at, part.end, {_INITIALIZER: tensor}, copy))

    return _walk(file, 0, size, {_GRAPH: graph}, copy)


def _walk(
    file: BinaryIO, at: int, end: int, special: dict[int, Callable[[_Field], bytes]], copy: Callable[[_Field], bytes]
) -> bytes:
    parts = [
        special.get(part.number, copy)(part) if part.wire == _BYTES else copy(part) for part in _fields(file, at, end)
    ]
    return b"".join(parts)


def _message(number: int, content: bytes) -> bytes:
    """A field that holds a message."""
    length, head = len(content), bytearray()
    for value in (number << 3 | _BYTES, length):
        while value >= 0x80:
            head.append(value & 0x7F | 0x80)
            value >>= 7
        head.append(value)
    return bytes(head) + content
