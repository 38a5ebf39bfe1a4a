"""Winograd's F(4x4, 3x3) for convolutions with the channels last: 36 products per tile of 4x4 pixels in place of 144.

In one command (`strips`, and `paired` in bf16) on targets whose work-items have a cache of their own; in three
(`bands`) where groups of work-items share the work of each: patches, products, pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ondevice.graph.epilogue import of
from ondevice.graph.verify import static_shape
from ondevice.lower import pack, pairs
from ondevice.lower.convolution import GROUPS, TILE, TRANSFORMED, Conv, depth_of
from ondevice.lower.linear import DENSE, narrowed
from ondevice.lower.lowering import Build, Lowering
from ondevice.lower.program import DTYPES
from ondevice.lower.select import Way

FEW = 4  # work-items that a convolution has tasks for, and in bf16 room, at least: each makes its patches once
LINE = 16  # elements between planes and rows, which would share few sets of a cache


def strips(low: Lowering, node: ir.Node, conv: Conv, way: Way) -> None:
    """One command. Work-item g takes every `groups`-th strip of tiles, by some of the channels out where strips are
    few, and has a slot of scratch for it."""
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
    split = _split(tiles, ic, panels, groups, most, tuning, stored)
    result = low.result(node.outputs[0])
    scratch = low.scratch(f"{node.name}:scratch", (split["groups"], split["slot"]), "f32")
    sizes |= {"tiles_h": tiles_h, "tiles_w": tiles_w, "tiles": tiles, "panels": panels} | split
    defines = of(node.op_type).defines | {"FLY": int(not stored), "RAGGED": int(oc % v > 0)}
    defines |= {name: on for name, on in more.items() if name != "PANELS"}
    operands = [conv.x, right_name, bias, conv.shift, conv.residual, scales]
    flops = tiles * (ic * 144 + 72 * ic * oc + oc * 120) + (0 if stored else -(-tiles // split["strip"]) * ic * oc * 84)
    cached = {scratch: 0}  # written and read by one work-item: it is not traffic
    low.emit(
        "ConvNhwc", str(node.name), operands, [result, scratch], sizes, flops, Build(defines, tuning, cached, way.first)
    )


def _split(
    tiles: int, ic: int, panels: int, groups: int, most: int, tuning: Mapping[str, int], stored: bool
) -> dict[str, int]:
    """How the work is shared out among `groups` work-items at most, with about `most` floats of scratch: the sizes that
    winograd_strips has for it."""
    v, mr, wide = tuning["V"], tuning["MR"], tuning["V"] * tuning["NV"]
    block = ic if stored else depth_of(ic, tuning["DEPTH"], v)
    tapped = 0 if stored else 36 * (block * wide + v)

    def slot(strip: int, depth: int, share: int) -> int:
        patches = -(-depth // block) * (strip * (block + v * stored) + v)
        return 36 * (patches + share * (strip * wide + v)) + tapped

    strip = _whole(min(tuning["STRIP"], tiles), mr)
    if stored or -(-tiles // strip) < FEW:
        # Where strips are few, their channels out are shared out: each share makes its patches.
        chunk = panels if stored else -(-panels // -(-FEW // -(-tiles // strip)))
        least = strip
    else:
        chunk, strip = panels, min(strip, _whole(-(-tiles // groups), mr))
        least = _whole(-(-strip // 2), mr)
    groups = min(groups, -(-tiles // strip) * -(-panels // chunk))
    for fewer in range(strip, least - 1, -mr):
        if stored or slot(fewer, ic, 1) <= most // groups:
            split = {"strip": fewer, "depth": ic, "share": 1}
            break
    else:
        # Not all channels at once: patches are made for each share of the panels, and products added to for each part.
        share = min(chunk, max(1, tuning["SHARE"] // wide))
        while share > 1 and slot(strip, block, share) > most // groups:
            share -= 1
        depth = block
        while depth < ic and slot(strip, depth + block, share) <= most // groups:
            depth += block
        split = {"strip": strip, "depth": min(depth, ic), "share": share}
    room = slot(split["strip"], split["depth"], split["share"])
    return split | {"block": block, "chunk": chunk, "groups": groups, "slot": room}


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
        part = {t: low.program.tensors[t].nbytes * count // tiles for t in (conv.x, conv.residual, result)}
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
