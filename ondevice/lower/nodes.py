"""What lowering reads of a node: its inputs, attributes and constants; and how a refusal names it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ondevice.errors import GraphError
from ondevice.lower.lowering import Lowering
from ondevice.lower.strides import RANK, arguments


def unsupported(node: ir.Node, what: str, fix: str = "") -> GraphError:
    return GraphError(what, where=f"node {node.name} ({node.op_type})", fix=fix)


def input_of(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise unsupported(node, f"input {index} is missing.")
    return value


def optional(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def int_of(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def float_of(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default


def ints_of(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else list(default)


def word_of(node: ir.Node, name: str, default: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else default


def axis_of(node: ir.Node, rank: int, default: int) -> int:
    return int_of(node, "axis", default) % rank


def constant_of(low: Lowering, node: ir.Node, index: int) -> np.ndarray:
    array = low.constant(input_of(node, index))
    if array is None:
        raise unsupported(node, f"input {index} ({input_of(node, index).name}) must be a constant.")
    return array


def walk_of(node: ir.Node, dims: Sequence[int], **walks: Sequence[int]) -> dict[str, int]:
    named = arguments(dims, **walks)
    if named is None:
        raise unsupported(node, f"its strided walk over {tuple(dims)} needs more than {RANK} dimensions.")
    return named
