"""How convolutions with the channels last become kernel calls: directly (Winograd's method: winograd.py)."""

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
ACROSS = 64  # pixels of a band of them, at most, in a row
GROUPS = 8  # work-items with scratch of their own, where a target does not say how many


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


def banded(low: Lowering, node: ir.Node, conv: Conv, way: Way) -> None:
    """The same in one command with scratch. Work-item g takes every `groups`-th band of pixels, by some of the channels
    where bands are few, and has a slot for what the band reads, for weights as floats, and for sums."""
    dtype, taps, kernel = low.dtype_of(node.outputs[0]), conv.taps, way.first
    (kh, kw, ic, oc), (n, oh, ow, _) = static_shape(taps), static_shape(node.outputs[0])
    stride = node.attributes["strides"].as_ints()[0]
    sizes = conv.dims | {"n": n, "kh": kh, "kw": kw, "stride": stride}
    tuning = narrowed(low, kernel.name, oc, sizes, dtype)
    right, scales, columns, defines = pack.packed_product(
        low, pack.as_matrix(taps, (kh * kw * ic, oc)), dtype, tuning, conv.x
    )
    bias = pack.packed(low, conv.given["bias"], dtype, tuning)[0] if "bias" in conv.given else conv.x

    v, wide = tuning["V"], tuning["V"] * tuning["NV"]
    band_w = -(-ow // -(-ow // ACROSS))
    band_h = min(oh, max(1, tuning["BAND"] // band_w))
    bands_h, bands_w, depth = -(-oh // band_h), -(-ow // band_w), depth_of(ic, tuning["DEPTH"], v)
    window = ((band_h - 1) * stride + kh) * ((band_w - 1) * stride + kw) * (depth + v)
    widened = kh * kw * depth * wide if dtype == "f16" or conv.quantized else 0
    per_panel = (band_h * band_w + tuning["MR"]) * wide  # sums
    panels, bands, groups = columns // wide, n * bands_h * bands_w, low.target.winograd.get("groups", GROUPS)
    chunk = panels if bands >= groups else -(-panels * bands // groups)
    room = (low.target.scratch // (groups * DTYPES["f32"]) - window - widened) // per_panel
    chunk = min(chunk, max(1, room))
    groups = min(groups, bands * -(-panels // chunk))
    slot = window + widened + chunk * per_panel

    scratch = low.scratch(f"{node.name}:scratch", (groups, slot), "f32")
    sizes |= {"bands_h": bands_h, "bands_w": bands_w, "band_h": band_h, "band_w": band_w, "depth": depth}
    sizes |= {"panels": panels, "chunk": chunk, "groups": groups, "window": window, "widened": widened, "slot": slot}
    built = of(node.op_type).defines | {"RAGGED": int(oc % v > 0)} | kernel.asked(defines)
    operands = [conv.x, right, bias, conv.shift, conv.residual, scales]
    low.emit_node(node, operands, sizes, "ConvNhwc", Build(built, tuning, kernel=kernel, scratch=scratch))


def depth_of(ic: int, most: int, v: int) -> int:
    """Channels at a time: at most about `most`, and such that the last part has a vector, too."""
    for parts in range(-(-ic // most), 1, -1):
        depth = -(-ic // parts // v) * v
        if ic - (parts - 1) * depth >= v:
            return depth
    return ic
