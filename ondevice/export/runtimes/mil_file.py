"""Reading a saved Core ML package (.mlpackage) of an ML program: its operations, and weights mapped from the file.

Nothing in it is trusted: names stay inside the package, offsets inside the file, and what a value takes is known before
it is read. Reference: coremltools' MIL.proto, and its blob storage (a file header, then per weight 64 bytes of
metadata, and the data where they say).
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.errors import BundleError, GraphError, UsageError

MAX_MANIFEST, MAX_PROGRAM = 1 << 20, 1 << 26  # bytes; weights are in another file
MAX_ELEMENTS = 1 << 31  # of a value
MAX_RANK = 8
MAIN = "main"
_DAMAGED = "write the package again"

# MIL.proto's DataType: our name, what NumPy holds it as, bits, the code that the blob's metadata have
_TYPES: dict[int, tuple[str, type[np.generic], int, int]] = {
    1: ("bool", np.bool_, 8, 0),
    2: ("string", np.str_, 32, 0),
    10: ("float16", np.float16, 16, 1),
    11: ("float32", np.float32, 32, 2),
    21: ("int8", np.int8, 8, 4),
    22: ("int16", np.int16, 16, 6),
    23: ("int32", np.int32, 32, 14),
    24: ("int64", np.int64, 64, 0),
    25: ("int4", np.int8, 4, 8),
    31: ("uint8", np.uint8, 8, 3),
    32: ("uint16", np.uint16, 16, 7),
    33: ("uint32", np.uint32, 32, 15),
    35: ("uint4", np.uint8, 4, 11),
    36: ("uint2", np.uint8, 2, 10),
    37: ("uint1", np.uint8, 1, 9),
    38: ("uint6", np.uint8, 6, 13),
    39: ("uint3", np.uint8, 3, 12),
}
_BY_NAME = {name: (held, bits, blob) for name, held, bits, blob in _TYPES.values()}
_FIELDS = ("floats", "ints", "bools", "longInts", "strings")  # of TensorValue, beside `bytes`


@dataclass(frozen=True, slots=True)
class Type:
    """Of a value: `dtype` by NumPy's names, and int4, uint1 ... uint6, which a byte per element holds here."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def held(self) -> type[np.generic]:
        return _BY_NAME[self.dtype][0]

    @property
    def bits(self) -> int:
        return _BY_NAME[self.dtype][1]

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant: `stored` as the file has it, bytes of packed elements where they are smaller than one."""

    type: Type
    stored: np.ndarray

    def array(self) -> np.ndarray:
        """[shape], as `Type.held`."""
        return unpacked(self.stored, self.type).reshape(self.type.shape)


@dataclass(frozen=True, slots=True)
class Operation:
    """`inputs`: by parameter, names of values or constants; several where the parameter takes a list."""

    kind: str
    inputs: Mapping[str, tuple[str | Weight, ...]]
    outputs: tuple[tuple[str, Type], ...]


@dataclass(frozen=True, slots=True)
class Program:
    """Its main function. Constants are among `operations`, as kind "const" with the input `val`."""

    inputs: Mapping[str, Type]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    types: Mapping[str, Type] = field(default_factory=dict)


def unpacked(stored: np.ndarray, type: Type) -> np.ndarray:
    """[elements] of what a file stores: elements of less than a byte are packed, lowest bits first, without gaps."""
    if type.bits >= 8:
        return stored
    group = 3 if type.bits % 3 == 0 else 1  # bytes in which a whole number of elements is
    count = 8 * group // type.bits
    data = np.zeros(-(-type.elements // count) * group, np.uint8)
    data[: stored.size] = stored
    parts = data.reshape(-1, group)
    words = sum((parts[:, i].astype(np.uint32) << 8 * i for i in range(group)), np.zeros(len(parts), np.uint32))
    elements = np.empty((len(parts), count), np.uint8)
    for i in range(count):
        elements[:, i] = (words >> i * type.bits) & ((1 << type.bits) - 1)
    flat = elements.reshape(-1)[: type.elements]
    return ((flat ^ 8).astype(np.int8) - np.int8(8)) if type.dtype == "int4" else flat


def read_package(package: Path) -> Program:
    """The ML program of a package.

    Raises:
        BundleError: it is damaged.
        GraphError: it is no ML program, or has sizes that are free.
        UsageError: coremltools is not installed.
    """
    root = _contained(package, _model_path(package))
    model_pb2 = _model_proto()
    model = model_pb2.Model()
    from google.protobuf.message import DecodeError

    try:
        model.ParseFromString(_bounded(root, MAX_PROGRAM))
    except DecodeError:
        raise _damaged(root.name, "is no Core ML model") from None
    if model.WhichOneof("Type") != "mlProgram":
        what = f"is no ML program (got {model.WhichOneof('Type')})."
        raise GraphError(what, where=package.name, fix="name a package that `convert --format coreml` wrote")
    functions = model.mlProgram.functions
    if MAIN not in functions:
        raise _damaged(package.name, f"has no function {MAIN}")
    return _Reader(package, root.parent).program(functions[MAIN])


def _model_proto() -> Any:
    quiet = logging.getLogger("coremltools")
    level, quiet.level = quiet.level, logging.CRITICAL  # it warns of parts that only macOS has
    try:
        from coremltools.proto import Model_pb2
    except ImportError:
        what = "Core ML packages are read with coremltools, which is not installed."
        raise UsageError(what, where="--format coreml", fix="pip install 'ondevice[coreml]'") from None
    finally:
        quiet.level = level
    return Model_pb2


def _model_path(package: Path) -> str:
    """Where the package's manifest says that its model is, relative to the package."""
    try:
        manifest = json.loads(_bounded(package / "Manifest.json", MAX_MANIFEST))
        place = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged("Manifest.json", "does not say where the model is") from None
    if not isinstance(place, str):
        raise _damaged("Manifest.json", "does not say where the model is")
    return f"Data/{place}"


