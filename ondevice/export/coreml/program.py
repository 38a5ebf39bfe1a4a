"""A MIL program as the protobuf that Core ML reads, op by op, with its weights streamed into a file beside it.

coremltools' builder holds every weight, and its passes cast and copy them all; here each is forgotten once it is in the
file. What is written is what coremltools' own exporter writes (one function, one block, constants as ops, numbers of
ten and more elements in weight.bin), and its loader reads it back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.errors import GraphError
from ondevice.export.coreml.compressed import Compressed
from ondevice.export.coreml.tools import BlobWriter, mil

WEIGHTS = "@model_path/weights/weight.bin"
OPSETS = {17: "CoreML7", 18: "CoreML8"}  # by version of iOS
MAX_RANK = 5
LEAST = 10  # elements of a constant that has its place in the file
_TYPES = {
    "fp16": mil.FLOAT16,
    "fp32": mil.FLOAT32,
    "int32": mil.INT32,
    "int8": mil.INT8,
    "uint8": mil.UINT8,
    "uint6": mil.UINT6,
    "uint4": mil.UINT4,
    "uint32": mil.UINT32,
    "bool": mil.BOOL,
    "string": mil.STRING,
}
_DTYPES = {"float16": "fp16", "float32": "fp32", "int32": "int32", "int8": "int8", "uint8": "uint8", "bool": "bool"}
_DTYPES["uint32"] = "uint32"
_FIELDS = {"fp32": "floats", "int32": "ints", "bool": "bools"}  # of numbers that stand in the program
_FREE = "free space on this disk, or choose another path"


@dataclass(frozen=True, slots=True)
class Var:
    """A value of the program. `dtype` is MIL's word, such as "fp16"."""

    name: str
    shape: tuple[int, ...]
    dtype: str


Given = Var | Sequence[Var] | np.ndarray | np.generic | bool | int | str | Sequence[int] | Sequence[bool]


