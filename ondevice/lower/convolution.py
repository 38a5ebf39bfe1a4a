"""How convolutions with the channels last become kernel calls: product by product (Winograd's method: winograd.py)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ondevice.graph.epilogue import of
from ondevice.graph.verify import static_shape
from ondevice.lower import pack, pairs
from ondevice.lower.linear import narrowed
from ondevice.lower.lowering import Build, Lowering
from ondevice.lower.program import DTYPES
from ondevice.lower.select import Way

TILE = 4  # pixels per side that a Winograd tile makes of 6 by 6
TRANSFORMED = 36  # values that become of nine taps
# Bytes that they may take between kernels: those of 512 by 512 channels do in half, and larger ones would raise the
# arena of a step of SD 1.4 by half.
TAPS_ROOM = 20 << 20


@dataclass(frozen=True, slots=True)
class Conv:
    """The operands of a ConvNhwc; `x` stands in for what is not there, and is not read."""

    given: dict[str, ir.Value]
    x: str
    shift: str
    residual: str
    dims: dict[str, int]  # what every way needs of sizes and steps
    taps: ir.Value  # [kh, kw, ic, oc]
    quantized: bool  # whether they are stored in fewer bits than activations
    cramped: bool  # whether they are, and have no room to be transformed in

    @property
    def n(self) -> int:
        """Pictures."""
        return static_shape(self.given["x"])[0]

    def choosing(self, node: ir.Node) -> dict[str, int]:
        """What a way is chosen by."""
        kh, kw = static_shape(self.taps)[:2]
        tiles = self.n * -(-self.dims["oh"] // TILE) * -(-self.dims["ow"] // TILE)
        return self.dims | {
            "n": self.n,
            "kh": kh,
            "kw": kw,
            "stride": node.attributes["strides"].as_ints()[0],
            "tiles": tiles,
            "cramped": int(self.cramped),
        }


def read(low: Lowering, node: ir.Node) -> Conv:
    """The operands and sizes of a ConvNhwc."""
    stepped, dtype = of(node.op_type), low.dtype_of(node.outputs[0])
    given = {name: value for name, value in zip(stepped.operands, node.inputs, strict=True) if value is not None}
    (_, h, w, ic), (_, oh, ow, oc) = static_shape(given["x"]), static_shape(node.outputs[0])
    pads, x = node.attributes["pads"].as_ints(), low.operand(given["x"], dtype)
    up_h, up_w = node.attributes["sizes"].as_ints()[2:] if stepped.base == "UpConvNhwc" else (h, w)
    shift, shift_from, shift_row = low.strided(given["shift"], dtype) if "shift" in given else (x, 0, 0)
    residual = low.operand(given["residual"], dtype) if "residual" in given else x
    sizes = {"ic": ic, "h": h, "w": w, "oc": oc, "oh": oh, "ow": ow, "up_h": up_h, "up_w": up_w}
    steps = {"pad_top": pads[0], "pad_left": pads[1], "shift_from": shift_from, "shift_row": shift_row}
    taps = given["weight"]
    kh, kw = static_shape(taps)[:2]
    quantized = pack.scheme_of(low, (kh * kw * ic, oc)) is not None
    cramped = quantized and TRANSFORMED * ic * oc * DTYPES[dtype] > TAPS_ROOM
    return Conv(given, x, shift, residual, sizes | steps, taps, quantized, cramped)


def direct(low: Lowering, node: ir.Node, conv: Conv, way: Way) -> None:
    """[n, h, w, ic] -> [n, oh, ow, oc], from a larger picture that is never made where `sizes` is given."""
    dtype, taps = low.dtype_of(node.outputs[0]), conv.taps
    kh, kw, ic, oc = static_shape(taps)
    dims = conv.dims | {"n": conv.n, "kh": kh, "kw": kw, "stride": node.attributes["strides"].as_ints()[0]}
    tuning = narrowed(low, way.first.name, oc, dims, dtype)
    right, scales, columns, defines = pack.packed_product(
        low, pack.as_matrix(taps, (kh * kw * ic, oc)), dtype, tuning, conv.x
    )
    bias = pack.packed(low, conv.given["bias"], dtype, tuning)[0] if "bias" in conv.given else conv.x
    named = {"x": conv.x, "weight": right, "bias": bias, "shift": conv.shift, "residual": conv.residual}
    named |= {"scales": scales} | pack.stage(low, way.first, dtype)
    operands = [named[name] for name in way.first.inputs]
    built = of(node.op_type).defines | way.first.asked(defines | {"RAGGED": int(ic % tuning["V"] > 0)})
    dims = dims | {"ldb": columns}
    shared, scratch = pairs.convolution(low, str(node.name), way.first, tuning, dims)
    low.emit_node(node, operands, dims | shared, "ConvNhwc", Build(built, tuning, kernel=way.first, scratch=scratch))
