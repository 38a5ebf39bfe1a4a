"""A fused graph becomes a MIL program: values, constants and types; what becomes of each op is said in plain_ops.py and
fused_ops.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from ondevice.errors import GraphError
from ondevice.export.coreml.compressed import compressed
from ondevice.export.coreml.exact import LARGEST, in_float32
from ondevice.export.coreml.program import Given, Program, Var
from ondevice.export.names import plain
from ondevice.graph.verify import INTEGERS, static_shape

FLOATS = ("fp16", "fp32")
# in float16, what a mask adds to scores that no query may see: softmax makes 0 of it, and no sum with it overflows
HIDDEN = -3e4


class Emitter:
    """The walk over a graph.

    Args:
        results: what the graph's outputs become.
        dtype: "fp16" or "fp32", of weights and of all that is computed but what float16 cannot (exact.py).
        ios: the version that the program is for.
        weights: how larger ones are stored: one of `compressed.WEIGHTS`, or "": as `dtype` says.
    """

    def __init__(
        self, graph: ir.Graph, program: Program, results: Mapping[ir.Value, Var], *, dtype: str, ios: int, weights: str
    ) -> None:
        self.program, self.ios, self._dtype, self._results = program, ios, dtype, results
        self._weights = weights
        self._exact = in_float32(graph) if dtype == "fp16" else frozenset()
        self._vars: dict[ir.Value, Var] = {}
        self._cast: dict[tuple[str, str], Var] = {}
        self._constants: dict[tuple[object, ...], Var] = {}

    # What goes in --------------------------------------------------------------------------------------------------

    def bind(self, value: ir.Value, var: Var) -> None:
        """Say what a value of the graph is in the program."""
        self._vars[value] = var

    def dtype(self, node: ir.Node) -> str:
        """The type of a node's first output: MIL's word."""
        if node.outputs[0].dtype in INTEGERS:
            return "int32"
        return "fp32" if node in self._exact else self._dtype

    def input(self, node: ir.Node, index: int) -> ir.Value:
        """An input that must be there."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            raise GraphError(f"input {index} is missing.")
        return value

    def operand(self, node: ir.Node, index: int) -> Var:
        """An input as the program has it, in the type of the node's output."""
        return self.var(self.input(node, index), self.dtype(node))

    def var(self, value: ir.Value, dtype: str) -> Var:
        """A value as the program has it; floats are cast to `dtype`."""
        if value.const_value is not None and value not in self._vars:
            return self.constant(value, dtype)
        return self.cast(self._vars[value], dtype)

    def cast(self, var: Var, dtype: str) -> Var:
        """`var`, if a float, as `dtype`: cast once, whoever reads it."""
        if var.dtype == dtype or var.dtype not in FLOATS or dtype not in FLOATS:
            return var
        if (var.name, dtype) not in self._cast:
            name = self.program.fresh(f"{var.name}_{dtype}")
            self._cast[var.name, dtype] = self.program.op("cast", name, var.shape, dtype, x=var, dtype=dtype)
        return self._cast[var.name, dtype]

    # Constants -----------------------------------------------------------------------------------------------------

    def known(self, value: ir.Value) -> np.ndarray | None:
        """A constant's numbers as they are; None for what is computed. Read anew each time, and not kept."""
        return None if value.const_value is None else value.const_value.numpy()

    def constant(
        self, value: ir.Value, dtype: str, turn: Callable[[np.ndarray], np.ndarray] | None = None, what: str = ""
    ) -> Var:
        """A constant of the graph.

        Args:
            dtype: of floats; whole numbers are int32.
            turn: what is done to it before it is written; `what` names that.

        Raises:
            GraphError: it is computed, or holds numbers that float16 cannot.
        """
        key = (value, dtype, what)
        if key not in self._constants:
            array = self._turned(value, turn)
            name = self.program.fresh(plain(f"{value.name}{what}"))
            self._constants[key] = self.program.constant(_narrowed(array, dtype, value), name)
        return self._constants[key]

    def weight(
        self, value: ir.Value, dtype: str, turn: Callable[[np.ndarray], np.ndarray] | None = None, what: str = ""
    ) -> Var:
        """The constant weight of a product or a convolution, whose first dimension is that of the outputs, in few bits
        where that was asked for and saves something."""
        if not self._weights:
            return self.constant(value, dtype, turn, what)
        key = (value, dtype, what, self._weights)
        if key not in self._constants:
            array = self._turned(value, turn)
            try:
                stored = compressed(array, self._weights, dtype, self.ios)
            except GraphError as error:
                raise GraphError(f"{value.name} {error.what}", fix=error.fix) from None
            if stored is None:
                return self.constant(value, dtype, turn, what)
            name = self.program.fresh(plain(f"{value.name}{what}"))
            self._constants[key] = self.program.compressed(stored, name, array.shape, dtype)
        return self._constants[key]

    def _turned(self, value: ir.Value, turn: Callable[[np.ndarray], np.ndarray] | None) -> np.ndarray:
        array = self.known(value)
        if array is None:
            raise GraphError(f"input {value.name} must be a constant.")
        return array if turn is None else turn(array)

    def number(self, value: float, dtype: str) -> np.generic:
        """A float to compute with, in that type."""
        return np.float16(value) if dtype == "fp16" else np.float32(value)

    def epsilon(self, value: float, dtype: str) -> np.generic:
        """The same, but never 0: float16's smallest, where that is more."""
        return self.number(max(value, 6e-8) if dtype == "fp16" else value, dtype)

    # What comes out ------------------------------------------------------------------------------------------------

    def op(self, node: ir.Node, kind: str, /, **inputs: Given) -> Var:
        """The op that makes the node's first output."""
        out = node.outputs[0]
        dtype = self.dtype(node)
        var = self.program.op(kind, self.name(out, dtype), static_shape(out), dtype, **inputs)
        self.bind(out, var)
        return var

    def name(self, value: ir.Value, dtype: str) -> str:
        """What a value is called that has that type: another name where a cast of it is the graph's output."""
        name, result = plain(str(value.name)), self._results.get(value)
        clash = result is not None and result.name == name and result.dtype != dtype
        return self.program.fresh(f"{name}_{dtype}") if clash else name

    def finish(self, value: ir.Value) -> Var:
        """An output of the graph under the name and in the type that it has there."""
        wanted = self._results[value]
        var = self._vars[value] if value in self._vars else self.constant(value, wanted.dtype)
        if var == wanted:
            return var
        how = {} if var.dtype == wanted.dtype else {"dtype": wanted.dtype}
        return self.program.op("cast" if how else "identity", wanted.name, wanted.shape, wanted.dtype, x=var, **how)

    def step(self, node: ir.Node, kind: str, shape: Sequence[int], /, **inputs: Given) -> Var:
        """An op on the way there, of the same type."""
        name = self.program.fresh(f"{plain(str(node.outputs[0].name))}_{kind}")
        return self.program.op(kind, name, shape, self.dtype(node), **inputs)

    def reshaped(self, node: ir.Node, x: Var, shape: Sequence[int]) -> Var:
        """`x` in another shape on the way; itself where it has that."""
        assert prod(x.shape) == prod(shape), f"{x.shape} is no {shape}"
        return x if x.shape == tuple(shape) else self.step(node, "reshape", shape, x=x, shape=list(shape))


def _narrowed(array: np.ndarray, dtype: str, value: ir.Value) -> np.ndarray:
    """As the program has it. Raises GraphError for a number that float16 has no place for."""
    if array.dtype.kind != "f":
        return array.astype(np.int32)
    if dtype != "fp16":
        return array.astype(np.float32, copy=False)
    if array.size and max(float(array.max()), -float(array.min())) > LARGEST:
        if np.abs(array[array >= -LARGEST]).max(initial=0) > LARGEST or np.isnan(array).any():
            what = f"{value.name} holds {np.abs(array).max():.3g}, which float16 has no place for."
            raise GraphError(what, fix="use --dtype fp32")
        array = np.where(array < -LARGEST, HIDDEN, array)
    return array.astype(np.float16)
