"""How attention becomes kernel calls: in one (FlashAttention),
or with its scores stored and softmax applied as they are read."""

from __future__ import annotations

import onnx_ir as ir

from ondevice.graph.verify import static_shape
from ondevice.lower.lowering import Build, Lowering, Strided
from ondevice.lower.program import DTYPES
from ondevice.lower.select import Way


def _operands(low: Lowering, node: ir.Node) -> tuple[list[ir.Value], dict[str, Strided], str]:
    """(inputs, where q, k and v are, storage).
    Tokens stay [n, tokens, heads * d], or are parts of wider rows: nothing is transposed."""
    given, dtype = [value for value in node.inputs if value is not None], low.dtype_of(node.outputs[0])
    return given, {name: low.strided(value, dtype) for name, value in zip("qkv", given, strict=False)}, dtype


def _rows(parts: dict[str, Strided], names: str) -> dict[str, int]:
    return {f"{n}_row": parts[n][2] for n in names} | {f"{n}_from": parts[n][1] for n in names}


def choosing(node: ir.Node) -> dict[str, int]:
    """What a way is chosen by."""
    (q, k, *_), heads = node.inputs, node.attributes["heads"].as_ints()[0]
    assert q is not None and k is not None, "verify_graph counts inputs"
    (batch, queries, width), (_, keys, _) = static_shape(q), static_shape(k)
    return {"batch": batch, "queries": queries, "keys": keys, "heads": heads, "head": width // heads}


def flash(low: Lowering, node: ir.Node, way: Way) -> None:
    """One command: the scores are never stored."""
    given, parts, dtype = _operands(low, node)
    (batch, queries, width), heads = static_shape(node.outputs[0]), node.attributes["heads"].as_ints()[0]
    sizes = {"batch": batch, "queries": queries, "keys": static_shape(given[1])[1], "heads": heads}
    operands = [tensor for tensor, _, _ in parts.values()]
    # no mask: a stand-in that is not read
    operands.append(low.operand(given[3], dtype) if len(given) == 4 else operands[0])
    scale = {"scale": node.attributes["scale"].as_float()}
    defines = {"D": width // heads} | ({"MASKED": 1} if len(given) == 4 else {})
    low.emit_node(node, operands, sizes | _rows(parts, "qkv") | scale, build=Build(defines, kernel=way.first))


def partially_fused(low: Lowering, node: ir.Node, way: Way) -> None:
    """Scores, their statistics, and the product that takes exp(score - max) / sum as it loads; as many heads at a time
    as the target's scratch holds the scores of."""
    given, parts, dtype = _operands(low, node)
    (batch, queries, width), heads = static_shape(node.outputs[0]), node.attributes["heads"].as_ints()[0]
    keys, d = static_shape(given[1])[1], width // heads
    band = max(1, min(batch * heads, low.room(node) // (queries * keys * DTYPES[dtype])))
    (q, _, _), (k, _, _), (v, _, _) = parts.values()
    mask = low.operand(given[3], dtype) if len(given) == 4 else q  # no mask: a stand-in that is not read
    out, name, op, (first_kernel, second, third) = (
        low.result(node.outputs[0]),
        str(node.name),
        node.op_type,
        way.kernels,
    )
    for first in range(0, batch * heads, band):
        count = min(band, batch * heads - first)
        scores = low.scratch(f"{name}:scores.{first}", (count, queries, keys), dtype)
        stats = low.scratch(f"{name}:stats.{first}", (count, queries, 2), "f32")
        sizes = {"queries": queries, "keys": keys, "heads": heads, "first": first, "count": count}
        part = {tensor: low.program.tensors[tensor].nbytes * count // (batch * heads) for tensor in (q, k, v, out)}
        products = 2 * count * queries * keys * d
        scale, defines = (
            {"scale": node.attributes["scale"].as_float()},
            {"D": d} | ({"MASKED": 1} if len(given) == 4 else {}),
        )
        rows = {"rows": count * queries, "cols": keys}
        left, right = sizes | _rows(parts, "qk") | scale, sizes | _rows(parts, "v")
        low.emit(op, name, [q, k, mask], [scores], left, products, Build(defines, touched=part, kernel=first_kernel))
        low.emit(op, name, [scores], [stats], rows, 3 * count * queries * keys, Build(kernel=second))
        low.emit(op, name, [scores, stats, v], [out], right, products, Build({"D": d}, touched=part, kernel=third))
