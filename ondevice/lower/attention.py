"""How attention becomes kernel calls: in one (FlashAttention), in two where a CPU's matrix unit multiplies,
or with its scores stored and softmax applied as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import onnx_ir as ir

from ondevice.graph.verify import static_shape
from ondevice.lower import pairs
from ondevice.lower.lowering import Build, Lowering, Strided
from ondevice.lower.program import DTYPES
from ondevice.lower.select import Way
from ondevice.lower.strides import arguments

LANES = 4  # columns that kernels read at a time where rows and heads are multiples of it
PANEL = 32  # keys, and columns of a head, that flash_panels packs together
# Bytes of queries and of sums that a work-item of FlashAttention has, about what the cache of a core holds: of wide
# heads fewer of both than it is tuned for.
OWN = 1 << 20


@dataclass(frozen=True, slots=True)
class Attention:
    """One of these ops: `parts` says where q, k and v are, `mask` is a stand-in that is not read where there is none.
    Tokens stay [n, tokens, heads * d], or are parts of wider rows: nothing is transposed."""

    parts: dict[str, Strided]
    mask: str
    masks: dict[str, int]  # how many of them there are, as kernels' defines; none where there is no mask
    sizes: dict[str, int]  # batch, queries, keys, heads
    head: int
    scale: float
    dtype: str

    def rows(self, names: str) -> dict[str, int]:
        """Where the rows of some of q, k and v are, as kernels' arguments."""
        return {f"{n}_row": self.parts[n][2] for n in names} | {f"{n}_from": self.parts[n][1] for n in names}

    @property
    def masked(self) -> bool:
        return bool(self.masks)

    @property
    def defines(self) -> dict[str, int]:
        return {"D": self.head} | self.masks

    @property
    def choosing(self) -> dict[str, int]:
        """What a way is chosen by."""
        rows = self.rows("qkv")
        ragged = sum(size % LANES for size in rows.values())  # rows, or parts of them, begin within a vector
        return self.sizes | rows | self.defines | {"head": self.head, "ragged": ragged}


