"""What is legal after each stage. Every stage's result goes through its verifier, in tests and in use."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ondevice.errors import GraphError
from ondevice.graph.ops import OPS, find

# Kept as int32; kernels move them, and compute floats alone.
INTEGERS = {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL}

# Operands with one number per channel, which ONNX's shape inference does not look at: op -> (input and axis of the
# channels, operands).
CHANNELS = {"Conv": (1, 0, (2,)), "InstanceNormalization": (0, 1, (1, 2))}


def static_shape(value: ir.Value) -> tuple[int, ...]:
    """The value's shape as integers.

    Raises:
        GraphError: the shape is missing or symbolic.
    """
    if value.shape is None or not value.shape.is_static():
        raise GraphError(
            f"its shape is {value.shape} (expected integers).",
            where=f"value {value.name}",
            fix="build the graph for a fixed size",
        )
    return value.shape.numpy()


def resizes_by_sizes(node: ir.Node) -> bool:
    """Whether a Resize reads the pixels that the ratio of its sizes tells.
    Scales that are given may be others: 10 pixels by 1.35 are 13.

    Which ones it reads then is `floor(i / scale)` in float32 (ONNX: asymmetric, floor), and here
    `floor(i * size / larger size)`.
    """
    x, scales = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or scales is None or scales.shape is None or scales.shape == (0,):
        return True
    if scales.const_value is None:
        return False
    sides = zip(static_shape(x), static_shape(node.outputs[0]), scales.const_value.numpy().reshape(-1), strict=True)
    places = [(np.arange(after), before, after, np.float32(scale)) for before, after, scale in sides]
    return all(
        np.array_equal(np.floor(i.astype(np.float32) / scale), i * before // after)
        for i, before, after, scale in places
    )


def verify_graph(model: ir.Model) -> None:
    """After `graph` and after `rewrite`: known ops with known attributes, defined inputs, static shapes,
    one definition per name.

    Raises:
        GraphError: names the node and what is wrong with it.
    """
    graph = model.graph
    known = {id(value) for value in (*graph.inputs, *graph.initializers.values())}
    names: set[str] = {value.name or "" for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph:
        where = f"node {node.name} ({node.op_type})"
        row = find(node.domain, node.op_type)
        if row is None:
            raise GraphError(
                f"op {node.domain or 'ai.onnx'}::{node.op_type} is not supported (expected one of "
                f"{', '.join(sorted(OPS))}).",
                where=where,
                fix="use a Stable Diffusion 1.x model, exported without quantization, control flow or ops of its own",
            )
        if not row.least <= len(node.inputs) <= row.most:
            raise GraphError(f"it has {len(node.inputs)} inputs (expected {row.least} to {row.most}).", where=where)
        if extra := sorted(set(node.attributes) - row.attributes):
            raise GraphError(
                f"attributes {extra} are not supported (expected among {sorted(row.attributes)}).", where=where
            )
        for value in node.inputs:
            if value is not None and id(value) not in known:
                raise GraphError(f"input {value.name} is used before it is made.", where=where)
        _check_channels(node, where)
        if node.op_type != "Split" and any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            raise GraphError("more than its first output is used, which is not supported.", where=where)
        for value in node.outputs:
            static_shape(value)
            if not row.moves and value.dtype in INTEGERS:
                raise GraphError(
                    f"it computes {value.dtype} (expected floats).",
                    where=where,
                    fix="export it without integer arithmetic",
                )
            if not value.name or value.name in names:
                raise GraphError(f"output name {value.name!r} is empty or used twice.", where=where)
            names.add(value.name)
            known.add(id(value))
    for value in graph.outputs:
        if id(value) not in known:
            raise GraphError("it is never made.", where=f"graph output {value.name}")


def _check_channels(node: ir.Node, where: str) -> None:
    index, axis, operands = CHANNELS.get(node.op_type, (0, 0, ()))
    for value in (node.inputs[operand] for operand in operands if operand < len(node.inputs)):
        source = node.inputs[index]
        if value is None or source is None:
            continue
        shape = static_shape(source)
        if len(shape) <= axis:
            raise GraphError(f"input {source.name} is {shape}, which has no channels.", where=where)
        if static_shape(value) != (wanted := (shape[axis],)):
            raise GraphError(
                f"input {value.name} is {static_shape(value)} (expected one number per channel: {wanted}).", where=where
            )