def _bounded(path: Path, most: int) -> bytes:
    try:
        if path.stat().st_size > most:
            raise _damaged(path.name, f"is too large (got {path.stat().st_size} bytes, expected at most {most})")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot be read ({error}).", where=str(path), fix=_DAMAGED) from None


def _contained(package: Path, inside: str) -> Path:
    """A file of the package; links out of it are none."""
    try:
        path = (package / inside).resolve()
        if path.is_file() and path.is_relative_to(package.resolve()):
            return path
    except (OSError, ValueError):
        pass
    raise _damaged(package.name, f"names {inside!r}, which is no file in it")


def _damaged(where: str, what: str) -> BundleError:
    return BundleError(f"{what}.", where=where, fix=_DAMAGED)


class _Reader:
    """Of one package; `beside`: the folder that "@model_path" stands for."""

    def __init__(self, package: Path, beside: Path) -> None:
        self._package, self._beside = package, beside
        self._blobs: dict[str, np.ndarray] = {}

    def program(self, function: Any) -> Program:
        if len(function.block_specializations) != 1:
            raise GraphError("has several variants of its program.", where=self._package.name, fix=_DAMAGED)
        (block,) = function.block_specializations.values()
        inputs = {one.name: self._type(one.type, one.name) for one in function.inputs}
        types = dict(inputs)
        operations = tuple(self._operation(one, types) for one in block.operations)
        for name in block.outputs:
            if name not in types:
                raise _damaged(self._package.name, f"gives {name!r}, which nothing computes")
        return Program(inputs, tuple(block.outputs), operations, types)

    def _operation(self, spec: Any, types: dict[str, Type]) -> Operation:
        """An operation, whose results are put into `types`: those of the operations before it are there."""
        if not spec.outputs:
            raise _damaged(f"{self._package.name}, {spec.type}", "gives nothing")
        name = spec.outputs[0].name or f"{self._package.name}, {spec.type}"
        if spec.blocks:
            raise GraphError(f"{spec.type} has a program of its own inside.", where=name, fix="leave it out")
        inputs: dict[str, tuple[str | Weight, ...]] = {}
        for key, argument in spec.inputs.items():
            inputs[key] = tuple(self._binding(one, name, types) for one in argument.arguments)
        for key, value in spec.attributes.items():
            if key != "name":
                inputs[key] = (self._value(value, name),)
        outputs = tuple((one.name, self._type(one.type, one.name or name)) for one in spec.outputs)
        for result, type in outputs:
            if result in types:
                raise _damaged(self._package.name, f"computes {result!r} twice")
            types[result] = type
        return Operation(spec.type, inputs, outputs)

    def _binding(self, spec: Any, where: str, types: Mapping[str, Type]) -> str | Weight:
        if spec.WhichOneof("binding") != "name":
            return self._value(spec.value, where)
        if spec.name not in types:
            raise _damaged(where, f"takes {spec.name!r}, which nothing before it computes")
        return str(spec.name)

    def _type(self, spec: Any, where: str) -> Type:
        where = where.strip() or self._package.name  # a name of blanks alone would name no place
        if spec.WhichOneof("type") != "tensorType" or spec.tensorType.dataType not in _TYPES:
            raise GraphError(
                "is of a type that is not read here.", where=where, fix="write it as a float or an integer"
            )
        tensor = spec.tensorType
        if any(one.WhichOneof("dimension") != "constant" for one in tensor.dimensions):
            raise GraphError("has a size that is free.", where=where, fix="write the package with fixed sizes")
        shape = tuple(int(one.constant.size) for one in tensor.dimensions)
        if len(shape) > MAX_RANK or prod(shape) > MAX_ELEMENTS:
            raise _damaged(where, f"is too large (got {list(shape)}, expected at most {MAX_ELEMENTS} elements)")
        return Type(_TYPES[tensor.dataType][0], shape)

    def _value(self, spec: Any, where: str) -> Weight:
        type = self._type(spec.type, where)
        if spec.WhichOneof("value") == "blobFileValue":
            return Weight(type, self._blob(spec.blobFileValue, type, where))
        tensor = spec.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        if type.dtype == "string":
            texts = list(tensor.strings.values) if kind == "strings" else []
            if len(texts) != 1 or type.shape:
                raise _damaged(where, "is not one text")
            return Weight(type, np.array(texts[0]))
        stored: Iterable[Any]
        if kind == "bytes":
            data = tensor.bytes.values
            if len(data) != -(-type.elements * type.bits // 8):
                raise _damaged(where, f"has {len(data)} bytes (expected {type.elements} elements of {type.bits} bits)")
            return Weight(type, np.frombuffer(data, np.uint8 if type.bits < 8 else type.held))
        stored = getattr(tensor, kind).values if kind in _FIELDS else ()
        values = np.array(list(stored))
        if values.size != type.elements or type.bits < 8 or values.dtype.kind not in "fiub":
            raise _damaged(where, f"has {values.size} values (expected {type.elements})")
        return Weight(type, values.astype(type.held))

    def _blob(self, spec: Any, type: Type, where: str) -> np.ndarray:
        """Elements as they are stored, mapped: nothing is read before it is used."""
        name = spec.fileName.removeprefix("@model_path/")
        if name not in self._blobs:
            path = _contained(self._beside, name)
            if not path.stat().st_size:
                raise _damaged(name, "is empty")
            self._blobs[name] = np.memmap(path, np.uint8, "r")
        data, code = self._blobs[name], _BY_NAME[type.dtype][2]
        if spec.offset + 64 > data.size:
            raise _damaged(where, f"is at {spec.offset} of {name}, which has {data.size} bytes")
        sentinel, kind, size, start, padding = struct.unpack("<IIQQQ", data[spec.offset : spec.offset + 32].tobytes())
        if sentinel != 0xDEADBEEF or kind != code or not code:
            raise _damaged(where, f"has other metadata at {spec.offset} of {name} (got type {kind}, expected {code})")
        if start + size > data.size or size * 8 - padding != type.elements * type.bits or padding >= 8:
            what = f"has {size} bytes at {start} of {name}, which has {data.size} (expected {type.elements} elements)"
            raise _damaged(where, what)
        stored = data[start : start + size]
        return stored if type.bits < 8 else stored.view(type.held)
