"""Emits ONNX nodes with static shapes. Each method is one op and its shape rule; weights stay lazy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ondevice.errors import GraphError
from ondevice.graph.ops import DOMAIN
from ondevice.graph.origin import (
    Origin,
    Weight,
    cast,
    origin_of,
    reshaped,
    scaled,
    stored_as,
    transposed,
    with_origin,
)
from ondevice.graph.ranks import SHARE, SUM, WHOLE, Rank, share_of

OPSET = 18
Shape = tuple[int, ...]


class Cut(NamedTuple):
    """A rank has a share of a weight along this axis of what is stored; of each of so many equal `parts` of it, one
    after another."""

    axis: int
    parts: int = 1


def shape_of(value: ir.Value) -> Shape:
    """The value's static shape."""
    assert value.shape is not None
    return value.shape.numpy()


COLUMNS, ROWS = Cut(0), Cut(1)
"""Of a product's weight: each rank computes a share of the result, or reads a share of what is multiplied."""


class GraphBuilder:
    """One graph under construction. Names: a node is `scope/Op`, a weight keeps its diffusers name, a constant is named
    by its content so that graphs of one component at several sizes can share it. `part`: whose weights they are, by
    which provenance names them; the graph's own name where it is not given. `rank`: of devices that share it."""

    def __init__(self, name: str, weights: Mapping[str, ir.TensorProtocol], part: str = "", rank: Rank = WHOLE) -> None:
        self.name, self._weights, self._part, self.rank = name, weights, part or name, rank
        self._inputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._names: dict[str, int] = {}

    # Inputs, weights, constants -----------------------------------------------------------------------------------

    def input(self, name: str, shape: Shape, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """A graph input."""
        self._inputs.append(self._value(name, shape, dtype))
        return self._inputs[-1]

    def weight(
        self, name: str, *shape: int, view: Shape | None = None, scale: float = 1.0, cut: Cut | None = None
    ) -> ir.Value:
        """The weight that is stored as `name` with `shape`, as float32; reshaped if `view` is another shape (then under
        `NAME:AxBxC`), times `scale` (`NAME:by0.5`), a power of two, so that nothing is rounded; the rank's share where
        it is `cut`, which `view` is of.

        Raises GraphError where there is none, or it has another shape.
        """
        stored = self._stored(name, shape)
        if cut is not None and self.rank.of > 1:
            return self._share(name, stored, shape, cut, view, scale)
        origin = self._origin(name, stored, shape, scale)
        if view is None or view == shape:
            return self._lazy(name + _by(scale), shape, lambda: _float32(stored, scale), origin)
        return self._lazy(
            f"{name}:{'x'.join(map(str, view))}{_by(scale)}",
            view,
            lambda: _float32(stored, scale).reshape(view),
            reshaped(origin, view),
        )

    def transposed(self, name: str, out: int, width: int, scale: float = 1.0, cut: Cut | None = None) -> ir.Value:
        """A Linear's [out, width] weight as MatMul wants it, [width, out], under `NAME.T`; the rank's share where it is
        `cut`. Raises GraphError as `weight` does."""
        stored = self._stored(name, (out, width))
        if cut is not None and self.rank.of > 1:
            return self._share(name, stored, (out, width), cut, None, scale, turned=True)
        return self._lazy(
            f"{name}.T{_by(scale)}",
            (width, out),
            lambda: np.ascontiguousarray(_float32(stored, scale).T),
            transposed(self._origin(name, stored, (out, width), scale), (1, 0)),
        )

    def number(self, name: str) -> float:
        """The weight `name` of one element, which is read now. Raises GraphError as `weight` does."""
        return float(self._stored(name, (1,)).numpy().reshape(-1)[0])

    def computed(
        self, name: str, shape: Shape, sources: Mapping[str, Shape], make: Callable[..., np.ndarray]
    ) -> ir.Value:
        """A float32 constant that `make` computes of the weights `sources`, {name: shape}, when it is read.
        Raises GraphError as `weight` does."""
        stored = [self._stored(source, wanted) for source, wanted in sources.items()]
        return self._lazy(name, shape, lambda: make(*map(_float32, stored)).astype(np.float32), None)

    def _share(
        self,
        name: str,
        stored: ir.TensorProtocol,
        shape: Shape,
        cut: Cut,
        view: Shape | None,
        scale: float,
        turned: bool = False,
    ) -> ir.Value:
        """A rank's share of a weight, under `NAME:1of2`."""
        number, of = self.rank
        told = {"axis": cut.axis, "parts": cut.parts, "number": number, "ranks": of}
        own = tuple(size // of if axis == cut.axis else size for axis, size in enumerate(shape))
        seen = own[::-1] if turned else own if view is None else view

        def read() -> np.ndarray:
            values = share_of(_float32(stored, scale), **told)
            return np.ascontiguousarray(values.T if turned else values.reshape(seen))

        word = f"{number + 1}of{of}" + f"x{cut.parts}" * (cut.parts > 1)
        viewed = "" if view is None else f":{'x'.join(map(str, view))}"
        origin = stored_as(self._origin(name, stored, shape, scale), SHARE, told, own)
        origin = transposed(origin, (1, 0)) if turned else reshaped(origin, seen)
        return self._lazy(f"{name}{'.T' * turned}:{word}{viewed}{_by(scale)}", seen, read, origin)

    def shared(self, out: int, width: int, cut: Cut | None) -> tuple[int, int, bool]:
        """Of a product to `out` of a rank's `width`: to how many of `out` the rank computes, how wide what the stored
        weight multiplies is, and whether the rank adds the bias."""
        if cut is None or self.rank.of == 1:
            return out, width, True
        return (out // self.rank.of, width, True) if cut.axis == 0 else (out, width * self.rank.of, self.first)

    @property
    def first(self) -> bool:
        """Whether it is for the rank that adds to a sum what is added once."""
        return self.rank.number == 0

    def full(self, value: float, *shape: int) -> ir.Value:
        """A constant filled with one number; a scalar by default."""
        return self.constant(
            f"full.{value!r}.{'x'.join(map(str, shape)) or 'scalar'}", np.full(shape, value, np.float32)
        )

    def ints(self, *values: int) -> ir.Value:
        """A one-dimensional int64 constant: shapes and axes."""
        return self.constant("ints." + "_".join(map(str, values)), np.array(values, np.int64))

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A constant; the same name always means the same content."""
        if name not in self._initializers:
            tensor = ir.tensor(array, name=name)
            self._initializers[name] = self._value(name, array.shape, tensor.dtype, tensor)
        return self._initializers[name]

    def _stored(self, name: str, shape: Shape) -> ir.TensorProtocol:
        if name not in self._weights:
            raise GraphError("the checkpoint has no such weight.", where=f"{self.name}: {name}")
        stored = self._weights[name]
        if tuple(stored.shape.numpy()) != shape:
            what = f"the weight has another shape (got {list(stored.shape.numpy())}, expected {list(shape)})."
            raise GraphError(what, where=f"{self.name}: {name}", fix="use the config that the weights came with")
        return stored

    def _origin(self, name: str, stored: ir.TensorProtocol, shape: Shape, scale: float) -> Origin | None:
        """Of what `_float32` makes of a weight."""
        weight = Weight(f"{self._part}/{name}", stored.dtype, shape, origin_of(stored))
        return scaled(cast(weight, ir.DataType.FLOAT), scale)

    def _lazy(self, name: str, shape: Shape, read: Any, origin: Origin | None) -> ir.Value:
        if name not in self._initializers:
            tensor = ir.LazyTensor(lambda: ir.Tensor(read()), dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)
            self._initializers[name] = self._value(name, shape, ir.DataType.FLOAT, with_origin(tensor, origin))
        return self._initializers[name]

    # Nodes --------------------------------------------------------------------------------------------------------

    def op(self, scope: str, op: str, inputs: Sequence[ir.Value | None], *shapes: Shape, **attributes: Any) -> Any:
        """A node with one output per shape, all of the first float input's type;
        returns the value, or a tuple of them."""
        name = self._unique(f"{scope}/{op}")
        outputs = [self._value(name if len(shapes) == 1 else f"{name}.{i}", shape) for i, shape in enumerate(shapes)]
        domain = DOMAIN if op == SUM else ""
        node = ir.node(op, list(inputs), attributes=attributes, outputs=outputs, name=name, domain=domain)
        self._nodes.append(node)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def summed(self, scope: str, x: ir.Value) -> ir.Value:
        """The sum of what all ranks have; where there are no others, what is there."""
        return self.op(scope, SUM, [x], shape_of(x)) if self.rank.of > 1 else x

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

    def conv(
        self,
        scope: str,
        x: ir.Value,
        out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        pads: Sequence[int] | None = None,
        scales: tuple[float, float | None] = (1.0, 1.0),
        cut: Cut | None = None,
    ) -> ir.Value:
        """The convolution to `out` channels whose weights are `scope`.weight and .bias, each times one of `scales`,
        None of which there is none; `pads` is top, left, bottom, right ("same" by default). `cut` as `layers.linear`
        has it."""
        n, channels, height, width = shape_of(x)
        top, left, bottom, right = pads or (kernel // 2,) * 4
        own, channels, biased = self.shared(out, channels, cut)
        shape = (n, own, (height + top + bottom - kernel) // stride + 1, (width + left + right - kernel) // stride + 1)
        of_weight, of_bias = scales
        inputs = [x, self.weight(f"{scope}.weight", out, channels, kernel, kernel, scale=of_weight, cut=cut)]
        if biased and of_bias is not None:
            by = cut if cut is not None and cut.axis == 0 else None
            inputs.append(self.weight(f"{scope}.bias", out, scale=of_bias, cut=by))
        settings = {"pads": (top, left, bottom, right), "strides": (stride, stride), "kernel_shape": (kernel, kernel)}
        return self.op(scope, "Conv", inputs, shape, dilations=(1, 1), group=1, **settings)

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

    def _value(
        self, name: str, shape: Shape, dtype: ir.DataType = ir.DataType.FLOAT, const: ir.TensorProtocol | None = None
    ) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=const)

    def _unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count - 1}"


class DryBuilder(GraphBuilder):
    """Takes the same calls, and makes shapes alone: which weights are asked for, and what comes in and goes out.

    `asked` is {name: shape as stored}, in the order of the calls.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, {})
        self.asked: dict[str, Shape] = {}

    def op(self, scope: str, op: str, inputs: Sequence[ir.Value | None], *shapes: Shape, **attributes: Any) -> Any:
        """Its outputs, which nothing makes."""
        outputs = [self._value(scope, shape) for shape in shapes]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def number(self, name: str) -> float:
        """A stand-in for the weight."""
        self._stored(name, (1,))
        return 0.0

    def _stored(self, name: str, shape: Shape) -> ir.TensorProtocol:
        known = self.asked.setdefault(name, shape)
        assert known == shape, f"{name} is asked for as {known} and as {shape}"
        return _NOTHING


_NOTHING = ir.tensor(np.zeros(0, np.float32))


def _float32(tensor: ir.TensorProtocol, scale: float = 1.0) -> np.ndarray:
    values = tensor.numpy().astype(np.float32, copy=False)
    return values if scale == 1.0 else values * np.float32(scale)


def _by(scale: float) -> str:
    return "" if scale == 1.0 else f":by{scale!r}"
