"""What becomes of ONNX's own ops: MIL's op of the same meaning, or a few."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx_ir as ir

from ondevice.errors import GraphError
from ondevice.export.coreml.emitter import Emitter
from ondevice.export.coreml.program import Given, Var
from ondevice.graph.verify import resizes_by_sizes, static_shape
from ondevice.rewrite.rule import settings

Emit = Callable[[Emitter, ir.Node], object]
_UNARY = {
    "Sigmoid": "sigmoid",
    "Erf": "erf",
    "Tanh": "tanh",
    "Sin": "sin",
    "Cos": "cos",
    "Sqrt": "sqrt",
    "Exp": "exp",
    "Relu": "relu",
    "Identity": "identity",
}
_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "real_div"}
_VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Flatten")
_CASTS = {ir.DataType.BOOL: "bool", ir.DataType.INT32: "int32", ir.DataType.INT64: "int32"}


def _unary(emit: Emitter, node: ir.Node) -> None:
    emit.op(node, _UNARY[node.op_type], x=emit.operand(node, 0))


def _binary(emit: Emitter, node: ir.Node) -> None:
    emit.op(node, _BINARY[node.op_type], x=emit.operand(node, 0), y=emit.operand(node, 1))


def _negative(emit: Emitter, node: ir.Node) -> None:
    emit.op(node, "mul", x=emit.operand(node, 0), y=emit.number(-1.0, emit.dtype(node)))


def _view(emit: Emitter, node: ir.Node) -> None:
    emit.op(node, "reshape", x=emit.operand(node, 0), shape=list(static_shape(node.outputs[0])))


def _cast(emit: Emitter, node: ir.Node) -> None:
    source, out = emit.input(node, 0), node.outputs[0]
    wanted = _CASTS.get(out.dtype, emit.dtype(node)) if out.dtype is not None else emit.dtype(node)
    if wanted == "bool":
        raise GraphError(f"casts from {source.dtype} to {out.dtype} are not supported.")
    x = emit.var(source, wanted)
    if x.dtype == wanted:
        emit.op(node, "identity", x=x)
    else:
        emit.op(node, "cast", x=x, dtype=wanted)


def _matmul(emit: Emitter, node: ir.Node) -> None:
    x, weight = emit.operand(node, 0), emit.input(node, 1)
    if weight.const_value is not None and len(static_shape(weight)) == 2 and len(x.shape) > 1:
        linear(emit, node, x, weight, None)
        return
    y = emit.operand(node, 1)
    if min(len(x.shape), len(y.shape)) < 2:
        raise GraphError(f"operands of rank {len(x.shape)} and {len(y.shape)} are not supported (expected at least 2).")
    emit.op(node, "matmul", x=x, y=y, transpose_x=False, transpose_y=False)


def linear(emit: Emitter, node: ir.Node, x: Var, weight: ir.Value, bias: ir.Value | None, turned: bool = True) -> None:
    """x @ weight + bias, x in any number of dimensions. MIL has weights as [out, in], and x in up to three dimensions.

    Args:
        turned: whether the graph has the weight as [in, out].
    """
    dtype = emit.dtype(node)
    stored = emit.weight(weight, dtype, np.transpose, ".T") if turned else emit.weight(weight, dtype)
    given = {"weight": stored} | ({"bias": emit.constant(bias, dtype)} if bias is not None else {})
    if len(x.shape) <= 3:
        emit.op(node, "linear", x=x, **given)
        return
    rows = emit.reshaped(node, x, (prod(x.shape[:-1]), x.shape[-1]))
    wide = emit.step(node, "linear", (rows.shape[0], stored.shape[0]), x=rows, **given)
    emit.op(node, "reshape", x=wide, shape=list(static_shape(node.outputs[0])))


def _gemm(emit: Emitter, node: ir.Node) -> None:
    given = settings(node)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    weight = emit.input(node, 1)
    columns = static_shape(node.outputs[0])[1:]
    if (given.get("transA", 0), given.get("alpha", 1.0), given.get("beta", 1.0)) != (0, 1.0, 1.0):
        raise GraphError("only transA=0, alpha=1 and beta=1 are supported.")
    if bias is not None and (bias.const_value is None or static_shape(bias) != columns):
        raise GraphError("its bias must be one constant number per column.")
    linear(emit, node, emit.operand(node, 0), weight, bias, turned=not given.get("transB", 0))


def _conv(emit: Emitter, node: ir.Node) -> None:
    given, x, dtype = settings(node), emit.operand(node, 0), emit.dtype(node)
    if given.get("auto_pad", "NOTSET") != "NOTSET" or len(x.shape) != 4:
        raise GraphError("only 2-D convolutions with explicit pads are supported.")
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    emit.op(
        node,
        "conv",
        x=x,
        weight=emit.weight(emit.input(node, 1), dtype),
        **({} if bias is None else {"bias": emit.constant(bias, dtype)}),
        strides=given.get("strides", [1, 1]),
        pad_type="custom",
        pad=[top, bottom, left, right],
        dilations=given.get("dilations", [1, 1]),
        groups=given.get("group", 1),
    )


def _instance_norm(emit: Emitter, node: ir.Node) -> None:
    x, dtype = emit.operand(node, 0), emit.dtype(node)
    flat = emit.reshaped(node, x, (*x.shape[:2], prod(x.shape[2:])))
    given: dict[str, Given] = {
        "gamma": emit.constant(emit.input(node, 1), dtype),
        "beta": emit.constant(emit.input(node, 2), dtype),
        "epsilon": emit.epsilon(settings(node).get("epsilon", 1e-5), dtype),
    }
    if flat is x:
        emit.op(node, "instance_norm", x=x, **given)
        return
    normal = emit.step(node, "instance_norm", flat.shape, x=flat, **given)
    emit.op(node, "reshape", x=normal, shape=list(x.shape))


def _layer_norm(emit: Emitter, node: ir.Node) -> None:
    x, given, dtype = emit.operand(node, 0), settings(node), emit.dtype(node)
    axes = list(range(given.get("axis", -1) % len(x.shape), len(x.shape)))
    shape = tuple(x.shape[axis] for axis in axes)
    values = [value for value in node.inputs[1:] if value is not None]
    rows = [emit.constant(value, dtype, lambda array: np.broadcast_to(array, shape), ".row") for value in values]
    affine = dict(zip(("gamma", "beta"), rows, strict=False))
    emit.op(node, "layer_norm", x=x, axes=axes, epsilon=emit.epsilon(given.get("epsilon", 1e-5), dtype), **affine)


def _softmax(emit: Emitter, node: ir.Node) -> None:
    emit.op(node, "softmax", x=emit.operand(node, 0), axis=settings(node).get("axis", -1))


def _resize(emit: Emitter, node: ir.Node) -> None:
    """Whole factors are MIL's own op. Which pixels its others read between is not said anywhere: for other sizes rows
    and columns are gathered by number."""
    x, out, given = emit.operand(node, 0), static_shape(node.outputs[0]), settings(node)
    modes = tuple(
        given.get(key, default)
        for key, default in (
            ("mode", "nearest"),
            ("coordinate_transformation_mode", "half_pixel"),
            ("nearest_mode", "round_prefer_floor"),
        )
    )
    if modes != ("nearest", "asymmetric", "floor") or len(x.shape) != 4 or x.shape[:2] != out[:2]:
        raise GraphError(
            f"mode {modes} is not supported (expected nearest, asymmetric, floor over the last two axes of four)."
        )
    if not resizes_by_sizes(node):
        raise GraphError("its scales are not the ratio of its sizes.", fix="export it with sizes")
    if all(after % before == 0 for before, after in zip(x.shape[2:], out[2:], strict=True)):
        factors = [after // before for before, after in zip(x.shape[2:], out[2:], strict=True)]
        emit.op(node, "upsample_nearest_neighbor", x=x, scale_factor_height=factors[0], scale_factor_width=factors[1])
        return
    rows, columns = (np.arange(after) * before // after for before, after in zip(x.shape[2:], out[2:], strict=True))
    tall = emit.step(node, "gather", (*x.shape[:2], out[2], x.shape[3]), **_picked(x, rows, 2))
    emit.op(node, "gather", **_picked(tall, columns, 3))


def _picked(x: Var, indices: Var | np.ndarray, axis: int) -> dict[str, Given]:
    return {"x": x, "indices": indices, "axis": axis, "batch_dims": 0, "validate_indices": False}


def _gather(emit: Emitter, node: ir.Node) -> None:
    x, ids = emit.operand(node, 0), emit.input(node, 1)
    axis = settings(node).get("axis", 0) % len(x.shape)
    fixed = emit.known(ids)  # ONNX counts from the end below 0, MIL does not
    indices = emit.var(ids, "int32") if fixed is None else np.where(fixed < 0, fixed + x.shape[axis], fixed)
    emit.op(node, "gather", **_picked(x, indices, axis))


def _transpose(emit: Emitter, node: ir.Node) -> None:
    x = emit.operand(node, 0)
    emit.op(node, "transpose", x=x, perm=settings(node).get("perm", list(reversed(range(len(x.shape))))))


def _concat(emit: Emitter, node: ir.Node) -> None:
    parts = [emit.operand(node, index) for index in range(len(node.inputs))]
    axis = settings(node)["axis"] % len(static_shape(node.outputs[0]))
    if len(parts) == 1:
        emit.op(node, "identity", x=parts[0])
    else:
        emit.op(node, "concat", values=parts, axis=axis, interleave=False)


def _split(emit: Emitter, node: ir.Node) -> None:
    x, dtype = emit.operand(node, 0), emit.dtype(node)
    axis = settings(node).get("axis", 0) % len(x.shape)
    parts = [Var(emit.name(out, dtype), static_shape(out), dtype) for out in node.outputs]
    sizes = [part.shape[axis] for part in parts]
    if len(parts) == 1:
        emit.op(node, "identity", x=x)
        return
    emit.program.ops("split", parts[0].name, parts, x=x, split_sizes=sizes, axis=axis)
    for out, part in zip(node.outputs, parts, strict=True):
        emit.bind(out, part)


def _slice(emit: Emitter, node: ir.Node) -> None:
    x = emit.operand(node, 0)
    bounds = [emit.known(value) for value in node.inputs[1:] if value is not None]
    if any(bound is None for bound in bounds):
        raise GraphError("its bounds must be constants.")
    starts, ends, *more = [bound.reshape(-1).tolist() for bound in bounds if bound is not None]
    axes = more[0] if more else list(range(len(starts)))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    if min(steps, default=1) < 1:
        raise GraphError(f"step {min(steps)} is not supported (expected at least 1).")
    ranges = [slice(0, size, 1) for size in x.shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        ranges[axis] = slice(*slice(start, end, step).indices(x.shape[axis]))
    begin, stop, stride = ([getattr(one, key) for one in ranges] for key in ("start", "stop", "step"))
    emit.op(node, "slice_by_index", x=x, begin=begin, end=stop, stride=stride)


def _expand(emit: Emitter, node: ir.Node) -> None:
    x, out = emit.operand(node, 0), static_shape(node.outputs[0])
    padded = (*(1,) * (len(out) - len(x.shape)), *x.shape)
    wide = emit.reshaped(node, x, padded)
    reps = [after // before for before, after in zip(padded, out, strict=True)]
    emit.op(node, "tile", x=wide, reps=reps)


PLAIN: dict[str, Emit] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_VIEWS, _view),
    "Neg": _negative,
    "Cast": _cast,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "Softmax": _softmax,
    "Resize": _resize,
    "Gather": _gather,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Expand": _expand,
}
