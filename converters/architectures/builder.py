"""Emits ONNX nodes with static shapes. Each method is one op and its shape rule; weights stay lazy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.errors import GraphError

OPSET = 18
Shape = tuple[int, ...]


def shape_of(value: ir.Value) -> Shape:
    """The value's static shape."""
    assert value.shape is not None
    return value.shape.numpy()


class GraphBuilder:
    """One graph under construction. Names: a node is `scope/Op`, a weight keeps its diffusers name, a constant is named by its content
    so that graphs of one component at several sizes can share it."""

    def __init__(self, name: str, weights: Mapping[str, ir.TensorProtocol]) -> None:
        self.name, self._weights = name, weights
        self._inputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._names: dict[str, int] = {}

    # Inputs, weights, constants -----------------------------------------------------------------------------------

    def input(self, name: str, shape: Shape, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """A graph input."""
        self._inputs.append(self._value(name, shape, dtype))
        return self._inputs[-1]

    def weight(self, name: str, shape: Shape | None = None) -> ir.Value:
        """A weight as float32, reshaped if `shape` is given (then under `NAME:AxBxC`)."""
        stored = self._stored(name)
        own = tuple(stored.shape.numpy())
        if shape is None or shape == own:
            return self._lazy(name, own, lambda: _float32(stored))
        return self._lazy(f"{name}:{'x'.join(map(str, shape))}", shape, lambda: _float32(stored).reshape(shape))

    def transposed(self, name: str) -> ir.Value:
        """A Linear's [out, in] weight as MatMul wants it, [in, out], under `NAME.T`."""
        stored = self._stored(name)
        out, width = stored.shape.numpy()
        return self._lazy(f"{name}.T", (width, out), lambda: np.ascontiguousarray(_float32(stored).T))

    def full(self, value: float, *shape: int) -> ir.Value:
        """A constant filled with one number; a scalar by default."""
        return self.constant(f"full.{value!r}.{'x'.join(map(str, shape)) or 'scalar'}", np.full(shape, value, np.float32))

    def ints(self, *values: int) -> ir.Value:
        """A one-dimensional int64 constant: shapes and axes."""
        return self.constant("ints." + "_".join(map(str, values)), np.array(values, np.int64))

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A constant; the same name always means the same content."""
        if name not in self._initializers:
            tensor = ir.tensor(array, name=name)
            self._initializers[name] = self._value(name, array.shape, tensor.dtype, tensor)
        return self._initializers[name]

    def _stored(self, name: str) -> ir.TensorProtocol:
        if name not in self._weights:
            raise GraphError("the checkpoint has no such weight.", where=f"{self.name}: {name}")
        return self._weights[name]

    def _lazy(self, name: str, shape: Shape, read: Any) -> ir.Value:
        if name not in self._initializers:
            tensor = ir.LazyTensor(lambda: ir.Tensor(read()), dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)
            self._initializers[name] = self._value(name, shape, ir.DataType.FLOAT, tensor)
        return self._initializers[name]

    # Nodes --------------------------------------------------------------------------------------------------------

    def op(self, scope: str, op: str, inputs: Sequence[ir.Value | None], *shapes: Shape, **attributes: Any) -> Any:
        """A node with one output a shape, all of the first float input's type; returns the value, or a tuple of them."""
        name = self._unique(f"{scope}/{op}")
        outputs = [self._value(name if len(shapes) == 1 else f"{name}.{i}", shape) for i, shape in enumerate(shapes)]
        node = ir.node(op, list(inputs), attributes=attributes, outputs=outputs, name=name)
        self._nodes.append(node)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def unary(self, scope: str, op: str, x: ir.Value) -> ir.Value:
        """Sigmoid, Erf, Sin, ..."""
        return self.op(scope, op, [x], shape_of(x))

    def binary(self, scope: str, op: str, a: ir.Value, b: ir.Value) -> ir.Value:
        """Add, Sub, Mul, Div with broadcasting."""
        return self.op(scope, op, [a, b], np.broadcast_shapes(shape_of(a), shape_of(b)))

    def matmul(self, scope: str, a: ir.Value, b: ir.Value) -> ir.Value:
        left, right = shape_of(a), shape_of(b)
        return self.op(scope, "MatMul", [a, b], (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1]))

    def reshape(self, scope: str, x: ir.Value, *shape: int) -> ir.Value:
        """`shape` in ONNX's terms: 0 keeps a dimension, -1 takes what is left."""
        fixed = [own if dim == 0 else dim for dim, own in zip(shape, (*shape_of(x), *(0,) * len(shape)), strict=False)]
        rest = prod(shape_of(x)) // prod(dim for dim in fixed if dim != -1)
        return self.op(scope, "Reshape", [x, self.ints(*shape)], tuple(rest if dim == -1 else dim for dim in fixed))

    def transpose(self, scope: str, x: ir.Value, *perm: int) -> ir.Value:
        return self.op(scope, "Transpose", [x], tuple(shape_of(x)[axis] for axis in perm), perm=perm)

    def concat(self, scope: str, axis: int, *parts: ir.Value) -> ir.Value:
        shape = list(shape_of(parts[0]))
        shape[axis] = sum(shape_of(part)[axis] for part in parts)
        return self.op(scope, "Concat", parts, tuple(shape), axis=axis)

    def conv(self, scope: str, x: ir.Value, *, stride: int = 1, pads: Sequence[int] | None = None) -> ir.Value:
        """The convolution whose weights are `scope`.weight and .bias; `pads` is top, left, bottom, right ("same" by default)."""
        w = self.weight(f"{scope}.weight")
        (n, _, height, width), (out, _, kh, kw) = shape_of(x), shape_of(w)
        top, left, bottom, right = pads or (kh // 2, kw // 2, kh // 2, kw // 2)
        shape = (n, out, (height + top + bottom - kh) // stride + 1, (width + left + right - kw) // stride + 1)
        settings = {"pads": (top, left, bottom, right), "strides": (stride, stride), "kernel_shape": (kh, kw)}
        return self.op(scope, "Conv", [x, w, self.weight(f"{scope}.bias")], shape, dilations=(1, 1), group=1, **settings)

    def resize(self, scope: str, x: ir.Value, height: int, width: int) -> ir.Value:
        """Nearest neighbour, as torch's interpolate: scales where both sides double, sizes otherwise."""
        n, c, old_height, old_width = shape_of(x)
        if (height, width) == (2 * old_height, 2 * old_width):
            how = [x, None, self.constant("scales.1_1_2_2", np.array([1, 1, 2, 2], np.float32))]
        else:
            how = [x, None, None, self.ints(n, c, height, width)]
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.op(scope, "Resize", how, (n, c, height, width), **modes)

    def finish(self, **outputs: ir.Value) -> ir.Model:
        """The model, with `outputs` under the given names."""
        for name, value in outputs.items():
            value.name = name
        graph = ir.Graph(
            self._inputs,
            list(outputs.values()),
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": OPSET},
            name=self.name,
        )
        return ir.Model(graph, ir_version=10, producer_name="ondevice")

    def _value(self, name: str, shape: Shape, dtype: ir.DataType = ir.DataType.FLOAT, const: ir.TensorProtocol | None = None) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=const)

    def _unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count - 1}"


def _float32(tensor: ir.TensorProtocol) -> np.ndarray:
    return tensor.numpy().astype(np.float32, copy=False)
