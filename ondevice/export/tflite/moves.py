"""Ops that only move numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema

from ondevice.export.tflite.words import Tensor, Words
from ondevice.graph.verify import resizes_by_sizes, static_shape
from ondevice.rewrite.pictures import NEAREST
from ondevice.rewrite.rule import settings

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int32": schema.TensorType.INT32,
    "bool": schema.TensorType.BOOL,
}


def same(words: Words, node: ir.Node) -> Tensor:
    """Identity."""
    return words.of(node.inputs[0])


def reshape(words: Words, node: ir.Node) -> Tensor:
    """Reshape, Unsqueeze, Squeeze and Flatten: the result's shape says it all."""
    return words.reshape(words.of(node.inputs[0]), static_shape(node.outputs[0]))


def transpose(words: Words, node: ir.Node) -> Tensor:
    x = words.of(node.inputs[0])
    return words.transpose(x, *settings(node).get("perm", reversed(range(len(x.shape)))))


def concat(words: Words, node: ir.Node) -> Tensor:
    parts = [words.of(value) for value in node.inputs]
    return words.concat(parts, settings(node)["axis"] % len(parts[0].shape))


def split(words: Words, node: ir.Node) -> list[Tensor]:
    """Even or not; the results' shapes say how."""
    x = words.of(node.inputs[0])
    axis = settings(node).get("axis", 0) % len(x.shape)
    return words.split(x, axis, [static_shape(value)[axis] for value in node.outputs])


def slices(words: Words, node: ir.Node) -> Tensor:
    """Slice, forwards."""
    x = words.of(node.inputs[0])
    starts, ends, *rest = [words.numbers(value) for value in node.inputs[1:]]
    axes = rest[0] if rest and rest[0] else range(len(starts))
    steps = rest[1] if len(rest) > 1 and rest[1] else [1] * len(starts)
    if min(steps) < 1:
        raise words.refusal(f"it goes backwards, by {steps}.")
    bounds = [slice(None)] * len(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        bounds[axis % len(x.shape)] = slice(start, end, step)
    begins, stops, strides = zip(*(one.indices(size) for one, size in zip(bounds, x.shape, strict=True)), strict=True)
    shape = static_shape(node.outputs[0])
    inputs = [x, words.ints(*begins), words.ints(*stops), words.ints(*strides)]
    return words.op("STRIDED_SLICE", inputs, shape, schema.StridedSliceOptionsT())


def expand(words: Words, node: ir.Node) -> Tensor:
    """By TILE: delegates have no BROADCAST_TO."""
    x, shape = words.of(node.inputs[0]), static_shape(node.outputs[0])
    wide = words.reshape(x, (*(1 for _ in range(len(shape) - len(x.shape))), *x.shape))
    times = [after // before for before, after in zip(wide.shape, shape, strict=True)]
    return words.op("TILE", [wide, words.ints(*times)], shape, schema.TileOptionsT()) if max(times) > 1 else wide


def cast(words: Words, node: ir.Node) -> Tensor:
    """Integers are 32 bits wide here, whatever they are in the graph."""
    x, kind = words.of(node.inputs[0]), words.dtype(node.outputs[0])
    if x.dtype == kind:
        return x
    options = schema.CastOptionsT(inDataType=TYPES[x.dtype], outDataType=TYPES[kind])
    return words.ops("CAST", [x], [x.shape], options, dtype=kind)[0]


def gather(words: Words, node: ir.Node) -> Tensor:
    """GPU delegates take one axis of places."""
    table, places = words.of(node.inputs[0]), words.of(node.inputs[1])
    axis = settings(node).get("axis", 0) % len(table.shape)
    return words.reshape(_picked(words, table, places, axis), static_shape(node.outputs[0]))


def _picked(words: Words, x: Tensor, places: Tensor, axis: int) -> Tensor:
    """Those places along `axis`, in one axis whatever shape they come in."""
    flat = words.reshape(places, (prod(places.shape),))
    shape = (*x.shape[:axis], *flat.shape, *x.shape[axis + 1 :])
    return words.ops("GATHER", [x, flat], [shape], schema.GatherOptionsT(axis=axis), dtype=x.dtype)[0]


def resize(words: Words, node: ir.Node) -> Tensor:
    """The nearest pixel before, of a picture with its channels first or last."""
    x, shape, given = words.of(node.inputs[0]), static_shape(node.outputs[0]), settings(node)
    if any(given.get(name, "") != value for name, value in NEAREST.items()) or not resizes_by_sizes(node):
        raise words.refusal("it does not repeat the nearest pixel before.")
    if len(shape) != 4 or x.shape[0] != shape[0] or (x.shape[1] != shape[1] and x.shape[3] != shape[3]):
        raise words.refusal(f"it resizes {list(x.shape)} to {list(shape)} (expected height and width).")
    if x.shape[3] == shape[3] and x.shape[1:3] != shape[1:3]:
        return nearest(words, x, shape[1:3])
    return words.transpose(nearest(words, words.transpose(x, 0, 2, 3, 1), shape[2:]), 0, 3, 1, 2)


def nearest(words: Words, x: Tensor, sides: Sequence[int]) -> Tensor:
    """x [n, h, w, c] at another height and width: row i is row floor(i * h / height)."""
    n, *before, channels = x.shape
    if list(before) == list(sides):
        return x
    if all(_lands(old, new) for old, new in zip(before, sides, strict=True)):
        options = schema.ResizeNearestNeighborOptionsT()
        return words.op("RESIZE_NEAREST_NEIGHBOR", [x, words.ints(*sides)], (n, *sides, channels), options)
    for axis, (old, new) in enumerate(zip(before, sides, strict=True), 1):
        x = _picked(words, x, words.constant(np.arange(new) * old // new, "int32"), axis)
    return x


def _lands(before: int, after: int) -> bool:
    """Whether the op, which works out places in float32, finds those that integers do. From 28 to 46 it does not."""
    places = np.floor(np.arange(after, dtype=np.float32) * (np.float32(before) / np.float32(after)))
    return np.array_equal(places, np.arange(after) * before // after)
