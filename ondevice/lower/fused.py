"""How the fused ops of ondevice.rewrite become kernel calls."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from ondevice.lower.lowering import Lowering
from ondevice.verify import static_shape


def _operands(low: Lowering, node: ir.Node) -> list[str]:
    dtype = low.dtype_of(node.outputs[0])
    return [low.operand(value, dtype) for value in node.inputs if value is not None]


def group_norm(low: Lowering, node: ir.Node) -> None:
    """[n, c, ...], with or without SiLU."""
    batch, channels, *rest = static_shape(node.outputs[0])
    groups, hw = node.attributes["groups"].as_ints()[0], prod(rest)
    per_group = channels // groups
    sizes = {"rows": batch * groups, "cols": per_group * hw, "hw": hw, "channels": channels, "per_group": per_group}
    dims = sizes | {"epsilon": node.attributes["epsilon"].as_float()}
    low.emit_node(node, _operands(low, node), dims, "GroupNorm", {"SILU": int(node.op_type == "GroupNormSilu")})


def geglu(low: Lowering, node: ir.Node) -> None:
    """[..., 2 * cols] -> [..., cols]."""
    shape = static_shape(node.outputs[0])
    low.emit_node(node, _operands(low, node), {"rows": prod(shape[:-1]), "cols": shape[-1]})


def attention(low: Lowering, node: ir.Node) -> None:
    """Tokens stay [n, tokens, heads * d]: heads are strides, so nothing is transposed."""
    (batch, queries, width), values = static_shape(node.outputs[0]), node.inputs[1]
    heads = node.attributes["heads"].as_ints()[0]
    assert values is not None, "verify_graph counts inputs"
    dims = {
        "batch": batch,
        "queries": queries,
        "keys": static_shape(values)[1],
        "heads": heads,
        "scale": node.attributes["scale"].as_float(),
    }
    operands = _operands(low, node)
    if node.op_type == "Attention":
        operands.append(operands[0])  # stands in the mask's place, and is not read there
    low.emit_node(node, operands, dims, defines={"D": width // heads})
