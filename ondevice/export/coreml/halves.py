"""A graph in two, of about half the weights each: some of Apple's devices load no larger package into their Neural
Engine. What crosses the cut are outputs of the first and inputs of the second."""

from __future__ import annotations

from itertools import accumulate
from math import prod

import onnx_ir as ir
from onnx_ir.convenience import extract

from ondevice.graph.verify import static_shape

NEAR = 0.05  # of all weights, by which a half may be larger or smaller


def halves(graph: ir.Graph) -> tuple[ir.Graph, ir.Graph]:
    """What comes before the cut, and what comes after it, which has the inputs that it needs, then the values that
    cross. Values keep their names. Constants must be initializers.

    Of cuts near half of the weights it is the one that the fewest numbers cross.
    """
    nodes = list(graph)
    cut = _cut(nodes)
    made = {value for node in nodes[:cut] for value in node.outputs}
    late = {value for node in nodes[cut:] for value in node.inputs if value is not None}
    crossing = [value for node in nodes[:cut] for value in node.outputs if value in late]
    early = [value for value in graph.outputs if value in made and value not in crossing]
    first, second = (
        [value for value in graph.inputs if any(use.node in part for use in value.uses())]
        for part in (set(nodes[:cut]), set(nodes[cut:]))
    )
    ends = [value for value in graph.outputs if value not in made]
    return extract(graph, first, [*crossing, *early]), extract(graph, [*second, *crossing], ends)


def _cut(nodes: list[ir.Node]) -> int:
    """How many nodes come before it."""
    counted: set[ir.Value] = set()
    weights, crosses, place = [0] * len(nodes), [0] * len(nodes), {node: i for i, node in enumerate(nodes)}
    for i, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and value.const_value is not None and value not in counted:
                counted.add(value)
                weights[i] += value.const_value.size
        for value in node.outputs:
            last = max((place[use.node] for use in value.uses()), default=i)
            for at in range(i, last):
                crosses[at] += prod(static_shape(value))
    before = list(accumulate(weights))
    away = [abs(weight - before[-1] / 2) for weight in before[:-1]]
    near = max(min(away), NEAR * before[-1])
    return 1 + min((i for i in range(len(away)) if away[i] <= near), key=lambda i: (crosses[i], away[i]))
