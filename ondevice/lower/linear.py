"""How products become kernel calls: MatMul, and the Linear family with all that it does to a result as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_ir as ir

from ondevice.lower.lowering import Lowering
from ondevice.ops import LINEAR, Epilogue
from ondevice.verify import static_shape


def epilogue_defines(epilogue: Epilogue) -> dict[str, int]:
    """What a kernel is built with to finish its result so."""
    flags = {"HAS_BIAS": epilogue.bias, "HAS_SHIFT": epilogue.shift, "HAS_ADD": epilogue.add}
    return {name: 1 for name, have in flags.items() if have} | ({f"ACT_{epilogue.activation}": 1} if epilogue.activation else {})


def product(low: Lowering, node: ir.Node, a: ir.Value, b: ir.Value, dims: Mapping[str, int]) -> None:
    """a @ b. A constant b that is narrower than a vector is stored wider, so that it is read in vectors, too."""
    dtype, lanes = low.dtype_of(node.outputs[0]), low.tuning("matmul")["V"]
    left = low.operand(a, dtype)
    right = low.padded(b, lanes, dtype) if b.const_value is not None and dims["b_batch"] == 0 else low.operand(b, dtype)
    columns = low.program.tensors[right].shape[-1]
    low.emit_node(node, [left, left, right, left, left], {**dims, "k1": dims["k"], "ldb": columns}, "MatMul")


def linear(low: Lowering, node: ir.Node) -> None:
    """[..., k] or two parts of it, with whatever follows the product."""
    epilogue, out = LINEAR[node.op_type], static_shape(node.outputs[0])
    given = {name: value for name, value in zip(epilogue.operands, node.inputs, strict=True) if value is not None}
    dtype, lanes = low.dtype_of(node.outputs[0]), low.tuning("matmul")["V"]
    columns = out[-1] if epilogue.activation == "Geglu" else lanes  # GEGLU's two halves cannot be padded as one
    x, weight = low.operand(given["x"], dtype), low.padded(given["weight"], columns, dtype)
    k1, (k, ldb) = static_shape(given["x"])[-1], low.program.tensors[weight].shape
    operands = [
        x,
        low.operand(given["x2"], dtype) if "x2" in given else x,
        weight,
        low.padded(given["bias"], columns, dtype) if "bias" in given else x,  # x stands in for what is not there, and is not read
        low.operand(given["residual"], dtype) if "residual" in given else x,
    ]
    dims = {"batch": 1, "m": prod(out[:-1]), "n": out[-1], "k": k, "k1": k1, "ldb": ldb, "a_batch": 0, "b_batch": 0}
    low.emit_node(node, operands, dims, "Linear", epilogue_defines(epilogue))
