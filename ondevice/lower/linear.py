"""How products become kernel calls: MatMul, the Linear and the ConvNhwc family with all that they do to a result as they store it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_ir as ir

from ondevice.lower.lowering import Lowering
from ondevice.ops import CONV, LINEAR, Epilogue
from ondevice.verify import static_shape


def _defines(epilogue: Epilogue) -> dict[str, int]:
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
    low.emit_node(node, operands, dims, "Linear", _defines(epilogue))


def conv_nhwc(low: Lowering, node: ir.Node) -> None:
    """[n, h, w, ic] -> [n, oh, ow, oc], from a larger picture that is never made where `sizes` is given."""
    epilogue = CONV[node.op_type]
    given = {name: value for name, value in zip(epilogue.operands, node.inputs, strict=True) if value is not None}
    (n, h, w, ic), (_, oh, ow, oc), (kh, kw, _, _) = (static_shape(v) for v in (given["x"], node.outputs[0], given["weight"]))
    dtype, lanes = low.dtype_of(node.outputs[0]), low.tuning("conv2d_nhwc")["V"]
    strides, pads = node.attributes["strides"].as_ints(), node.attributes["pads"].as_ints()
    up = node.attributes["sizes"].as_ints()[2:] if epilogue.prefix == "Up" else (h, w)
    x, weight = low.operand(given["x"], dtype), low.padded(given["weight"], lanes, dtype)
    shift, shift_from = x, 0
    if "shift" in given:
        shift, shift_from, row = low.strided(given["shift"], dtype)
        rows = prod(static_shape(given["shift"])[:-1])
    operands = [
        x,
        weight,
        low.padded(given["bias"], lanes, dtype) if "bias" in given else x,
        shift,
        low.operand(given["residual"], dtype) if "residual" in given else x,
    ]
    sizes = {"n": n, "ic": ic, "h": h, "w": w, "oc": oc, "ldb": low.program.tensors[weight].shape[-1], "oh": oh, "ow": ow}
    steps = {"kh": kh, "kw": kw, "stride": strides[0], "pad_top": pads[0], "pad_left": pads[1], "up_h": up[0], "up_w": up[1]}
    shifts = {"shift_from": shift_from, "shift_row": row if "shift" in given and rows > 1 else 0}
    low.emit_node(node, operands, sizes | steps | shifts, "ConvNhwc", _defines(epilogue))
