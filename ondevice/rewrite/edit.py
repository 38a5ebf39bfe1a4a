"""Adding and replacing nodes, for rules that walk a graph instead of matching a pattern."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from ondevice.rewrite.functions import DOMAIN


class Edit:
    """Changes to one graph. Nodes that nothing uses any more are removed by `finish`."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self._old: list[ir.Node] = []
        self._names = {str(value.name) for node in model.graph for value in node.outputs}

    def emit(
        self,
        at: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        *shapes: Sequence[int],
        name: str,
        ours: bool = False,
        after: bool = False,
        **attributes: Any,
    ) -> list[ir.Value]:
        """A node before `at`, or after it, with one output per shape, of its first input's type;
        `ours` for an op of our domain."""
        first = next(value for value in inputs if value is not None)
        outputs = []
        for number, shape in enumerate(shapes):
            unique = name if len(shapes) == 1 else f"{name}.{number}"
            while unique in self._names:
                unique = f"{unique}'"
            self._names.add(unique)
            outputs.append(
                ir.Value(name=unique, shape=ir.Shape(list(shape)), type=ir.TensorType(first.dtype or ir.DataType.FLOAT))
            )
        node = ir.node(
            op,
            list(inputs),
            attributes=attributes,
            outputs=outputs,
            domain=DOMAIN if ours else "",
            name=f"{outputs[0].name}/{op}",
        )
        (self.graph.insert_after if after else self.graph.insert_before)(at, node)
        return outputs

    def ints(self, *values: int) -> ir.Value:
        """A constant of shapes or axes, named by its content as the builders' are."""
        return self.constant("ints." + "_".join(map(str, values)), ir.tensor(list(values), dtype=ir.DataType.INT64))

    def constant(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """An initializer; the same name always means the same content."""
        if name not in self.graph.initializers:
            value = ir.Value(
                name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self.graph.register_initializer(value)
        return self.graph.initializers[name]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Everything that used `old` uses `new`. A graph output keeps its name."""
        node = old.producer()
        assert node is not None, "only results are replaced"
        if old.is_graph_output():
            name = old.name
            old.name, new.name = f"{name}:replaced", name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self._old.append(node)

    def drop(self, old: ir.Value) -> None:
        """Nothing that stays reads `old`: its node goes once those that read it are gone."""
        node = old.producer()
        assert node is not None, "only results are dropped"
        self._old.append(node)

    def finish(self) -> None:
        """Remove replaced nodes, and what only they used."""
        pending = list(self._old)
        while pending:
            node = pending.pop()
            if node.graph is None or any(value.uses() or value.is_graph_output() for value in node.outputs):
                continue
            sources = [value.producer() for value in node.inputs if value is not None]
            self.graph.remove(node, safe=True)
            pending.extend(source for source in sources if source is not None)
