"""How ops that only move numbers become kernel calls, where they become any: parts of rows, and rows of items, are read
and written where they stand as far as kernels can."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ondevice.graph.verify import static_shape
from ondevice.lower.lowering import Lowering
from ondevice.lower.nodes import axis_of, constant_of, input_of, int_of, ints_of, optional, unsupported, walk_of
from ondevice.lower.places import only_rows_are_read
from ondevice.lower.strides import broadcast, contiguous


def transpose(low: Lowering, node: ir.Node) -> None:
    x, out = input_of(node, 0), static_shape(node.outputs[0])
    shape = static_shape(x)
    perm = ints_of(node, "perm", tuple(reversed(range(len(shape)))))
    steps = contiguous(shape)
    _copy(low, node, [x], out, source=[steps[axis] for axis in perm], target=contiguous(out))


def expand(low: Lowering, node: ir.Node) -> None:
    x, out = input_of(node, 0), static_shape(node.outputs[0])
    _copy(low, node, [x], out, source=broadcast(static_shape(x), out), target=contiguous(out))


def slice_(low: Lowering, node: ir.Node) -> None:
    x, out = input_of(node, 0), static_shape(node.outputs[0])
    shape, steps = static_shape(x), contiguous(static_shape(x))
    starts = constant_of(low, node, 1).tolist()
    axes = constant_of(low, node, 3).tolist() if optional(node, 3) is not None else list(range(len(starts)))
    strides = constant_of(low, node, 4).tolist() if optional(node, 4) is not None else [1] * len(starts)
    offset, walk = 0, list(steps)
    for start, axis, stride in zip(starts, axes, strides, strict=True):
        if stride <= 0:
            raise unsupported(node, f"step {stride} is not supported (expected at least 1).")
        first = max(start + shape[axis], 0) if start < 0 else min(start, shape[axis])
        offset += first * steps[axis]
        walk[axis] = steps[axis] * stride
    rows = len(shape) == 3 and (shape[0], shape[2]) == (out[0], out[2]) and walk == list(steps)
    if rows and only_rows_are_read(node.outputs[0]):
        low.cut(node.outputs[0], x, offset // steps[1])
    else:
        _copy(low, node, [x], out, source=walk, target=contiguous(out), s_offset=offset)


def split(low: Lowering, node: ir.Node) -> None:
    x = input_of(node, 0)
    shape = static_shape(x)
    axis, steps, at = axis_of(node, len(shape), 0), contiguous(shape), 0
    dtype = low.dtype_of(node.outputs[0])
    for part in node.outputs:
        out = static_shape(part)
        if axis == len(shape) - 1:
            low.part(part, x, at)
            at += out[axis]
            continue
        dims = walk_of(node, out, s=steps, d=contiguous(out)) | {"s_offset": at * steps[axis], "d_offset": 0}
        low.emit("Split", str(node.name), [low.operand(x, dtype)], [low.result(part)], dims)
        at += out[axis]


def concat(low: Lowering, node: ir.Node) -> None:
    out, dtype = static_shape(node.outputs[0]), low.dtype_of(node.outputs[0])
    axis, steps, at = int_of(node, "axis", 0) % len(out), contiguous(out), 0
    target = low.whole(node.outputs[0])
    for index in range(len(node.inputs)):
        part = input_of(node, index)
        shape = static_shape(part)
        held = low.rows(part, dtype)
        if held.tensor != target:  # else it is there
            places = {"s_offset": held.first, "d_offset": at * steps[axis]}
            dims = walk_of(node, shape, s=held.steps(shape), d=steps) | places
            low.emit("Concat", str(node.name), [held.tensor], [target], dims)
        at += shape[axis]


def _copy(
    low: Lowering,
    node: ir.Node,
    inputs: Sequence[ir.Value],
    dims: Sequence[int],
    *,
    source: Sequence[int],
    target: Sequence[int],
    s_offset: int = 0,
) -> None:
    dtype = low.dtype_of(node.outputs[0])
    walk = walk_of(node, dims, s=source, d=target) | {"s_offset": s_offset, "d_offset": 0}
    low.emit_node(node, [low.operand(value, dtype) for value in inputs], walk)
