"""A .tflite file: LiteRT's schema (version 3) by its own object API, weights after the flatbuffer.

A flatbuffer ends at 2 GB. Weights therefore follow it, each found by its buffer's `offset` and `size` from the file's
start, in as large a file as they take; what is small stays inside. They are written one at a time, before the
flatbuffer, whose size does not depend on what they are: memory holds one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers.builder import BuilderSizeError

from ondevice.errors import GraphError

Read = Callable[[], "np.ndarray | tuple[np.ndarray, np.ndarray]"]
IDENTIFIER, VERSION, SIGNATURE = b"TFL3", 3, "serving_default"
FORCED = 16  # bytes: the schema's alignment of what is inside
ALIGN = 16  # bytes: of weights behind the flatbuffer, which runtimes read where the file is mapped
INLINE = 1024  # bytes up to which a constant stays in the flatbuffer
LARGEST = 2**31 - 1  # of a dimension, int32 in the schema
_PLACE = 1 << 40  # stands for an offset that is not known yet: any but 0, the default, which takes no room
_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "int8": schema.TensorType.INT8,
    "bool": schema.TensorType.BOOL,
}


@dataclass(frozen=True, slots=True)
class _Weight:
    """A constant that follows the flatbuffer, and the tensor and buffer that it is of."""

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Read
    tensor: Any
    buffer: Any


class _Inside(schema.BufferT):  # type: ignore[misc]
    """A buffer inside the flatbuffer, aligned as the schema has it; the generated code leaves that out."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        builder.StartVector(1, len(self.data), FORCED)
        builder.head -= len(self.data)
        builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


