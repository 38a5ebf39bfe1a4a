"""Which nodes float16 cannot compute, whatever the rest of a graph is in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx_ir as ir

LARGEST = float(np.finfo(np.float16).max)
# Sines of angles so large that float16 cannot tell them apart.
ANGLES = ("Sin", "Cos", "SinCos", "CosSin")
LOOKED_AT = 1 << 17  # elements of a constant; larger ones are weights
ENDS = "Softmax"  # gives numbers up to 1


def in_float32(graph: ir.Graph) -> frozenset[ir.Node]:
    """Angles and all that they are made of, back to the inputs; and what is made of numbers past float16's largest, on
    to a softmax: a text's end is found so, by ranks of its tokens."""
    angles = (node for node in graph if node.op_type in ANGLES)
    large = (node for node in graph if any(_is_large(value) for value in node.inputs if value is not None))
    return _reached(angles, _makers) | _reached(large, _readers)


def _reached(start: Iterable[ir.Node], following: Callable[[ir.Node], Iterable[ir.Node]]) -> frozenset[ir.Node]:
    found: set[ir.Node] = set()
    todo = list(start)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += following(node)
    return frozenset(found)


def _makers(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        if value is not None and (maker := value.producer()) is not None:
            yield maker


def _readers(node: ir.Node) -> Iterator[ir.Node]:
    if node.op_type != ENDS:
        yield from (use.node for value in node.outputs for use in value.uses())


def _is_large(value: ir.Value) -> bool:
    """What a mask adds, far below 0, is none of them: float16 has other numbers for that."""
    tensor = value.const_value
    if tensor is None or value.dtype != ir.DataType.FLOAT or tensor.size > LOOKED_AT:
        return False
    return bool(tensor.numpy().max(initial=0) > LARGEST)
