"""How convolutions with the channels last become kernel calls: directly, or by Winograd's F(4x4, 3x3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ondevice.lower.linear import epilogue_defines, narrowed, weight
from ondevice.lower.lowering import Lowering
from ondevice.lower.program import DTYPES
from ondevice.ops import CONV
from ondevice.verify import static_shape

CHUNK = 1 << 17  # pairs of channels that are transformed at once
TILE = 4  # pixels a side that a Winograd tile makes of 6 by 6
_P, _Q = 0.5**0.5, 2**0.5
# Weights to the space of the points 0, +-1/sqrt 2, +-sqrt 2, infinity: G w G^T. The kernels' transforms are of the same points.
G = np.array(
    [[1, 0, 0], [-2 / 3, -2 / 3 * _P, -1 / 3], [-2 / 3, 2 / 3 * _P, -1 / 3], [1 / 6, _Q / 6, 1 / 3], [1 / 6, -_Q / 6, 1 / 3], [0, 0, 1]]
)


@dataclass(frozen=True, slots=True)
class _Conv:
    """The operands of a ConvNhwc; `x` stands in for what is not there, and is not read."""

    given: dict[str, ir.Value]
    x: str
    shift: str
    residual: str
    dims: dict[str, int]  # what both methods need of sizes and steps


def _read(low: Lowering, node: ir.Node) -> _Conv:
    epilogue, dtype = CONV[node.op_type], low.dtype_of(node.outputs[0])
    given = {name: value for name, value in zip(epilogue.operands, node.inputs, strict=True) if value is not None}
    (_, h, w, ic), (_, oh, ow, oc) = static_shape(given["x"]), static_shape(node.outputs[0])
    pads, x = node.attributes["pads"].as_ints(), low.operand(given["x"], dtype)
    up_h, up_w = node.attributes["sizes"].as_ints()[2:] if epilogue.prefix == "Up" else (h, w)
    shift, shift_from, shift_row = low.strided(given["shift"], dtype) if "shift" in given else (x, 0, 0)
    residual = low.operand(given["residual"], dtype) if "residual" in given else x
    sizes = {"ic": ic, "h": h, "w": w, "oc": oc, "oh": oh, "ow": ow, "up_h": up_h, "up_w": up_w}
    steps = {"pad_top": pads[0], "pad_left": pads[1], "shift_from": shift_from, "shift_row": shift_row}
    return _Conv(given, x, shift, residual, sizes | steps)


def direct(low: Lowering, node: ir.Node) -> None:
    """[n, h, w, ic] -> [n, oh, ow, oc], from a larger picture that is never made where `sizes` is given."""
    conv, dtype, taps = _read(low, node), low.dtype_of(node.outputs[0]), node.inputs[1]
    assert taps is not None, "verify_graph counts inputs"
    kh, kw, ic, oc = static_shape(taps)
    dims = conv.dims | {"n": static_shape(node.outputs[0])[0], "kh": kh, "kw": kw, "stride": node.attributes["strides"].as_ints()[0]}
    tuning = narrowed(low, "conv2d_nhwc", oc, dims, dtype)
    right, columns, defines = weight(low, low.as_matrix(taps, (kh * kw * ic, oc)), dtype, tuning)
    bias = weight(low, conv.given["bias"], dtype, tuning)[0] if "bias" in conv.given else conv.x
    operands = [conv.x, right, bias, conv.shift, conv.residual]
    defines |= {"RAGGED": int(ic % tuning["V"] > 0)}
    low.emit_node(node, operands, dims | {"ldb": columns}, "ConvNhwc", epilogue_defines(CONV[node.op_type]) | defines, tuning)


def winograd(low: Lowering, node: ir.Node) -> None:
    """The same by 36 products a tile of 4x4 pixels; as many tiles at a time as the target's scratch holds."""
    taps = node.inputs[1]
    assert taps is not None, "verify_graph counts inputs"
    (n, oh, ow, oc), (_, _, ic, _) = static_shape(node.outputs[0]), static_shape(taps)
    if min(ic, oc) < (lanes := max(low.tuning(kernel)["V"] for kernel in ("winograd_input", "winograd_output"))):
        low.program.fallbacks.append(
            f"{low.component}: {node.name} has too few channels for Winograd (got {min(ic, oc)}, expected {lanes})"
        )
        direct(low, node)
        return
    conv, dtype, out = _read(low, node), low.dtype_of(node.outputs[0]), node.outputs[0]
    tiles_h, tiles_w = -(-oh // TILE), -(-ow // TILE)
    tiles = n * tiles_h * tiles_w
    tuning = narrowed(low, "matmul", oc)
    right, columns, defines = weight(low, _transformed(low, taps), dtype, tuning)
    bias = low.operand(conv.given["bias"], dtype) if "bias" in conv.given else conv.x
    result, name = low.result(out), str(node.name)
    bands = -(-tiles * 36 * (ic + oc) * DTYPES[dtype] // low.target.scratch)
    band = -(-tiles // bands)
    for first in range(0, tiles, band):
        count = min(band, tiles - first)
        patches = low.scratch(f"{name}:patches.{first}", (36, count, ic), dtype)
        products = low.scratch(f"{name}:products.{first}", (36, count, oc), dtype)
        part = {t: low.program.tensors[t].nbytes * count // tiles for t in (conv.x, conv.residual, result)}
        sizes = conv.dims | {"tiles_h": tiles_h, "tiles_w": tiles_w, "first": first, "count": count}
        low.emit("WinogradInput", name, [conv.x], [patches], sizes, count * ic * 144, touched=part)
        dims = {"batch": 36, "m": count, "n": oc, "k": ic, "k1": ic, "ldb": columns, "a_batch": count * ic, "b_batch": ic * columns}
        low.emit(
            "MatMul", name, [patches, patches, right, patches, patches], [products], dims, 72 * count * ic * oc, defines, tuning=tuning
        )
        optional = {"bias": bias, "shift": conv.shift, "residual": conv.residual}
        operands = [products, *(tensor if operand in conv.given else products for operand, tensor in optional.items())]
        low.emit("WinogradOutput", name, operands, [result], sizes, count * oc * 120, epilogue_defines(CONV[node.op_type]), part)


def _transformed(low: Lowering, taps: ir.Value) -> ir.Value:
    """[3, 3, ic, oc] -> [36, ic, oc], when the bundle is written."""
    values, (_, _, ic, oc) = taps.const_value, static_shape(taps)
    assert values is not None, "only constant weights become convolutions of ours"

    def make() -> np.ndarray:
        given, made, both = values.numpy().reshape(9, -1), np.empty((36, ic * oc), np.float32), np.kron(G, G)
        for start in range(0, ic * oc, CHUNK):  # in float64, a part at a time: the whole of a large weight would take a gigabyte
            made[:, start : start + CHUNK] = both @ given[:, start : start + CHUNK].astype(np.float64)
        return made.reshape(36, ic, oc)

    return low.derived(f"{taps.name}:winograd", taps, (36, ic, oc), make)
