"""How each ONNX op becomes kernel calls: `RULES[op_type](lowering, node)`. Shapes in, kernel dimensions out."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx_ir as ir

from ondevice.graph.epilogue import CONV, LINEAR, read
from ondevice.graph.verify import INTEGERS, resizes_by_sizes, static_shape
from ondevice.lower import attention, convolution, fused, linear, moves, pack, winograd
from ondevice.lower.lowering import Lowering
from ondevice.lower.nodes import (
    axis_of,
    constant_of,
    float_of,
    input_of,
    int_of,
    ints_of,
    optional,
    unsupported,
    walk_of,
    word_of,
)
from ondevice.lower.strides import broadcast, contiguous

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
Rule = Callable[[Lowering, ir.Node], None]


def view(low: Lowering, node: ir.Node) -> None:
    """Reshape and its kin: row-major storage does not change."""
    low.view(node.outputs[0], input_of(node, 0))


def cast(low: Lowering, node: ir.Node) -> None:
    """Float to float is a change of storage, which `Lowering.operand` does where it is needed;
    integers stay what they are."""
    source, wanted = input_of(node, 0), node.outputs[0].dtype
    if source.dtype != wanted and not (
        (source.dtype in FLOATS and wanted in FLOATS)
        or (source.dtype in INTEGERS and wanted in (ir.DataType.INT32, ir.DataType.INT64))
    ):
        raise unsupported(node, f"casts from {source.dtype} to {wanted} are not supported.")
    low.view(node.outputs[0], source)


def unary(low: Lowering, node: ir.Node) -> None:
    x = input_of(node, 0)
    low.emit_node(node, [low.operand(x, low.dtype_of(node.outputs[0]))], {"n": prod(static_shape(x))})


def binary(low: Lowering, node: ir.Node) -> None:
    a, b = input_of(node, 0), input_of(node, 1)
    out, dtype = static_shape(node.outputs[0]), low.dtype_of(node.outputs[0])
    dims = walk_of(node, out, a=broadcast(static_shape(a), out), b=broadcast(static_shape(b), out))
    low.emit_node(node, [low.operand(a, dtype), low.operand(b, dtype)], dims)


def matmul(low: Lowering, node: ir.Node) -> None:
    a, b = static_shape(input_of(node, 0)), static_shape(input_of(node, 1))
    if len(a) < 2 or len(b) < 2:
        raise unsupported(node, f"operands of rank {len(a)} and {len(b)} are not supported (expected at least 2).")
    batch, m, k, n = prod(a[:-2]), a[-2], a[-1], b[-1]
    b_batch = prod(b[:-2])
    if b_batch == 1:  # shared right side: the batch is just more rows
        batch, m, a_step, b_step = 1, batch * m, 0, 0
    elif batch == 1:
        batch, a_step, b_step = b_batch, 0, k * n
    elif a[:-2] == b[:-2]:
        a_step, b_step = m * k, k * n
    else:
        raise unsupported(
            node, f"batch dimensions {a[:-2]} and {b[:-2]} are not supported (expected equal, or one side shared)."
        )
    dims = {"batch": batch, "m": m, "n": n, "k": k, "a_batch": a_step, "b_batch": b_step}
    linear.product(low, node, input_of(node, 0), input_of(node, 1), dims)


def gemm(low: Lowering, node: ir.Node) -> None:
    """y = x @ w^T + c. The weight is stored transposed, so that one matmul kernel serves both ops;
    the bias is an Add."""
    x, w, c = input_of(node, 0), input_of(node, 1), optional(node, 2)
    if int_of(node, "transA", 0) or float_of(node, "alpha", 1.0) != 1.0 or float_of(node, "beta", 1.0) != 1.0:
        raise unsupported(node, "only transA=0, alpha=1 and beta=1 are supported.")
    (m, k), out, dtype = static_shape(x), node.outputs[0], low.dtype_of(node.outputs[0])
    n = static_shape(out)[-1]
    if int_of(node, "transB", 0):
        if w.const_value is None:
            raise unsupported(node, f"transB=1 needs a constant weight ({w.name} is computed).")
        weight = low.operand(pack.done(w, "transpose", f"{w.name}.T", perm=(1, 0)), dtype)
    else:
        weight = low.operand(w, dtype)
    product = low.scratch(f"{out.name}:matmul", (m, n), dtype) if c is not None else low.result(out)
    dims = {"batch": 1, "m": m, "n": n, "k": k, "k1": k, "ldb": n, "a_batch": 0, "b_batch": 0} | linear.DENSE
    left = low.operand(x, dtype)
    low.emit("MatMul", str(node.name), [left, left, weight, *[left] * 4], [product], dims, 2 * m * n * k)
    if c is not None:
        walk = walk_of(node, (m, n), a=contiguous((m, n)), b=broadcast(static_shape(c), (m, n)))
        low.emit("Add", str(node.name), [product, low.operand(c, dtype)], [low.result(out)], walk, m * n)


def conv(low: Lowering, node: ir.Node) -> None:
    x, w, bias = input_of(node, 0), input_of(node, 1), optional(node, 2)
    if len(static_shape(x)) != 4:
        raise unsupported(node, f"only 2-D convolutions are supported (got an input of shape {static_shape(x)}).")
    (n, ic, h, width), (oc, wic, kh, kw) = static_shape(x), static_shape(w)
    _, _, oh, ow = static_shape(node.outputs[0])
    strides, pads = ints_of(node, "strides", (1, 1)), ints_of(node, "pads", (0, 0, 0, 0))
    if (
        int_of(node, "group", 1) != 1
        or wic != ic
        or set(ints_of(node, "dilations", (1, 1))) != {1}
        or len(set(strides)) != 1
        or word_of(node, "auto_pad", "NOTSET") != "NOTSET"
    ):
        raise unsupported(
            node,
            "only 2-D convolutions with group 1, dilation 1, one stride for both axes and explicit pads are supported.",
        )
    dtype = low.dtype_of(node.outputs[0])
    shift = low.operand(pack.zeros(oc) if bias is None else bias, dtype)
    sizes = {"n": n, "ic": ic, "h": h, "w": width, "oc": oc, "oh": oh, "ow": ow, "kh": kh, "kw": kw}
    dims = sizes | {"stride": strides[0], "pad_top": pads[0], "pad_left": pads[1]}
    low.emit_node(node, [low.operand(x, dtype), low.operand(w, dtype), shift], dims)


def instance_norm(low: Lowering, node: ir.Node) -> None:
    shape, dtype = static_shape(input_of(node, 0)), low.dtype_of(node.outputs[0])
    dims = {
        "rows": shape[0] * shape[1],
        "cols": prod(shape[2:]),
        "channels": shape[1],
        "epsilon": float_of(node, "epsilon", 1e-5),
    }
    low.emit_node(node, [low.operand(input_of(node, i), dtype) for i in range(3)], dims)


def layer_norm(low: Lowering, node: ir.Node) -> None:
    shape, dtype = static_shape(input_of(node, 0)), low.dtype_of(node.outputs[0])
    if axis_of(node, len(shape), -1) != len(shape) - 1:
        raise unsupported(node, "only the last axis is supported.")
    cols, bias = shape[-1], optional(node, 2)
    for value in (input_of(node, 1), bias):
        if value is not None and (prod(static_shape(value)), static_shape(value)[-1:]) != (cols, (cols,)):
            raise unsupported(
                node, f"its scale or its bias is {static_shape(value)} (expected one number per column: {(cols,)})."
            )
    shift = low.operand(pack.zeros(cols) if bias is None else bias, dtype)
    dims = {"rows": prod(shape[:-1]), "cols": cols, "epsilon": float_of(node, "epsilon", 1e-5)}
    low.emit_node(node, [low.operand(input_of(node, 0), dtype), low.operand(input_of(node, 1), dtype), shift], dims)


def row_mean(low: Lowering, node: ir.Node) -> None:
    shape, out, dtype = static_shape(input_of(node, 0)), static_shape(node.outputs[0]), low.dtype_of(node.outputs[0])
    axes = [int(axis) % len(shape) for axis in constant_of(low, node, 1).reshape(-1)]
    if axes != [len(shape) - 1] or prod(out) != prod(shape[:-1]):
        raise unsupported(node, f"only the last axis is supported (got {axes} of {len(shape)}).")
    low.emit_node(node, [low.operand(input_of(node, 0), dtype)], {"rows": prod(shape[:-1]), "cols": shape[-1]})


def softmax(low: Lowering, node: ir.Node) -> None:
    shape, dtype = static_shape(input_of(node, 0)), low.dtype_of(node.outputs[0])
    if axis_of(node, len(shape), -1) != len(shape) - 1:
        raise unsupported(node, "only the last axis is supported.")
    low.emit_node(node, [low.operand(input_of(node, 0), dtype)], {"rows": prod(shape[:-1]), "cols": shape[-1]})


def resize(low: Lowering, node: ir.Node) -> None:
    shape, out = static_shape(input_of(node, 0)), static_shape(node.outputs[0])
    x = low.operand(input_of(node, 0), low.dtype_of(node.outputs[0]))
    modes = (
        word_of(node, "mode", "nearest"),
        word_of(node, "coordinate_transformation_mode", "half_pixel"),
        word_of(node, "nearest_mode", "round_prefer_floor"),
    )
    if (
        modes != ("nearest", "asymmetric", "floor")
        or len(shape) != 4
        or shape[0] != out[0]
        or (out[1] != shape[1] and out[3] != shape[3])
    ):
        raise unsupported(
            node,
            f"mode {modes} is not supported (expected nearest, asymmetric, floor over two neighbouring axes of four).",
        )
    if not resizes_by_sizes(node):
        raise unsupported(
            node,
            "its scales are not the ratio of its sizes.",
            "export it with sizes, or at sizes that its scales divide",
        )
    if shape[1] == out[1]:
        dims = {"n": shape[0] * shape[1], "h": shape[2], "w": shape[3], "oh": out[2], "ow": out[3]}
        low.emit_node(node, [x], dims)
    else:
        dims = {"n": shape[0], "h": shape[1], "w": shape[2], "c": shape[3], "oh": out[1], "ow": out[2]}
        low.emit_node(node, [x], dims, "ResizeNhwc")


def gather(low: Lowering, node: ir.Node) -> None:
    table, ids = input_of(node, 0), input_of(node, 1)
    shape = static_shape(table)
    if len(shape) != 2 or axis_of(node, 2, 0) != 0:
        raise unsupported(
            node, f"only rows of a matrix are supported (table {shape}, axis {axis_of(node, len(shape), 0)})."
        )
    dims, known = {"count": prod(static_shape(ids)), "rows": shape[0], "cols": shape[1]}, low.constant(ids)
    if known is not None and (known < 0).any():  # from the end; the kernel clamps
        ids = pack.derived(
            f"{ids.name}:of {shape[0]} rows", ids, known.shape, lambda: np.where(known < 0, known + shape[0], known)
        )
    low.emit_node(node, [low.operand(ids, "i32"), low.operand(table, low.dtype_of(node.outputs[0]))], dims)


# What lowers an op that can be computed in several ways, by the first kernel of the way that select.py takes.
CONVOLUTIONS = {
    "conv2d_bands": convolution.banded,
    "conv2d_bf16": convolution.direct,
    "conv2d_nhwc": convolution.direct,
    "conv2d_tiles": convolution.direct,
    "conv2d_waves": convolution.direct,
    "winograd_bf16": winograd.paired,
    "winograd_strips": winograd.strips,
    "winograd_input": winograd.bands,
    "winograd_patches": winograd.bands,
}
ATTENTIONS = {
    "flash_panels": attention.flash_panels,
    **dict.fromkeys(("flash_near", "flash_near_bf16", "flash_rows"), attention.of_few_keys),
    **dict.fromkeys(("flash_attention", "flash_registers", "flash_local"), attention.flash),
    **dict.fromkeys(("attention_scores", "attention_scores_tiles"), attention.partially_fused),
}


def conv_nhwc(low: Lowering, node: ir.Node) -> None:
    conv = convolution.read(low, node)
    way = low.choose("ConvNhwc", str(node.name), conv.choosing(node), int(low.dtype_of(node.outputs[0]) == "f16"))
    CONVOLUTIONS[way.first.name](low, node, conv, way)


def attend(low: Lowering, node: ir.Node) -> None:
    op = attention.read(low, node)
    way = low.choose(node.op_type, str(node.name), op.choosing, int(op.dtype == "f16"))
    ATTENTIONS[way.first.name](low, node, op, way)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Silu", "Gelu", "GeluTanh", "QuickGelu"), unary),
    "SumRanks": fused.sum_ranks,
    "RmsNorm": fused.rms_norm,
    "AdaLayerNorm": fused.ada_layer_norm,
    "GatedAdd": fused.gated_add,
    "GroupNorm": fused.group_norm,
    **dict.fromkeys(("GroupNormNhwc", "ConcatGroupNormNhwc"), fused.group_norm_nhwc),
    "NormalizeNhwc": fused.normalize_nhwc,
    **dict.fromkeys(("SinCos", "CosSin"), fused.sin_cos),
    **dict.fromkeys(LINEAR, linear.linear),
    **dict.fromkeys(CONV, conv_nhwc),
    **dict.fromkeys(("Attention", "MaskedAttention"), attend),
    "Geglu": fused.geglu,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), binary),
    **dict.fromkeys(("Sigmoid", "Erf", "Tanh", "Sin", "Cos", "Sqrt", "Exp", "Neg", "Relu"), unary),
    **dict.fromkeys(("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"), view),
    "Cast": cast,
    "Concat": moves.concat,
    "Conv": conv,
    "Expand": moves.expand,
    "Gather": gather,
    "Gemm": gemm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "MatMul": matmul,
    "ReduceMean": row_mean,
    "Resize": resize,
    "Slice": moves.slice_,
    "Softmax": softmax,
    "Split": moves.split,
    "Transpose": moves.transpose,
}


def rule_of(op: str) -> Rule:
    """What lowers an op, with whatever steps."""
    stepped = read(op)
    return RULES[stepped.base if stepped else op]
