"""How the fused ops of ondevice.rewrite become kernel calls."""

from __future__ import annotations

from math import lcm, prod

import onnx_ir as ir

from ondevice.graph.epilogue import of
from ondevice.graph.verify import static_shape
from ondevice.lower.lowering import Build, Lowering
from ondevice.lower.places import bytes_of
from ondevice.lower.select import Way

# Channels of a work-item of each of two commands, about, at most: as many sums as registers hold, and, of the second,
# rows that are written as they lie. CHUNKS: parts of a picture, about
SPANS, CHUNKS = {"cpu": (128, 1024), "mobile": (128, 512)}, 64
LANES = 4  # of vectors in kernels that have no tunable V


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
    low.emit_node(
        node, _operands(low, node), dims, "GroupNorm", Build({"ACT_Silu": int("Silu" in of(node.op_type).steps)})
    )


def group_norm_nhwc(low: Lowering, node: ir.Node) -> None:
    """[n, ..., c] in one part or two, with or without SiLU. A work-group takes whole groups that fill whole vectors."""
    batch, *rest, channels = static_shape(node.outputs[0])
    first, *others = _operands(low, node)
    c1 = low.program.tensors[first].shape[-1] if len(others) == 3 else channels
    per_group = channels // node.attributes["groups"].as_ints()[0]
    sizes = {"n": batch, "pixels": prod(rest), "channels": channels, "c1": c1, "per_group": per_group}
    chunk = max(-(-sizes["pixels"] // CHUNKS), 256)
    chunks = -(-sizes["pixels"] // chunk)
    sizes |= {"chunk": chunk, "chunks": chunks, "rows": 1 + 2 * chunks}  # of the two commands
    dtype = low.dtype_of(node.outputs[0])
    least = sizes | {"SPAN": lcm(per_group, LANES)}  # more where vectors are wider, which no target with limits has
    way = low.choose("GroupNormNhwc", str(node.name), least, int(dtype == "f16"))
    block = lcm(per_group, *(low.tuning(kernel.name, sizes, dtype).get("V", LANES) for kernel in way.kernels))
    dims = sizes | {"blocks": channels // block, "epsilon": node.attributes["epsilon"].as_float()}
    # a second part that is not there is not read
    operands = [first, *others] if len(others) == 3 else [first, others[0], *others]
    defines = {"ACT_Silu": int("Silu" in of(node.op_type).steps)} | ({"SPAN": block} if way.needs else {})
    if len(way.kernels) == 2:
        _two_commands(low, node, [first, *others], dims, defines, way)
    else:
        low.emit_node(node, operands, dims, "GroupNormNhwc", Build(defines, kernel=way.first))


def _two_commands(
    low: Lowering, node: ir.Node, operands: list[str], dims: dict[str, int | float], defines: dict[str, int], way: Way
) -> None:
    """Sums of chunks of pixels, then all else: work-items read memory in rows,
    and there are enough of them for a large picture."""
    (x, scale, bias), block = operands, defines["SPAN"]
    n, channels, pixels = (int(dims[key]) for key in ("n", "channels", "pixels"))
    summed, rest = (
        max(size for size in range(block, max(block, most) + 1, block) if channels % size == 0)
        for most in SPANS[way.first.kernel_class]
    )
    name, size = str(node.name), n * pixels * channels
    sums = low.scratch(f"{name}:sums", (n, int(dims["rows"]), channels), "f32")
    sizes, build = dims | {"blocks": channels // summed}, Build({"SPAN": summed}, kernel=way.kernels[0])
    low.emit("GroupNormNhwc", name, [x], [sums], sizes, 4 * size, build)
    sizes = dims | {"blocks": channels // rest}
    build = Build({"SPAN": rest, "ACT_Silu": defines["ACT_Silu"]}, kernel=way.kernels[1])
    low.emit("GroupNormNhwc", name, [x, sums, scale, bias], [low.result(node.outputs[0])], sizes, 7 * size, build)


def normalize_nhwc(low: Lowering, node: ir.Node) -> None:
    """[n, ..., c] with the statistics of a larger picture, which are float32 whatever the storage is."""
    dtype, (*rest, channels) = low.dtype_of(node.outputs[0]), static_shape(node.outputs[0])
    groups = node.attributes["groups"].as_ints()[0]
    types = (dtype, "f32", "f32", dtype, dtype)
    operands = [low.operand(value, kind) for value, kind in zip(node.inputs, types, strict=True) if value is not None]
    sizes = {"pixels": prod(rest), "channels": channels, "groups": groups, "per_group": channels // groups}
    dims = sizes | {"epsilon": node.attributes["epsilon"].as_float()}
    low.emit_node(node, operands, dims, "NormalizeNhwc", Build({"ACT_Silu": int("Silu" in of(node.op_type).steps)}))


def sin_cos(low: Lowering, node: ir.Node) -> None:
    """[rows, 1] and [half] -> [rows, 2 * half]."""
    rows, width = static_shape(node.outputs[0])
    low.emit_node(node, _operands(low, node), {"rows": rows, "half_width": width // 2})


def sum_ranks(low: Lowering, node: ir.Node) -> None:
    """Over ranks: in the place of the others' parts, which whoever runs all of them gives, stands its own."""
    (own,) = _operands(low, node)
    low.emit_node(node, [own, own], {"n": prod(static_shape(node.outputs[0]))})


def geglu(low: Lowering, node: ir.Node) -> None:
    """[..., 2 * cols] -> [..., cols]."""
    shape = static_shape(node.outputs[0])
    low.emit_node(node, _operands(low, node), {"rows": prod(shape[:-1]), "cols": shape[-1]})


def rms_norm(low: Lowering, node: ir.Node) -> None:
    """Of each head's part of a row, over the last axis; rows may be parts of wider ones, and go where others go."""
    *rest, width = static_shape(node.outputs[0])
    heads, dtype = node.attributes["heads"].as_ints()[0], low.dtype_of(node.outputs[0])
    x, weight = (value for value in node.inputs if value is not None)
    held, place = low.rows(x, dtype), low.place(node.outputs[0])
    items = rest[0] if held.item or place else 1  # that may stand apart
    tokens = prod(rest) // items
    dims = {"rows": prod(rest) * heads, "cols": width // heads, "heads": heads, "tokens": tokens}
    dims |= {"x_row": held.row, "x_from": held.first, "x_batch": held.item or tokens * held.row}
    dims |= {"y_from": place.first if place else 0, "y_batch": (place and place.item) or tokens * width}
    operands, build = [held.tensor, low.operand(weight, dtype)], Build(touched={held.tensor: bytes_of(x, dtype)})
    low.emit_node(node, operands, dims | {"epsilon": node.attributes["epsilon"].as_float()}, build=build)


def ada_layer_norm(low: Lowering, node: ir.Node) -> None:
    """[n, tokens, c], with shift and scale [n, 1, c]."""
    (n, tokens, cols), dtype = static_shape(node.outputs[0]), low.dtype_of(node.outputs[0])
    x, shift, scale = (value for value in node.inputs if value is not None)
    rows = {"shift": low.strided(shift, dtype), "scale": low.strided(scale, dtype)}
    places = {f"{name}_row": row for name, (_, _, row) in rows.items()}
    places |= {f"{name}_from": first for name, (_, first, _) in rows.items()}
    dims = {"rows": n * tokens, "cols": cols, "tokens": tokens} | places
    operands = [low.operand(x, dtype), *(tensor for tensor, _, _ in rows.values())]
    low.emit_node(node, operands, dims | {"epsilon": node.attributes["epsilon"].as_float()})


def gated_add(low: Lowering, node: ir.Node) -> None:
    """[n, tokens, c] twice, with a gate [n, 1, c]."""
    (n, tokens, cols), dtype = static_shape(node.outputs[0]), low.dtype_of(node.outputs[0])
    x, gate, z = (value for value in node.inputs if value is not None)
    tensor, first, row = low.strided(gate, dtype)
    dims = {"rows": n * tokens, "cols": cols, "tokens": tokens, "gate_row": row, "gate_from": first}
    low.emit_node(node, [low.operand(x, dtype), tensor, low.operand(z, dtype)], dims)