class Graph:
    """A subgraph that is put together: tensors by their numbers in it, and ops in the order in which they run.

    Attributes:
        index: its number in the file, which composites name.
    """

    def __init__(self, model: Model, name: str, index: int) -> None:
        self.model, self.name, self.index = model, name, index
        self.content = schema.SubGraphT(name=name, tensors=[], operators=[], inputs=[], outputs=[])
        self._names: dict[str, int] = {}  # how often each was asked for
        self._constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def tensor(
        self, name: str, shape: Sequence[int], dtype: str, data: Read | None = None, axis: int | None = None
    ) -> int:
        """A new tensor's number.

        Args:
            name: what it is called, with a number behind it where another tensor of this subgraph has the name already.
            dtype: NumPy's name.
            data: of a weight: gives its values, of this shape and dtype, each time that the file is written.
            axis: of an int8 weight: `data` gives the values and float32 scales, one per index of this axis, as a pair;
                the numbers mean values * scales.

        Raises:
            GraphError: the schema cannot hold a size.
        """
        shape, name = tuple(int(size) for size in shape), self._unique(name)
        where = f"{self.model.name}: tensor {name}"
        if shape and max(shape) > LARGEST:
            what = f"its shape is {list(shape)} (expected sizes up to {LARGEST} in a TFLite file)."
            raise GraphError(what, where=where, fix="write it at a smaller size, or in another format")
        tensor = schema.TensorT(shape=list(shape), type=_TYPES[dtype], name=name, hasRank=True)
        if axis is not None:
            count = shape[axis]
            zeros, ones = np.zeros(count, np.int64), np.ones(count, np.float32)
            tensor.quantization = schema.QuantizationParametersT(scale=ones, zeroPoint=zeros, quantizedDimension=axis)
        if data is not None:
            tensor.buffer = self.model.add_weight(where, shape, np.dtype(dtype), data, tensor)
        self.content.tensors.append(tensor)
        return len(self.content.tensors) - 1

    def constant(self, array: np.ndarray) -> int:
        """The number of a tensor that holds `array`; the same one for equal arrays, and in other subgraphs their
        bytes."""
        data = np.ascontiguousarray(array).tobytes()
        key = (array.dtype.name, array.shape, data)
        if key not in self._constants:
            kept = np.frombuffer(data, array.dtype).reshape(array.shape)
            inside = len(data) <= INLINE
            number = self.tensor("constant", array.shape, array.dtype.name, None if inside else lambda: kept)
            if inside:
                self.content.tensors[number].buffer = self.model.inside(data)
            self._constants[key] = number
        return self._constants[key]

    def op(
        self, code: int, inputs: Sequence[int], outputs: Sequence[int], options: Any = None, version: int = 1
    ) -> None:
        """One op more.

        Args:
            code: of schema.BuiltinOperator.
            inputs: tensors' numbers; -1 for one that is left out.
            options: the schema's object for the op, such as `schema.Conv2DOptionsT(...)`; None where it has none.
            version: the op's, where what it computes needs a later one than the first.
        """
        op = schema.OperatorT(inputs=list(inputs), outputs=list(outputs))
        op.opcodeIndex = self.model.opcode(code, version)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            if hasattr(schema.BuiltinOptions, kind):
                op.builtinOptions, op.builtinOptionsType = options, getattr(schema.BuiltinOptions, kind)
            else:
                op.builtinOptions2, op.builtinOptions2Type = options, getattr(schema.BuiltinOptions2, kind)
        self.content.operators.append(op)

    def rename(self, number: int, name: str) -> None:
        """Call a tensor so, as `tensor` names it."""
        self.content.tensors[number].name = self._unique(name)

    def ends(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Say which tensors are given to the subgraph, and which it gives."""
        self.content.inputs, self.content.outputs = list(inputs), list(outputs)

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return self._unique(f"{name};{count}") if count else name


class Model(Graph):
    """A file that is put together: its main subgraph, and those that composites are made of.

    Args:
        name: of the component, for errors and for people.

    Attributes:
        parts: subgraphs that several composites share, by what is the same of those.
    """

    def __init__(self, name: str) -> None:
        super().__init__(self, "main", 0)
        self.model, self.name = self, name
        self.parts: dict[Hashable, Graph] = {}
        self._graphs: list[Graph] = [self]
        self._codes: dict[tuple[int, int], int] = {}
        self._buffers: list[Any] = [schema.BufferT()]  # the first is of all tensors without data
        self._inside: dict[bytes, int] = {}
        self._weights: list[_Weight] = []

    def subgraph(self, name: str) -> Graph:
        """A further subgraph, empty."""
        self._graphs.append(Graph(self, name, len(self._graphs)))
        return self._graphs[-1]

    def opcode(self, code: int, version: int) -> int:
        """The row of the file's table of ops."""
        return self._codes.setdefault((code, version), len(self._codes))

    def inside(self, data: bytes) -> int:
        """The number of a buffer inside the flatbuffer; the same one for equal bytes."""
        if data not in self._inside:
            self._inside[data] = len(self._buffers)
            self._buffers.append(_Inside(data=data))
        return self._inside[data]

    def add_weight(self, where: str, shape: tuple[int, ...], dtype: np.dtype, read: Read, tensor: Any) -> int:
        """The number of a buffer behind the flatbuffer."""
        self._buffers.append(schema.BufferT(offset=_PLACE, size=int(np.prod(shape, dtype=np.int64)) * dtype.itemsize))
        self._weights.append(_Weight(where, shape, dtype, read, tensor, self._buffers[-1]))
        return len(self._buffers) - 1

    def write(self, path: Path, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Write the file, with these tensors as its ports: those of its signature "serving_default", in their order.

        Raises:
            GraphError: the flatbuffer would be larger than 2 GB.
            OSError: the file cannot be written.
        """
        self.ends(list(inputs.values()), list(outputs.values()))
        ports = [
            [schema.TensorMapT(name=name, tensorIndex=number) for name, number in table.items()]
            for table in (inputs, outputs)
        ]
        signature = schema.SignatureDefT(*ports, signatureKey=SIGNATURE, subgraphIndex=0)
        codes = [
            schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=version)
            for code, version in self._codes
        ]
        content = schema.ModelT(
            version=VERSION,
            operatorCodes=codes,
            subgraphs=[graph.content for graph in self._graphs],
            description=self.name,
            buffers=self._buffers,
            signatureDefs=[signature],
        )
        size = len(self._packed(content))
        with path.open("wb") as file:
            at = size
            for weight in self._weights:
                at = -(-at // ALIGN) * ALIGN
                file.seek(at)
                weight.buffer.offset = at
                at += file.write(_bytes(weight))
            head = self._packed(content)
            assert len(head) == size, "nothing that weights say changes the flatbuffer's size"
            file.seek(0)
            file.write(head)

    def _packed(self, content: Any) -> bytearray:
        try:
            builder = flatbuffers.Builder(1 << 20)
            builder.Finish(content.Pack(builder), IDENTIFIER)
        except BuilderSizeError:
            what = "what is not its weights takes more than 2 GB, a flatbuffer's most."
            raise GraphError(what, where=self.name, fix="write it at a smaller size, or in another format") from None
        return bytearray(builder.Output())


def _bytes(weight: _Weight) -> memoryview:
    """A weight's bytes, once; its scales become its tensor's."""
    values = weight.read()
    if isinstance(values, tuple):
        values, scales = values
        quantization = weight.tensor.quantization
        assert scales.shape == quantization.scale.shape, f"{weight.where}: scales {scales.shape}"
        quantization.scale = scales.astype(np.float32)
    found = (values.shape, values.dtype)
    assert found == (weight.shape, weight.dtype), f"{weight.where}: {found} for {weight.shape}, {weight.dtype}"
    return np.ascontiguousarray(values).reshape(-1).data.cast("B")
