"""Winograd's F(4x4, 3x3) for convolutions with the channels last: 36 products per tile of 4x4 pixels in place of 144.

In one command or two (`strips`, and `paired` in bf16) on targets whose work-items have a cache of their own; in three
(`bands`) where groups of work-items share the work of each: patches, products, pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ondevice.graph.epilogue import of
from ondevice.graph.verify import static_shape
from ondevice.lower import pack, pairs
from ondevice.lower.convolution import GROUPS, TILE, TRANSFORMED, Conv, depth_of
from ondevice.lower.linear import DENSE, narrowed
from ondevice.lower.lowering import Build, Lowering
from ondevice.lower.program import DTYPES
from ondevice.lower.select import Way

NARROW = 32  # channels out that one work-item makes all of
FEW = 4  # work-items that a convolution in bf16 has room and tasks for, at least: each makes its patches once
LINE = 16  # elements between planes and rows, which would share few sets of a cache


def strips(low: Lowering, node: ir.Node, conv: Conv, way: Way) -> None:
    """One command, or two for each band of tiles. Work-item g takes every `groups`-th strip of tiles, by some of the
    channels out where strips are few, and has a slot of scratch for it."""
    taps, dtype = conv.taps, low.dtype_of(node.outputs[0])
    (n, oh, ow, oc), ic = static_shape(node.outputs[0]), conv.dims["ic"]
    tiles_h, tiles_w = -(-oh // TILE), -(-ow // TILE)
    tiles, groups, sizes = n * tiles_h * tiles_w, low.target.winograd.get("groups", GROUPS), conv.dims | {"n": n}
    few = low.tuning("winograd_strips", sizes, dtype)
    # Where many strips read them from the shared cache, and a strip of all channels fits a slot. Floats take longer to
    # read, so that they pay where there are 16 times as many.
    fits = (
        max(groups * 36 * few["STRIP"] * (ic + few["V"]) * DTYPES["f32"], 36 * ic * oc * DTYPES[dtype])
        <= low.target.scratch
    )
    # few bits have none for transformed taps, and few bytes to save reads of
    enough = low.target.winograd.get("stored", 1 << 31) * (1 if dtype == "f16" else 16)
    stored = not conv.quantized and fits and tiles_h * tiles_w >= enough
    tuning = narrowed(low, "winograd_strips", oc, sizes | {"FLY": int(not stored)}, dtype)
    if tiles < tuning["MR"]:
        tuning["MR"] = min(mr for mr in low.kernels["winograd_strips"].header["tune"]["MR"] if mr >= min(tiles, 4))
    right = pack.as_matrix(_transformed(taps), (36 * ic, oc)) if stored else pack.as_matrix(taps, (9 * ic, oc))
    right_name, scales, columns, more = pack.packed_product(low, right, dtype, tuning, conv.x)
    bias = pack.packed(low, conv.given["bias"], dtype, tuning)[0] if "bias" in conv.given else conv.x

    v, wide = tuning["V"], tuning["V"] * tuning["NV"]
    panels, most = columns // wide, low.target.scratch // DTYPES["f32"] * 4 // 5  # pixels are in that cache, too
    split = _split(tiles, ic, oc, groups, most, tuning, stored)
    defines = of(node.op_type).defines | {"FLY": int(not stored), "RAGGED": int(oc % v > 0), "GIVEN": int(split.given)}
    defines |= {name: on for name, on in more.items() if name != "PANELS"}
    result, name = low.result(node.outputs[0]), str(node.name)
    sizes |= {"tiles_h": tiles_h, "tiles_w": tiles_w, "strip": split.strip, "block": split.block}
    sizes |= {"panels": panels, "slot": split.slot}
    for begun in range(0, tiles, split.band):
        count = min(split.band, tiles - begun)
        strips_of = -(-count // split.strip)
        chunk = panels if strips_of >= groups or not split.given else -(-panels * strips_of // groups)
        at_once = min(groups, strips_of * -(-panels // chunk))
        dims = sizes | {"begun": begun, "tiles": count, "chunk": chunk, "groups": at_once}
        part = _touched(low, (conv.x, conv.residual, result), count, tiles)
        patches = conv.x
        if split.given:
            patches = low.scratch(f"{name}:patches.{begun}", (strips_of, split.patches), "f32")
            before = low.choose("WinogradBlocks", name, dims, int(dtype == "f16")).first
            made = low.tuning(before.name, dims, dtype) | {"V": v}  # planes are as far apart as the other reads them
            build = Build(tuning=made, touched=part, kernel=before)
            low.emit("ConvNhwc", name, [conv.x], [patches], dims, count * ic * 144, build)
            part[conv.x] = 0
        scratch = low.scratch(f"{name}:scratch.{begun}", (at_once, split.slot), "f32")
        operands = [conv.x, right_name, bias, conv.shift, conv.residual, scales, patches]
        flops = count * (72 * ic * oc + oc * 120) + (0 if split.given else count * ic * 144)
        flops += 0 if stored else strips_of * ic * oc * 84
        touched = part | {scratch: 0}  # written and read by one work-item: it is not traffic
        low.emit("ConvNhwc", name, operands, [result, scratch], dims, flops, Build(defines, tuning, touched, way.first))


@dataclass(frozen=True, slots=True)
class Split:
    """How the tiles of a convolution are shared out: sizes as winograd_strips has them, in tiles, channels and floats.

    `given`: patches, `patches` floats a strip, are made by a command of their own, and `band` tiles go through both
    commands at a time.
    """

    given: bool
    band: int
    strip: int
    block: int
    patches: int
    slot: int


def _split(tiles: int, ic: int, oc: int, groups: int, most: int, tuning: Mapping[str, int], stored: bool) -> Split:
    """`most`: floats of scratch."""
    v, mr, wide = tuning["V"], tuning["MR"], tuning["V"] * tuning["NV"]
    block = ic if stored else depth_of(ic, tuning["DEPTH"], v)
    tapped = 0 if stored else 36 * (block * wide + v)

    def patches(strip: int) -> int:
        return -(-ic // block) * 36 * (strip * (block + v * stored) + v)

    def slot(strip: int) -> int:
        return 36 * (strip * wide + v) + tapped

    strip = _whole(min(tuning["STRIP"], tiles), mr)
    alone = stored or oc <= NARROW or (tiles >= groups * strip and groups * (patches(strip) + slot(strip)) <= most)
    if alone:
        return Split(False, tiles, strip, block, 0, patches(strip) + slot(strip))
    # The more tiles a strip has, the fewer times taps are transformed: all work-items read the same patches.
    while strip > mr and patches(strip) + groups * slot(strip) > most:
        strip -= mr
    at_once = max(1, (most - groups * slot(strip)) // patches(strip))
    share = -(-tiles // -(-tiles // (strip * at_once)))  # bands are of about one size, and so are their strips
    strips_of = -(-share // strip)
    strip = _whole(-(-share // strips_of), mr)
    return Split(True, strip * strips_of, strip, block, patches(strip), slot(strip))


def paired(low: Lowering, node: ir.Node, conv: Conv, way: Way) -> None:
    """The same with products in bf16, and taps as a checkpoint has them: transformed by a strip as they are read."""
    taps, dtype = conv.taps, low.dtype_of(node.outputs[0])
    (n, oh, ow, oc), ic = static_shape(node.outputs[0]), conv.dims["ic"]
    tiles_h, tiles_w = -(-oh // TILE), -(-ow // TILE)
    tiles, sizes = n * tiles_h * tiles_w, conv.dims | {"n": n}
    tuning = low.tuning(way.first.name, sizes, dtype)
    v, wide = tuning["V"], tuning["V"] * tuning["NV"]
    right = pack.as_matrix(taps, (9 * ic, oc))
    right_name, scales, columns, more = pack.packed_product(low, right, dtype, tuning, conv.x)
    bias = pack.packed(low, conv.given["bias"], dtype, tuning)[0] if "bias" in conv.given else conv.x

    count, panels = -(-tiles // tuning["STRIP"]), columns // wide
    strip = min(tiles, _whole(-(-tiles // count), pairs.BLOCKS[0]))
    room, most = max(_whole(strip, block) for block in pairs.BLOCKS), low.target.scratch // DTYPES["f32"]
    product, tapped = 36 * (room * wide + LINE), 12 * (tuning["DEPTH"] // 2 * wide + LINE)

    def patches(depth: int) -> int:
        return 36 * (room * (depth // 2 + LINE) + LINE)

    depth = ic
    if patches(ic) + tapped + product > most // FEW:
        # Not all channels of a strip at once: patches are made for each `share` of the panels, and share its room.
        while depth > pairs.TERMS and patches(depth) > most // FEW // 2:
            depth -= pairs.TERMS
        depth = _whole(-(-ic // -(-ic // depth)), pairs.TERMS)
    fits = (most // FEW - patches(depth) - tapped) // product
    share = 1 if depth == ic else max(1, min(tuning["SHARE"] // wide, panels, fits))
    chunk = max(share, -(-panels // -(-FEW // count)))
    slot = patches(depth) + tapped + share * product
    tasks, at_once = count * -(-panels // chunk), low.target.winograd.get("groups", GROUPS)
    groups = min(at_once, tasks, max(1, most // slot))
    result = low.result(node.outputs[0])
    scratch = low.scratch(f"{node.name}:scratch", (groups, slot), "f32")
    sizes |= {"tiles_h": tiles_h, "tiles_w": tiles_w, "tiles": tiles, "strip": strip, "room": room, "depth": depth}
    sizes |= {"panels": panels, "share": share, "chunk": chunk, "groups": groups, "slot": slot}
    built = of(node.op_type).defines | {"RAGGED": int(oc % v > 0)} | way.first.asked(more)
    operands = [conv.x, right_name, bias, conv.shift, conv.residual, scales]
    flops = tiles * (ic * 144 + 72 * ic * oc + oc * 120) + count * ic * oc * 84
    build = Build(built, tuning, {scratch: 0}, way.first)  # written and read by one work-item: it is not traffic
    low.emit("ConvNhwc", str(node.name), operands, [result, scratch], sizes, flops, build)


def _touched(low: Lowering, pictures: Iterable[str], count: int, tiles: int) -> dict[str, int]:
    """Bytes that a band of `count` of `tiles` reads or writes of each."""
    return {t: low.program.tensors[t].nbytes * count // tiles for t in pictures}


def _whole(count: int, of: int) -> int:
    return -(-count // of) * of


def bands(low: Lowering, node: ir.Node, conv: Conv, way: Way) -> None:
    """Three commands, of which the second is a product; as many tiles at a time as the target's scratch holds."""
    taps, dtype, out = conv.taps, low.dtype_of(node.outputs[0]), node.outputs[0]
    n, oh, ow, oc = static_shape(out)
    ic, (before, after) = conv.dims["ic"], way.kernels
    tiles_h, tiles_w = -(-oh // TILE), -(-ow // TILE)
    tiles = n * tiles_h * tiles_w
    result, name = low.result(out), str(node.name)
    parts = -(-tiles * TRANSFORMED * (ic + oc) * DTYPES[dtype] // low.room(node))
    band = -(-tiles // parts)
    products_of = {"batch": 36, "m": band, "n": oc, "k": ic, "k1": ic, "constant": 1, "rows": tiles, **DENSE}
    multiply = low.choose("MatMul", name, products_of, int(dtype == "f16")).first
    tuning = narrowed(low, multiply.name, oc)
    if conv.quantized:
        right, columns, defines = _transformed_here(low, node, conv, tuning)
    else:
        right, columns, defines = pack.packed(low, _transformed(taps), dtype, tuning)
    built = multiply.asked(defines)
    bias = low.operand(conv.given["bias"], dtype) if "bias" in conv.given else conv.x
    for first in range(0, tiles, band):
        count = min(band, tiles - first)
        patches = low.scratch(f"{name}:patches.{first}", (36, count, ic), dtype)
        products = low.scratch(f"{name}:products.{first}", (36, count, oc), dtype)
        part = _touched(low, (conv.x, conv.residual, result), count, tiles)
        sizes = conv.dims | {"tiles_h": tiles_h, "tiles_w": tiles_w, "first": first, "count": count}
        low.emit("ConvNhwc", name, [conv.x], [patches], sizes, count * ic * 144, Build(touched=part, kernel=before))
        dims = products_of | {"m": count, "ldb": columns, "a_batch": count * ic, "b_batch": ic * columns}
        dims |= {"y_batch": count * oc}
        named = dict.fromkeys(multiply.inputs, patches) | {"b": right} | pack.stage(low, multiply, dtype)
        inputs, build = [named[operand] for operand in multiply.inputs], Build(built, tuning, kernel=multiply)
        low.emit("MatMul", name, inputs, [products], dims, 72 * count * ic * oc, build)
        optional = {"bias": bias, "shift": conv.shift, "residual": conv.residual}
        operands = [products, *(tensor if operand in conv.given else products for operand, tensor in optional.items())]
        finish = of(node.op_type).defines
        low.emit(
            "ConvNhwc", name, operands, [result], sizes, count * oc * 120, Build(finish, touched=part, kernel=after)
        )


def _transformed_here(
    low: Lowering, node: ir.Node, conv: Conv, tuning: Mapping[str, int]
) -> tuple[str, int, dict[str, int]]:
    """`pack.packed` of transformed taps that are stored plain and in few bits: a command of its own makes them."""
    (_, _, ic, oc), name, dtype = static_shape(conv.taps), str(node.name), low.dtype_of(node.outputs[0])
    plain = pack.as_matrix(conv.taps, (9 * ic, oc))
    stored, scales, columns, defines = pack.packed_product(low, plain, dtype, tuning, conv.x)
    wide = low.program.tensors[stored].shape[-1] * (2 if "W4" in defines else 1)
    dims = {"panels": columns // wide, "ic": ic, "wide": wide}
    right = low.scratch(f"{name}:taps", (TRANSFORMED, columns // wide, ic, wide), dtype)
    kernel = low.choose("WinogradTaps", name, dims, int(dtype == "f16")).first
    build = Build(kernel.asked(defines), kernel=kernel)
    low.emit("ConvNhwc", name, [stored, scales], [right], dims, 84 * ic * columns, build)
    return right, columns, {"PANELS": 1}


def _transformed(taps: ir.Value) -> ir.Value:
    """[3, 3, ic, oc] -> [36, ic, oc], when the bundle is written."""
    return pack.done(taps, "winograd", f"{taps.name}:winograd")
