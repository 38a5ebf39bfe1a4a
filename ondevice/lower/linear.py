"""How products become kernel calls: MatMul, and the Linear family with all that it does to a result as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_ir as ir

from ondevice.graph.epilogue import of
from ondevice.graph.verify import static_shape
from ondevice.lower import pack, pairs
from ondevice.lower.lowering import Build, Lowering
from ondevice.lower.places import Rows, bytes_of, row_of

# What products are told of rows that stand in tensors of their own.
DENSE = {"a_from": 0, "y_from": 0, "y_batch": 0, "gate_from": 0, "gate_row": 0}


def narrowed(
    low: Lowering, kernel: str, columns: int, sizes: Mapping[str, int | float] | None = None, dtype: str = "f32"
) -> dict[str, int]:
    """The kernel's tunables, with tiles no wider than what they make:
    a picture has three channels, not four vectors of them."""
    tuning, listed = low.tuning(kernel, sizes, dtype), low.kernels[kernel].header["tune"]
    vectors = "NC" if "NC" in listed else "NV"  # of a work-item: NV are those of a panel, which may be wider
    fits = [count for count in listed[vectors] if count * tuning["V"] >= columns and count < tuning[vectors]]
    return tuning | ({vectors: min(fits)} if fits else {})


def product(low: Lowering, node: ir.Node, a: ir.Value, b: ir.Value, dims: Mapping[str, int]) -> None:
    """a @ b."""
    dtype, left = low.dtype_of(node.outputs[0]), low.operand(a, low.dtype_of(node.outputs[0]))
    constant = b.const_value is not None and len(static_shape(b)) == 2
    sizes = {**dims, **DENSE, "k1": dims["k"], "constant": int(constant), "rows": dims["m"]}
    sizes["y_batch"] = dims["m"] * dims["n"] if dims["batch"] > 1 else 0
    kernel = low.choose("MatMul", str(node.name), sizes, int(dtype == "f16")).first
    if constant:
        tuning = narrowed(low, kernel.name, dims["n"], sizes, dtype)
        right, scales, columns, defines = pack.packed_product(low, b, dtype, tuning, left)
    else:
        tuning, right, columns, defines = low.tuning(kernel.name, sizes, dtype), low.operand(b, dtype), dims["n"], {}
        scales = left
    named = dict.fromkeys(kernel.inputs, left) | {"b": right, "scales": scales} | pack.stage(low, kernel, dtype)
    operands, sizes = [named[name] for name in kernel.inputs], {**sizes, "ldb": columns}
    shared, scratch = pairs.product(low, str(node.name), kernel, tuning, sizes)
    build = Build(kernel.asked(defines), tuning, kernel=kernel, scratch=scratch)
    low.emit_node(node, operands, sizes | shared, "MatMul", build)


def linear(low: Lowering, node: ir.Node) -> None:
    """[..., k] or two parts of it, with whatever follows the product. Items of [n, rows, k] are products of their own
    where something of them stands apart: rows that are read or written, or what gates them."""
    stepped, out = of(node.op_type), static_shape(node.outputs[0])
    given = {name: value for name, value in zip(stepped.operands, node.inputs, strict=True) if value is not None}
    dtype, geglu, after = low.dtype_of(node.outputs[0]), stepped.activation == "Geglu", stepped.defines
    k, k1 = static_shape(given["weight"])[0], static_shape(given["x"])[-1]
    held, place = _left(low, given["x"], dtype), low.place(node.outputs[0])
    gate, gate_from, gate_row = low.strided(given["gate"], dtype) if "gate" in given else (held.tensor, 0, 0)
    items = out[0] if held.item or place or "gate" in given else 1
    dims = {"batch": items, "m": prod(out[:-1]) // items, "n": out[-1], "k": k, "k1": k1, "b_batch": 0, "constant": 1}
    dims |= {"a_from": held.first, "y_from": place.first if place else 0, "gate_from": gate_from, "gate_row": gate_row}
    dims |= {"a_batch": held.item or dims["m"] * k1, "y_batch": (place and place.item) or dims["m"] * dims["n"]}
    dims |= {"rows": dims["m"]} | (dict.fromkeys(("a_batch", "y_batch"), 0) if items == 1 else {})
    kernel = low.choose("Linear", str(node.name), dims, int(dtype == "f16")).first
    tuning = narrowed(low, kernel.name, static_shape(given["weight"])[-1], dims | after, dtype)
    x = held.tensor
    right, scales, columns, defines = pack.packed_product(low, given["weight"], dtype, tuning, x, geglu)
    x2, residual = (low.operand(given[name], dtype) if name in given else x for name in ("x2", "residual"))
    # x stands in for what is not there
    bias = pack.packed(low, given["bias"], dtype, tuning, geglu)[0] if "bias" in given else x
    built = after | kernel.asked(defines | ({"SPLIT": 1} if k1 < k else {}))
    named = {"a": x, "a2": x2, "b": right, "bias": bias, "gate": gate, "residual": residual, "scales": scales}
    named |= pack.stage(low, kernel, dtype)
    operands, dims = [named[name] for name in kernel.inputs], dims | {"ldb": columns}
    shared, scratch = pairs.product(low, str(node.name), kernel, tuning, dims)
    build = Build(built, tuning, {x: bytes_of(given["x"], dtype)}, kernel, scratch)
    low.emit_node(node, operands, dims | shared, "Linear", build)


def _left(low: Lowering, x: ir.Value, dtype: str) -> Rows:
    """Where the rows of a left side are: whole ones, which kernels read by their numbers."""
    held, width = low.rows(x, dtype), static_shape(x)[-1]
    if held.row == width and held.first % width == 0:
        return held
    return Rows(low.operand(x, dtype), 0, row_of(x))
