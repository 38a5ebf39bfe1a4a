"""Weights in int8 as QDQ: DequantizeLinear between a weight in whole numbers and the product that reads it, one scale
per output channel. Which weights, and how they are rounded, is as in bundles (ondevice/lower/quantize.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ondevice.errors import GraphError
from ondevice.export.narrow import BROKEN, int8_saves
from ondevice.graph.epilogue import LINEAR, read
from ondevice.graph.verify import static_shape
from ondevice.lower.pack import derived
from ondevice.lower.quantize import int8_scales, int8_values

CONV_OUT = 0  # axis of the output channels of a plain Conv's weight


def quantize(model: ir.Model) -> int:
    """Put the larger constant weights of products and convolutions into int8, in place; says how many.

    A weight W becomes `W:int8` and `W:int8 scales`, and what reads it still reads a value named W.
    Nothing is read before the file is written; then GraphError where a weight is not finite.
    """
    graph, done = model.graph, dict[ir.Value, ir.Value]()
    for node in list(graph):
        if (place := _weight_of(node)) is None:
            continue
        index, axis = place
        weight = node.inputs[index]
        if weight is None or weight.const_value is None or weight.dtype != ir.DataType.FLOAT:
            continue
        shape = static_shape(weight)
        if len(shape) < 2 or not int8_saves(shape, axis):
            continue
        if weight not in done:
            done[weight] = _dequantized(graph, node, weight, axis % len(shape))
        node.replace_input_with(index, done[weight])
    for weight, wide in done.items():
        name = str(weight.name)
        if weight.uses():  # as something else than a product's weight
            wide.name = f"{name}:int8 values"
        else:
            graph.initializers.pop(name)
            wide.name = name
    return len(done)


def _weight_of(node: ir.Node) -> tuple[int, int] | None:
    """(input, axis of its output channels) of a product's weight; None for what is no product."""
    if node.domain in ("", "ai.onnx"):
        if node.op_type == "MatMul":
            return 1, -1
        if node.op_type == "Gemm":
            turned = node.attributes.get_int("transB", 0)
            return 1, 0 if turned else -1
        return (1, CONV_OUT) if node.op_type == "Conv" else None
    stepped = read(node.op_type)
    if stepped is None or stepped.base not in LINEAR:
        return None
    return stepped.operands.index("weight"), -1


def _dequantized(graph: ir.Graph, at: ir.Node, weight: ir.Value, axis: int) -> ir.Value:
    """The weight as a node before `at` makes it; without a name of its own yet."""
    shape, values, name = static_shape(weight), weight.const_value, str(weight.name)
    assert values is not None, "callers ask for constants only"

    def by_columns(make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        columns = np.moveaxis(values.numpy().astype(np.float32, copy=False), axis, -1)
        return make(columns.reshape(-1, shape[axis]))

    def numbers() -> np.ndarray:
        rest = (*shape[:axis], *shape[axis + 1 :])
        return np.moveaxis(by_columns(int8_values).reshape(*rest, shape[axis]), -1, axis)

    def scales() -> np.ndarray:
        found = by_columns(int8_scales).reshape(-1)
        if not np.isfinite(found).all():
            what = "holds numbers that are not finite."
            raise GraphError(what, where=name, fix=BROKEN)
        return found

    whole = derived(f"{name}:int8", weight, shape, numbers, ir.DataType.INT8)
    scale = derived(f"{name}:int8 scales", weight, shape[axis : axis + 1], scales)
    for value in (whole, scale):
        graph.register_initializer(value)
    wide = ir.Value(shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node(
        "DequantizeLinear", [whole, scale], attributes={"axis": axis}, outputs=[wide], name=f"{name}/Dequant"
    )
    graph.insert_before(at, node)
    return wide