class WeightFile:
    """weight.bin, written front to back.

    Raises:
        GraphError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._where = f"{path.parents[3].name}/{path.name}"
        try:
            self._writer = BlobWriter(str(path))
        except RuntimeError as error:
            raise self._failed(error) from None

    def add(self, array: np.ndarray, dtype: str) -> int:
        """Where the file has it from now on: of any shape, `dtype` is MIL's word. Elements of less than a byte are one
        per byte in `array`."""
        flat = np.ascontiguousarray(array).reshape(-1)
        write = {
            "fp16": self._writer.write_fp16_data,
            "fp32": self._writer.write_float_data,
            "int8": self._writer.write_int8_data,
            "uint8": self._writer.write_uint8_data,
            "uint6": self._writer.write_uint6_data,
            "uint4": self._writer.write_uint4_data,
        }[dtype]
        try:
            offset: int = write(flat.view(np.uint16) if flat.dtype == np.float16 else flat)
        except RuntimeError as error:
            raise self._failed(error) from None
        return offset

    def _failed(self, error: Exception) -> GraphError:
        return GraphError(f"cannot be written ({error}).", where=self._where, fix=_FREE)


class Program:
    """A program under construction.

    Args:
        names: of values to come; constants and what stands between get others.
    """

    def __init__(self, weights: WeightFile, names: Collection[str] = ()) -> None:
        self.weights = weights
        self._names = dict.fromkeys(names, 0)  # how often another was asked for
        self._inputs: list[mil.NamedValueType] = []
        self._block = mil.Block()
        self._shared: dict[tuple[object, ...], Var] = {}

    def input(self, name: str, shape: Sequence[int], dtype: str) -> Var:
        """One of the function's inputs."""
        var = Var(name, tuple(shape), dtype)
        self._inputs.append(_named(var))
        return var

    def op(self, kind: str, name: str, shape: Sequence[int], dtype: str, /, **inputs: Given) -> Var:
        """An op with one output.

        Args:
            name: of the output, and of the op.
            inputs: by MIL's names: values, or what becomes a constant.

        Raises:
            GraphError: the output has more dimensions than Core ML can hold.
        """
        return self.ops(kind, name, [Var(name, tuple(shape), dtype)], **inputs)[0]

    def ops(self, kind: str, name: str, outputs: Sequence[Var], /, **inputs: Given) -> list[Var]:
        """The same with any number of outputs."""
        for var in outputs:
            if len(var.shape) > MAX_RANK:
                what = f"Core ML holds {MAX_RANK} dimensions (got {list(var.shape)} for {var.name})."
                raise GraphError(what, fix="write another format")
        bound = {parameter: self._argument(given) for parameter, given in inputs.items()}
        self._emit(kind, name, outputs, bound, {})
        return list(outputs)

    def constant(self, value: Given, name: str = "") -> Var:
        """A constant; small ones of the same content are one, unless they have a name.
        Numbers of LEAST and more elements are in the weights' file."""
        if isinstance(value, str):
            array: np.ndarray | str = value
            key: tuple[object, ...] = ("string", value)
            shape: tuple[int, ...] = ()
            dtype = "string"
        else:
            array = _typed(value)
            shape, dtype = array.shape, _DTYPES[array.dtype.name]
            key = (dtype, shape, array.tobytes() if array.size < LEAST or dtype == "int32" else object())
        if not name and key in self._shared:
            return self._shared[key]
        var = Var(name or self.fresh("const"), shape, dtype)
        if isinstance(array, str) or array.size < LEAST or dtype in ("int32", "bool"):
            held = immediate(array)
        else:
            held = self._in_file(array, dtype)
        self._emit("const", var.name, [var], {}, {"val": held})
        if not name:
            self._shared[key] = var
        return var

    def compressed(self, stored: Compressed, name: str, shape: Sequence[int], dtype: str) -> Var:
        """A constant of that shape and type, made of one in few bits."""
        var = Var(name, tuple(shape), dtype)
        held = {
            key: self._in_file(one.array, one.dtype) if one.array.size >= LEAST else immediate(one.array)
            for key, one in stored.parameters.items()
        }
        bindings = {
            key: mil.Argument(arguments=[mil.Argument.Binding(value=value)])
            for key, value in held.items()
            if not stored.attributes
        }
        self._emit(stored.op, name, [var], bindings, held if stored.attributes else {})
        return var

    def _in_file(self, array: np.ndarray, dtype: str) -> mil.Value:
        value = mil.Value(type=value_type(array.shape, dtype))
        value.blobFileValue.fileName, value.blobFileValue.offset = WEIGHTS, self.weights.add(array, dtype)
        return value

    def fresh(self, base: str) -> str:
        """A name that nothing has: `base`, or with a number."""
        name = base
        while name in self._names:
            self._names[base] = number = self._names.get(base, 0) + 1
            name = f"{base}_{number}"
        self._names[name] = 0
        return name

    def finish(self, outputs: Sequence[Var], ios: int) -> mil.Program:
        """The program, for devices from that version of iOS on."""
        self._block.outputs.extend(var.name for var in outputs)
        function = mil.Function(inputs=self._inputs, opset=OPSETS[ios])
        function.block_specializations[OPSETS[ios]].CopyFrom(self._block)
        program = mil.Program(version=1)
        program.functions["main"].CopyFrom(function)
        return program

    def _argument(self, given: Given) -> mil.Argument:
        many = isinstance(given, (list, tuple)) and bool(given) and isinstance(given[0], Var)
        values: Any = given if many else [given]
        names = [value.name if isinstance(value, Var) else self.constant(value).name for value in values]
        return mil.Argument(arguments=[mil.Argument.Binding(name=name) for name in names])

    def _emit(
        self,
        kind: str,
        name: str,
        outputs: Sequence[Var],
        inputs: Mapping[str, mil.Argument],
        attributes: Mapping[str, mil.Value],
    ) -> None:
        op = self._block.operations.add(type=kind, outputs=[_named(var) for var in outputs])
        for parameter, argument in inputs.items():
            op.inputs[parameter].CopyFrom(argument)
        for attribute, value in ({"name": immediate(name)} | dict(attributes)).items():
            op.attributes[attribute].CopyFrom(value)


def value_type(shape: Sequence[int], dtype: str) -> mil.ValueType:
    """A tensor's type; a scalar's has no dimensions."""
    found = mil.ValueType()
    found.tensorType.dataType, found.tensorType.rank = _TYPES[dtype], len(shape)
    for size in shape:
        found.tensorType.dimensions.add().constant.size = size
    return found


def immediate(value: np.ndarray | str) -> mil.Value:
    """A value that stands in the program itself."""
    if isinstance(value, str):
        held = mil.Value(type=value_type((), "string"))
        held.immediateValue.tensor.strings.values.append(value)
        return held
    dtype = _DTYPES[value.dtype.name]
    held = mil.Value(type=value_type(value.shape, dtype))
    tensor = held.immediateValue.tensor
    if dtype in _FIELDS:
        getattr(tensor, _FIELDS[dtype]).values.extend(value.reshape(-1).tolist())
    else:
        tensor.bytes.values = value.tobytes()
    return held


def _named(var: Var) -> mil.NamedValueType:
    return mil.NamedValueType(name=var.name, type=value_type(var.shape, var.dtype))


def _typed(value: Any) -> np.ndarray:
    """A constant as an array of a type that MIL has: whole numbers as int32."""
    array = np.asarray(value)
    if array.dtype.kind == "i" and array.dtype != np.int8:
        array = array.astype(np.int32)
    assert array.dtype.name in _DTYPES, f"MIL has no {array.dtype}"
    return array
