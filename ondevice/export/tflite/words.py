"""The words that emitters build with: one builtin op each, with the shape of its result; tensors with their names.

A value that several ops make has its name on the last of them; those before are named after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema

from ondevice.errors import GraphError
from ondevice.export.tflite.file import Graph
from ondevice.export.tflite.weights import Storage
from ondevice.graph.verify import static_shape

Code = schema.BuiltinOperator
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # of four axes: channels to the end, and back
MOST_AXES = 4  # of what GPU delegates take
DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.INT32: "int32",
    ir.DataType.INT64: "int32",  # 64-bit integers are not on GPU delegates; ids, places and sizes fit
    ir.DataType.BOOL: "bool",
}


Store = Callable[[Graph, str, Sequence[int], Callable[[], np.ndarray]], int]


def _plain(graph: Graph, name: str, shape: Sequence[int], values: Callable[[], np.ndarray]) -> int:
    return graph.tensor(name, shape, "float32", lambda: values().astype(np.float32, copy=False))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the subgraph: its number there, its shape, NumPy's name of its dtype."""

    number: int
    shape: tuple[int, ...]
    dtype: str = "float32"


class Words:
    """What a node becomes is written with these.

    Args:
        composites: what delegates know whole is written as one op with a name (composites.py).

    Attributes:
        scope: the value that is being made, which names what is made on the way.
        where: for errors: what is being written.
    """

    def __init__(self, graph: Graph, storage: Storage, composites: bool = False) -> None:
        self.graph, self.storage, self.composites, self.scope, self.where = graph, storage, composites, "", ""
        self._tensors: dict[ir.Value, Tensor] = {}
        self._pictures: dict[ir.Value, Tensor] = {}  # inputs that are given with channels last
        self._weights: dict[tuple[str, tuple[int, ...], tuple[int, ...]], Tensor] = {}
        self._joined: dict[tuple[int, ...], Tensor] = {}
        self._unnamed: set[int] = set()
        self._constants: set[int] = set()

    # Values ------------------------------------------------------------------------------------------------------

    def of(self, value: ir.Value | None) -> Tensor:
        """A value's tensor: one that was made before, or a constant."""
        assert value is not None, "a verified node has its inputs"
        if value not in self._tensors:
            if value in self._pictures:
                first = self.transpose(self._pictures[value], *FIRST)
                self.name(first, f"{value.name}:first")
                self.keep(value, first)
            else:
                assert value.const_value is not None, f"{value.name} is made before it is read"
                self._tensors[value] = self._constant(value)
        return self._tensors[value]

    def keep(self, value: ir.Value, tensor: Tensor, last: bool = False) -> None:
        """`tensor` is the value from now on; `last`: with its channels last, as a graph's input is given."""
        (self._pictures if last else self._tensors)[value] = tensor

    def picture(self, value: ir.Value | None) -> Tensor | None:
        """An input with its channels last, where it is given so."""
        return None if value is None else self._pictures.get(value)

    def last(self, value: ir.Value, turned: bool) -> Tensor:
        """A value as a result: four axes are turned to have the channels last; not `turned`, they are so already."""
        if turned and value in self._pictures:
            return self._pictures[value]
        tensor = self.of(value)
        return self.transpose(tensor, *LAST) if turned and len(tensor.shape) == 4 else tensor

    def name(self, tensor: Tensor, name: str) -> None:
        """Call a result of the ops below so; a tensor that has its name keeps it."""
        if tensor.number in self._unnamed:
            self._unnamed.remove(tensor.number)
            self.graph.rename(tensor.number, name)

    def is_constant(self, tensor: Tensor) -> bool:
        return tensor.number in self._constants

    def kernel(self, value: ir.Value | None, shape: Sequence[int], perm: Sequence[int]) -> Tensor:
        """The weight of a product as `shape`, then its axes in the order `perm`, which puts the outputs first:
        read when the file is written, and stored as was chosen."""
        return self._kept(value, tuple(shape), tuple(perm), self.storage.weight)

    def weight(self, value: ir.Value | None, shape: Sequence[int]) -> Tensor:
        """Another constant, as `shape`: read when the file is written, in float32."""
        return self._kept(value, tuple(shape), tuple(range(len(shape))), _plain)

    def _kept(self, value: ir.Value | None, shape: tuple[int, ...], perm: tuple[int, ...], store: Store) -> Tensor:
        assert value is not None and value.const_value is not None, "a weight is a constant"
        values, stored = value.const_value, tuple(shape[axis] for axis in perm)
        key = (str(value.name), shape, perm)
        if key not in self._weights:
            number = store(self.graph, key[0], stored, lambda: values.numpy().reshape(shape).transpose(perm))
            self._weights[key] = Tensor(number, stored)
            self._constants.add(number)
        return self._weights[key]

    def constant(self, values: Any, dtype: str = "float32") -> Tensor:
        """A small constant."""
        array = np.asarray(values, dtype)
        number = self.graph.constant(array)
        self._constants.add(number)
        return Tensor(number, array.shape, dtype)

    def ints(self, *values: int) -> Tensor:
        """Sizes, axes or places."""
        return self.constant(values, "int32")

    def numbers(self, value: ir.Value | None) -> list[int]:
        """The integers of a constant: sizes, axes or places.

        Raises:
            GraphError: they depend on the inputs.
        """
        if value is None:
            return []
        if value.const_value is None:
            raise self.refusal(f"{value.name} is computed (expected a constant).", fix="export it at fixed sizes")
        return [int(number) for number in value.const_value.numpy().reshape(-1)]

    def _constant(self, value: ir.Value) -> Tensor:
        shape, dtype = static_shape(value), self.dtype(value)
        if dtype == "float32" and prod(shape) > 1:
            return self.weight(value, shape)
        assert value.const_value is not None
        return self.constant(value.const_value.numpy().reshape(shape or (1,)), dtype)

    def dtype(self, value: ir.Value) -> str:
        """NumPy's name of the dtype that a value has in the file. Raises GraphError where it has none."""
        if value.dtype not in DTYPES:
            raise self.refusal(f"{value.name} is {value.dtype} (expected floats or integers).")
        return DTYPES[value.dtype]

    def refusal(self, what: str, fix: str = "write a bundle, or ONNX files") -> GraphError:
        """The error for what cannot be written."""
        return GraphError(
            f"a TFLite file cannot hold it: {what}", where=f"{self.graph.model.name}: {self.where}", fix=fix
        )

    # Ops ---------------------------------------------------------------------------------------------------------

    def op(
        self, word: str, inputs: Sequence[Tensor | None], shape: Sequence[int], options: Any = None, version: int = 1
    ) -> Tensor:
        """One builtin op with one result, of its first float input's dtype."""
        return self.ops(word, inputs, [shape], options, version)[0]

    def ops(
        self,
        word: str,
        inputs: Sequence[Tensor | None],
        shapes: Sequence[Sequence[int]],
        options: Any = None,
        version: int = 1,
        dtype: str = "",
    ) -> list[Tensor]:
        """One builtin op with a result per shape.

        Args:
            word: of schema.BuiltinOperator.
            dtype: of the results; "": that of the first input that has floats, or of the first one.

        Raises:
            GraphError: a result has more axes than GPU delegates take.
        """
        given = [tensor.dtype for tensor in inputs if tensor is not None]
        kind = dtype or ("float32" if "float32" in given else given[0])
        results = []
        for shape in shapes:
            if len(shape) > MOST_AXES:
                raise self.refusal(f"its shape is {list(shape)} (expected at most {MOST_AXES} axes).")
            number = self.graph.tensor(f"{self.scope}/{word.lower()}", shape, kind)
            self._unnamed.add(number)
            results.append(Tensor(number, tuple(shape), kind))
        numbers = [-1 if tensor is None else tensor.number for tensor in inputs]
        self.graph.op(getattr(Code, word), numbers, [one.number for one in results], options, version)
        return results

    def binary(self, word: str, a: Tensor, b: Tensor) -> Tensor:
        """ADD, SUB, MUL or DIV with NumPy's broadcasting."""
        options = {"ADD": "AddOptionsT", "SUB": "SubOptionsT", "MUL": "MulOptionsT", "DIV": "DivOptionsT"}[word]
        return self.op(word, [a, b], np.broadcast_shapes(a.shape, b.shape), getattr(schema, options)())

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self.binary("ADD", a, b)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return self.binary("MUL", a, b)

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        return self.binary("SUB", a, b)

    def unary(self, word: str, x: Tensor, options: Any = None) -> Tensor:
        """LOGISTIC, RSQRT, SIN, ..."""
        return self.op(word, [x], x.shape, options)

    def mean(self, x: Tensor, *axes: int) -> Tensor:
        """Over these axes, which stay with size 1."""
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        return self.op("MEAN", [x, self.ints(*axes)], shape, schema.ReducerOptionsT(keepDims=True))

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """`x` itself where it has the shape."""
        if tuple(shape) == x.shape:
            return x
        return self.op("RESHAPE", [x, self.ints(*shape)], shape, schema.ReshapeOptionsT(newShape=list(shape)))

    def copy(self, x: Tensor) -> Tensor:
        """The same numbers in a tensor of their own."""
        return self.op("RESHAPE", [x, self.ints(*x.shape)], x.shape, schema.ReshapeOptionsT(newShape=list(x.shape)))

    def transpose(self, x: Tensor, *perm: int) -> Tensor:
        shape = [x.shape[axis] for axis in perm]
        return self.op("TRANSPOSE", [x, self.ints(*perm)], shape, schema.TransposeOptionsT())

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """`axis` is positive."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.op("CONCATENATION", parts, shape, schema.ConcatenationOptionsT(axis=axis))

    def joined(self, *parts: Tensor) -> Tensor:
        """Parts side by side along the last axis, once for all ops that read them so."""
        numbers = tuple(part.number for part in parts)
        if numbers not in self._joined:
            self._joined[numbers] = self.concat(parts, len(parts[0].shape) - 1)
        return self._joined[numbers]

    def split(self, x: Tensor, axis: int, sizes: Sequence[int]) -> list[Tensor]:
        """Parts of these sizes along `axis`, which is positive."""
        shapes = [[*x.shape[:axis], size, *x.shape[axis + 1 :]] for size in sizes]
        if len(set(sizes)) == 1:
            options = schema.SplitOptionsT(numSplits=len(sizes))
            return self.ops("SPLIT", [self.constant(axis, "int32"), x], shapes, options, dtype=x.dtype)
        inputs = [x, self.ints(*sizes), self.constant(axis, "int32")]
        return self.ops("SPLIT_V", inputs, shapes, schema.SplitVOptionsT(numSplits=len(sizes)), dtype=x.dtype)

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., in] times a weight [out, in]; a bias [out] is added."""
        shape = [*x.shape[:-1], weight.shape[0]]
        options = schema.FullyConnectedOptionsT(keepNumDims=True)
        return self.op("FULLY_CONNECTED", [x, weight, bias], shape, options, version=5)

    def matmul(self, a: Tensor, b: Tensor, turned: bool = False) -> Tensor:
        """Matrices of the last two axes; `turned`: b is [..., columns, inner]."""
        columns = b.shape[-2] if turned else b.shape[-1]
        shape = [*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], columns]
        return self.op("BATCH_MATMUL", [a, b], shape, schema.BatchMatMulOptionsT(adjY=turned))

    def softmax(self, x: Tensor) -> Tensor:
        """Over the last axis."""
        return self.unary("SOFTMAX", x, schema.SoftmaxOptionsT(beta=1.0))
