"""How attention becomes kernel calls: in one (FlashAttention),
or with its scores stored and softmax applied as they are read."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ondevice.graph.verify import static_shape
from ondevice.lower.lowering import Build, Lowering, Strided
from ondevice.lower.program import DTYPES
from ondevice.lower.select import Way

LANES = 4  # columns that kernels read at a time where rows and heads are multiples of it


@dataclass(frozen=True, slots=True)
class Attention:
    """One of these ops: `parts` says where q, k and v are, `mask` is a stand-in that is not read where there is none.
    Tokens stay [n, tokens, heads * d], or are parts of wider rows: nothing is transposed."""

    parts: dict[str, Strided]
    mask: str
    masked: bool
    sizes: dict[str, int]  # batch, queries, keys, heads
    head: int
    scale: float
    dtype: str

    def rows(self, names: str) -> dict[str, int]:
        """Where the rows of some of q, k and v are, as kernels' arguments."""
        return {f"{n}_row": self.parts[n][2] for n in names} | {f"{n}_from": self.parts[n][1] for n in names}

    @property
    def defines(self) -> dict[str, int]:
        return {"D": self.head} | ({"MASKED": 1} if self.masked else {})

    @property
    def choosing(self) -> dict[str, int]:
        """What a way is chosen by."""
        rows = self.rows("qkv")
        ragged = sum(size % LANES for size in rows.values())  # rows, or parts of them, begin within a vector
        return self.sizes | rows | self.defines | {"head": self.head, "ragged": ragged}


def read(low: Lowering, node: ir.Node) -> Attention:
    given, dtype = [value for value in node.inputs if value is not None], low.dtype_of(node.outputs[0])
    parts = {name: low.strided(value, dtype) for name, value in zip("qkv", given, strict=False)}
    masked = len(given) == 4
    mask = low.operand(given[3], dtype) if masked else parts["q"][0]
    (batch, queries, width), heads = static_shape(node.outputs[0]), node.attributes["heads"].as_ints()[0]
    sizes = {"batch": batch, "queries": queries, "keys": static_shape(given[1])[1], "heads": heads}
    return Attention(parts, mask, masked, sizes, width // heads, node.attributes["scale"].as_float(), dtype)


def flash(low: Lowering, node: ir.Node, attention: Attention, way: Way) -> None:
    """One command: the scores are never stored."""
    operands = [tensor for tensor, _, _ in attention.parts.values()]
    dims = attention.sizes | attention.rows("qkv") | {"scale": attention.scale}
    low.emit_node(node, [*operands, attention.mask], dims, build=Build(attention.defines, kernel=way.first))


def partially_fused(low: Lowering, node: ir.Node, attention: Attention, way: Way) -> None:
    """Scores, their statistics, and the product that takes exp(score - max) / sum as it loads; as many heads at a time
    as the target's scratch holds the scores of."""
    batch, queries, keys, heads = attention.sizes.values()
    d, dtype = attention.head, attention.dtype
    band = max(1, min(batch * heads, low.room(node) // (queries * keys * DTYPES[dtype])))
    (q, _, _), (k, _, _), (v, _, _) = attention.parts.values()
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
        sizes = {"queries": queries, "keys": keys, "heads": heads, "first": first, "count": count, "columns": d}
        part = {tensor: low.program.tensors[tensor].nbytes * count // (batch * heads) for tensor in (q, k, v, out)}
        products, rows = 2 * count * queries * keys * d, {"rows": count * queries, "cols": keys}
        left, right = sizes | attention.rows("qk") | {"scale": attention.scale}, sizes | attention.rows("v")
        scored = Build(attention.defines, touched=part, kernel=first_kernel)
        low.emit(op, name, [q, k, attention.mask], [scores], left, products, scored)
        low.emit(op, name, [scores], [stats], rows, 3 * count * queries * keys, Build(kernel=second))
        low.emit(op, name, [scores, stats, v], [out], right, products, Build({"D": d}, touched=part, kernel=third))
