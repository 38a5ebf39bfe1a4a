"""Where rows of tensors stand: in tensors of their own, in columns of wider ones, or in those that several ops write,
each its rows of every item: then nothing is copied to join them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from ondevice.graph.epilogue import is_one, of
from ondevice.graph.ops import DOMAIN
from ondevice.graph.verify import static_shape
from ondevice.lower.program import DTYPES
from ondevice.lower.strides import contiguous

# Ops whose kernels write rows of an item where they are told to, and those that read such rows as they stand.
WRITERS, READERS = ("Linear",), ("Linear",)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a tensor, or parts of them. `row`: elements from row to row; 0 where there is one, which has no next.
    `item`: from item to item of [n, rows, c]; 0 where the rows of all of them follow each other evenly."""

    tensor: str
    first: int
    row: int
    item: int = 0

    def steps(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Elements from one to the next along each dimension of a value of that shape."""
        dense = contiguous(shape)
        steps = [step // shape[-1] * self.row if self.row else step for step in dense[:-1]]
        if self.item:
            steps[0] = self.item
        return (*steps, 1)

    def cut(self, shape: tuple[int, ...], first: int) -> Rows:
        """Rows of each item of these [n, rows, c], from number `first` on."""
        items, rows, width = shape
        row = self.row or width
        return Rows(self.tensor, self.first + first * row, row, (self.item or rows * row) if items > 1 else 0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value's rows go: rows of each item of `whole` [n, rows, c], from number `first` on."""

    whole: ir.Value
    first: int

    def within(self, tensor: str) -> Rows:
        """The place in the tensor that holds the whole."""
        return Rows(tensor, 0, 0).cut(static_shape(self.whole), self.first)


def row_of(value: ir.Value) -> int:
    """Elements from row to row; 0 where there is one, which has no next and so is dense wherever it stands."""
    *rows, width = static_shape(value)
    return width if prod(rows) > 1 else 0


def bytes_of(value: ir.Value, dtype: str) -> int:
    """What a value takes, of a tensor that may hold others, too."""
    return prod(static_shape(value)) * DTYPES[dtype]


def joined(graph: ir.Graph, exact: Collection[str]) -> Mapping[str, Place]:
    """Values that a Concat puts below each other, and whose kernels write them there: by name, their places.

    Args:
        exact: values that stay float32, and so stand beside no others.
    """
    found: dict[str, Place] = {}
    for node in graph:
        whole, first = node.outputs[0], 0
        if node.op_type != "Concat" or node.domain or len(static_shape(whole)) != 3:
            continue
        if node.attributes["axis"].as_int() not in (1, -2) or whole.name in exact:
            continue
        for part in node.inputs:
            assert part is not None, "verify_graph has seen it"
            alone = part.name not in found and list(node.inputs).count(part) == 1 and not part.is_graph_output()
            if alone and part.name not in exact and _writes_rows(part.producer()):
                found[str(part.name)] = Place(whole, first)
            first += static_shape(part)[1]
    return found


def _writes_rows(node: ir.Node | None) -> bool:
    """Whether a kernel writes a node's rows where it is told to: no sum, whose kernel reads what it adds there, too."""
    if node is None or node.domain != DOMAIN:
        return False
    return node.op_type == "RmsNorm" or (is_one(node.op_type, WRITERS) and "Add" not in of(node.op_type).steps)


def only_rows_are_read(value: ir.Value) -> bool:
    """Whether all that read a value read rows of it as they stand."""
    uses = list(value.uses())
    return not value.is_graph_output() and all(
        use.idx == 0 and use.node.domain == DOMAIN and is_one(use.node.op_type, READERS) for use in uses
    )