def read(low: Lowering, node: ir.Node) -> Attention:
    given, dtype = [value for value in node.inputs if value is not None], low.dtype_of(node.outputs[0])
    parts = {name: low.strided(value, dtype) for name, value in zip("qkv", given, strict=False)}
    masks = _masks(static_shape(given[3])) if len(given) == 4 else {}
    mask = low.operand(given[3], dtype) if masks else parts["q"][0]
    (batch, queries, width), heads = static_shape(node.outputs[0]), node.attributes["heads"].as_ints()[0]
    sizes = {"batch": batch, "queries": queries, "keys": static_shape(given[1])[1], "heads": heads}
    return Attention(parts, mask, masks, sizes, width // heads, node.attributes["scale"].as_float(), dtype)


def _masks(shape: tuple[int, ...]) -> dict[str, int]:
    """Of a mask [1, heads or 1, queries or 1, keys]: whether each head has its own, and whether queries share a row."""
    _, heads, rows, _ = shape
    return {"MASKED": 1} | ({"HEAD_MASKS": 1} if heads > 1 else {}) | ({"ROW_MASK": 1} if rows == 1 else {})


def flash(low: Lowering, node: ir.Node, attention: Attention, way: Way) -> None:
    """One command: the scores are never stored."""
    operands = [tensor for tensor, _, _ in attention.parts.values()]
    dims = attention.sizes | attention.rows("qkv") | {"scale": attention.scale}
    tuning = _kept_near(low, attention, way) if "SETS" in way.first.header["tune"] else {}
    low.emit_node(node, [*operands, attention.mask], dims, build=Build(attention.defines, tuning, kernel=way.first))


def _kept_near(low: Lowering, attention: Attention, way: Way) -> dict[str, int]:
    """The tunables of FlashAttention, with as many sets of queries, at most, as stay in a near cache."""
    sizes = attention.sizes | attention.rows("qkv") | attention.defines
    tuning = low.tuning(way.first.name, sizes, attention.dtype)
    per_set = 2 * tuning["V"] * tuning["NV"] * attention.head * DTYPES["f32"]
    fitting = [sets for sets in way.first.header["tune"]["SETS"] if sets * per_set <= OWN]
    return tuning | {"SETS": min(tuning["SETS"], max(fitting, default=1))}


def of_few_keys(low: Lowering, node: ir.Node, attention: Attention, way: Way) -> None:
    """One command, whose loops and arrays are made for just so many keys."""
    operands, keys = [tensor for tensor, _, _ in attention.parts.values()], attention.sizes["keys"]
    dims = attention.sizes | attention.rows("qkv") | {"scale": attention.scale}
    low.emit_node(node, operands, dims, build=Build(attention.defines | {"KEYS": keys}, kernel=way.first))


def flash_panels(low: Lowering, node: ir.Node, attention: Attention, way: Way) -> None:
    """Two commands: keys and values become what a matrix unit reads, once for all queries; then FlashAttention."""
    sizes, op, name = attention.sizes, node.op_type, str(node.name)
    (q, _, _), (k, _, _), (v, _, _) = attention.parts.values()
    blocks, columns = -(-sizes["keys"] // PANEL), -(-attention.head // PANEL)
    # pairs of two, of keys and of their values
    shape = (sizes["batch"], sizes["heads"], blocks, 2 * pairs.parts_of(low) * columns * PANEL * PANEL // 2)
    panels = low.scratch(f"{name}:panels", shape, "i32")
    pack, attend = Build(attention.defines, kernel=way.kernels[0]), Build(attention.defines, kernel=way.kernels[1])
    low.emit(op, name, [k, v], [panels], sizes | attention.rows("kv"), 0, pack)
    low.emit_node(node, [q, panels], sizes | attention.rows("q") | {"scale": attention.scale}, build=attend)


def partially_fused(low: Lowering, node: ir.Node, attention: Attention, way: Way) -> None:
    """Scores, their statistics, and the product that takes exp(score - max) / sum as it loads; as many heads at a time
    as the target's scratch holds the scores of. Where it does not hold those of one head, a target that says how large
    its buffers are takes parts of a head's queries."""
    batch, queries, keys, heads = attention.sizes.values()
    d, dtype = attention.head, attention.dtype
    band = max(1, min(batch * heads, low.room(node) // (queries * keys * DTYPES[dtype])))
    most = low.room(node) // (keys * DTYPES[dtype])  # queries whose scores it holds
    if low.target.limits.allocation and most < queries and not attention.masked:
        _by_queries(low, node, attention, way, max(most, 1))
        return
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


def _by_queries(low: Lowering, node: ir.Node, attention: Attention, way: Way, most: int) -> None:
    """The same for at most so many queries of one head at a time. Their result is computed in a tensor of its own and
    copied to its place."""
    batch, queries, keys, heads = attention.sizes.values()
    d, dtype, name, op = attention.head, attention.dtype, str(node.name), node.op_type
    (q, _, _), (k, _, _), (v, _, _) = attention.parts.values()
    rows, nbytes, out = attention.rows("qkv"), DTYPES[dtype], low.result(node.outputs[0])
    chunk = -(-queries // -(-queries // most))
    for number, (head, first) in enumerate(product(range(batch * heads), range(0, queries, chunk))):
        count, item = min(chunk, queries - first), head // heads
        scores = low.scratch(f"{name}:scores.{number}", (1, count, keys), dtype)
        stats = low.scratch(f"{name}:stats.{number}", (1, count, 2), "f32")
        mixed = low.scratch(f"{name}:part.{number}", (count, heads, d), dtype)
        sizes: dict[str, int | float]
        sizes = {"queries": count, "keys": keys, "heads": heads, "first": head % heads, "count": 1, "columns": d}
        sizes |= rows | {"q_from": rows["q_from"] + (item * queries + first) * rows["q_row"], "scale": attention.scale}
        sizes |= {f"{side}_from": rows[f"{side}_from"] + item * keys * rows[f"{side}_row"] for side in "kv"}
        some, all_keys, products, (scored, normed, applied) = (
            count * d * nbytes,
            keys * d * nbytes,
            2 * count * keys * d,
            way.kernels,
        )
        read = {q: some + all_keys} if q == k else {q: some, k: all_keys}  # of one projection, or of several
        left = Build(attention.defines, touched=read, kernel=scored)
        right = Build({"D": d}, touched={v: all_keys, mixed: some}, kernel=applied)
        low.emit(op, name, [q, k, attention.mask], [scores], sizes, products, left)
        low.emit(op, name, [scores], [stats], {"rows": count, "cols": keys}, 3 * count * keys, Build(kernel=normed))
        low.emit(op, name, [scores, stats, v], [mixed], sizes, products, right)
        steps = (heads * d, 1)
        walk = arguments((count, d), s=steps, d=steps)
        assert walk is not None, "two dimensions are few"
        place = {"s_offset": head % heads * d, "d_offset": ((item * queries + first) * heads + head % heads) * d}
        low.emit("Identity", name, [mixed], [out], walk | place, 0, Build(touched={mixed: some, out: some}))
