"""What becomes of our fused ops."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ondevice.export.coreml.emitter import Emitter
from ondevice.export.coreml.plain_ops import Emit, linear
from ondevice.export.coreml.program import Var
from ondevice.graph.epilogue import of
from ondevice.graph.verify import static_shape
from ondevice.rewrite.rule import settings

_GELU = {"Gelu": "EXACT", "GeluTanh": "TANH_APPROXIMATION", "QuickGelu": "SIGMOID_APPROXIMATION"}


def _silu(emit: Emitter, node: ir.Node) -> None:
    emit.op(node, "silu", x=emit.operand(node, 0))


def _gelu(emit: Emitter, node: ir.Node) -> None:
    emit.op(node, "gelu", x=emit.operand(node, 0), mode=_GELU[node.op_type])


def _geglu(emit: Emitter, node: ir.Node) -> None:
    x, shape = emit.operand(node, 0), static_shape(node.outputs[0])
    names = [emit.program.fresh(f"{x.name}_{part}") for part in ("value", "gate")]
    parts = [Var(name, shape, x.dtype) for name in names]
    value, gate = emit.program.ops("split", names[0], parts, x=x, num_splits=2, axis=len(shape) - 1)
    emit.op(node, "mul", x=value, y=emit.step(node, "gelu", shape, x=gate, mode="EXACT"))


def _linear(emit: Emitter, node: ir.Node) -> None:
    linear(emit, node, emit.operand(node, 0), emit.input(node, 1), emit.input(node, 2))


def _group_norm(emit: Emitter, node: ir.Node) -> None:
    """There is no such op: a layer norm over each group as one row, then a scale and a bias per channel."""
    x, given, dtype = emit.operand(node, 0), settings(node), emit.dtype(node)
    batch, channels, *sides = x.shape
    groups, pixels = given["groups"][0], math.prod(sides)
    rows = emit.reshaped(node, x, (batch, groups, channels // groups * pixels))
    epsilon = emit.epsilon(given["epsilon"], dtype)
    normal = emit.step(node, "layer_norm", rows.shape, x=rows, axes=[2], epsilon=epsilon)
    wide = emit.reshaped(node, normal, x.shape)
    per_channel = (1, channels, *(1,) * len(sides))
    scale, bias = (
        emit.constant(emit.input(node, index), dtype, lambda array: np.reshape(array, per_channel), ".channels")
        for index in (1, 2)
    )
    scaled = emit.step(node, "mul", x.shape, x=wide, y=scale)
    if of(node.op_type).activation:
        emit.op(node, "silu", x=emit.step(node, "add", x.shape, x=scaled, y=bias))
    else:
        emit.op(node, "add", x=scaled, y=bias)


def _attention(emit: Emitter, node: ir.Node) -> None:
    """Heads apart, the queries scaled before the product, where float16 has more room than after it."""
    given, dtype, shape = settings(node), emit.dtype(node), static_shape(node.outputs[0])
    heads = given["heads"][0]
    width = shape[2] // heads

    def apart(index: int) -> Var:
        x = emit.operand(node, index)
        batch, tokens, _ = x.shape
        rows = emit.reshaped(node, x, (batch, tokens, heads, width))
        return emit.step(node, "transpose", (batch, heads, tokens, width), x=rows, perm=[0, 2, 1, 3])

    q, k, v = (apart(index) for index in range(3))
    mask = emit.operand(node, 3) if node.op_type == "MaskedAttention" else None
    if emit.ios >= 18:
        factor = given["scale"] * math.sqrt(width)  # what is left beside the op's own scale
        if abs(factor - 1) > 1e-6:
            q = emit.step(node, "mul", q.shape, x=q, y=emit.number(factor, dtype))
        masked = {} if mask is None else {"attn_mask": mask}
        kind = "scaled_dot_product_attention"
        mixed = emit.step(node, kind, q.shape, query=q, key=k, value=v, **masked)
    else:
        q = emit.step(node, "mul", q.shape, x=q, y=emit.number(given["scale"], dtype))
        square = (*q.shape[:3], k.shape[2])
        scores = emit.step(node, "matmul", square, x=q, y=k, transpose_x=False, transpose_y=True)
        if mask is not None:
            scores = emit.step(node, "add", square, x=scores, y=mask)
        shares = emit.step(node, "softmax", square, x=scores, axis=-1)
        mixed = emit.step(node, "matmul", q.shape, x=shares, y=v, transpose_x=False, transpose_y=False)
    batch, _, tokens, _ = mixed.shape
    together = emit.step(node, "transpose", (batch, tokens, heads, width), x=mixed, perm=[0, 2, 1, 3])
    emit.op(node, "reshape", x=together, shape=list(shape))


def _angles(emit: Emitter, node: ir.Node) -> None:
    times, rates = emit.operand(node, 0), emit.operand(node, 1)
    shape = (times.shape[0], rates.shape[-1])
    angle = emit.step(node, "mul", shape, x=times, y=rates)
    parts = {kind: emit.step(node, kind, shape, x=angle) for kind in ("sin", "cos")}
    order = ("sin", "cos") if node.op_type == "SinCos" else ("cos", "sin")
    emit.op(node, "concat", values=[parts[kind] for kind in order], axis=1, interleave=False)


FUSED: dict[str, Emit] = {
    "Silu": _silu,
    **dict.fromkeys(_GELU, _gelu),
    "Geglu": _geglu,
    "LinearBias": _linear,
    **dict.fromkeys(("GroupNorm", "GroupNormSilu"), _group_norm),
    **dict.fromkeys(("Attention", "MaskedAttention"), _attention),
    **dict.fromkeys(("SinCos", "CosSin"), _angles),
}
