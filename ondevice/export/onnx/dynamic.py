"""One graph for every batch, height and width, out of a component's static graphs at several sizes.

Our graphs are made for a size, which their Reshapes and Resizes hold as constants. Where graphs of several sizes that
have nothing in common differ, the numbers say what they are: a size that a value's shape has at every one of them.

    Reshape             0 for a size that its input has there, too, -1 for one more, a Shape for the others
    Resize              scales, where every size is the same number of times its input's; else sizes, of a Shape: a
                        UNet goes back up to the size of its skip, which an odd size was rounded up to
    Expand              a Shape
    one number, filled  that number, expanded
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ondevice.compiler.jobs import Job
from ondevice.converters import Model
from ondevice.errors import GraphError
from ondevice.graph.verify import static_shape
from ondevice.rewrite.edit import Edit

Column = tuple[int, ...]  # a number at each of SAMPLES
# Sides are 1 above multiples of 64, so that all levels of a UNet are odd, and each is rounded up on the way down.
SAMPLES: tuple[Mapping[str, int], ...] = (
    {"batch": 2, "height": 65, "width": 193},
    {"batch": 3, "height": 129, "width": 449},
    {"batch": 5, "height": 321, "width": 257},
)
# What a port's size is called, as optimum has it: in a graph with one resolution, of its latents, of its pixels.
NAMES = {side: (side, f"latent_{side}", f"sample_{side}") for side in ("height", "width")}
BATCH = "batch_size"
ON_DISK, SMALL = (ir.LazyTensor, ir.ExternalTensor), 1 << 16  # of these, elements that are read to be compared


def sampled(model: Model, job: Job) -> list[Job]:
    """The component at SAMPLES.

    Raises:
        GraphError: the checkpoint is a folder of exported graphs, and has none of such a size.
    """
    found = [Job(job.component, {name: sizes.get(name, size) for name, size in job.sizes.items()}) for sizes in SAMPLES]
    if model.checkpoint.graphs:
        fix = "export it again with dynamic axes, or leave --dynamic out"
        if reason := model.lacks(job.component, **found[0].sizes):
            raise GraphError(f"{reason}.", where=f"{model.checkpoint.source}: {job.component}", fix=fix)
        try:
            model.graph(job.component, **found[0].sizes)
        except GraphError as error:  # as of a UNet that was traced at a size, and takes multiples of some number alone
            raise GraphError(error.what, where=error.where, fix=fix) from None
    return found


def freed(graphs: Sequence[ir.Model], component: str) -> ir.Model:
    """The first graph, changed in place to one that takes every batch, height and width.

    Args:
        graphs: the component's at SAMPLES, in their order, each changed in the same ways since.

    Raises:
        GraphError: they differ in what is none of the above; names the component and the node.
    """
    return _Walk(graphs, component).run()


class _Walk:
    """In graph order, through all graphs side by side. A value stands for its like in the others."""

    def __init__(self, graphs: Sequence[ir.Model], component: str) -> None:
        self.graphs, self.component = [model.graph for model in graphs], component
        self.model, self.edit = graphs[0], Edit(graphs[0])
        self.place = {node: number for number, node in enumerate(graphs[0].graph)}
        self.shapes: dict[ir.Value, tuple[Column, ...]] = {}
        self.with_size: dict[Column, list[tuple[ir.Value, int]]] = {}  # values that have it, and where
        self.with_shape: dict[tuple[Column, ...], list[ir.Value]] = {}
        self.measured: dict[tuple[ir.Value, int, int], ir.Value] = {}
        self.makers = {
            ("", "Reshape", 1): self.reshape,
            ("", "Expand", 1): self.expand,
            ("", "Resize", 3): self.resize,
        }

    def run(self) -> ir.Model:
        """See `freed`."""
        if len({len(graph) for graph in self.graphs}) > 1:
            self.fail(None, f"its graphs have {' and '.join(str(len(graph)) for graph in self.graphs)} nodes")
        for values in zip(*(graph.inputs for graph in self.graphs), strict=True):
            self.see(values)
        for nodes in zip(*map(list, self.graphs), strict=True):
            self.visit(nodes)
            for values in zip(*(node.outputs for node in nodes), strict=True):
                self.see(values)
        self.name_sizes()
        RemoveUnusedNodesPass()(self.model)  # constants that nothing reads any more, too
        return self.model

    def fail(self, node: ir.Node | None, what: str) -> None:
        """Raises GraphError."""
        where = f"{self.component}: node {node.name} ({node.op_type})" if node else self.component
        fix = "leave --dynamic out and name one --size"
        raise GraphError(f"{what}, which no free size can be made of.", where=where, fix=fix)

    # What is the same, and what is not ----------------------------------------------------------------------------

    def see(self, values: Sequence[ir.Value]) -> None:
        """A value that nodes from here on may be told the sizes of."""
        first, shapes = values[0], [static_shape(value) for value in values]
        if len({value.name for value in values}) > 1 or len({len(shape) for shape in shapes}) > 1:
            self.fail(first.producer(), f"{first.name} has another name or rank at another size")
        columns = self.shapes[first] = tuple(zip(*shapes, strict=True))
        self.with_shape.setdefault(columns, []).append(first)
        for axis, column in enumerate(columns):
            if len({*column}) > 1:
                self.with_size.setdefault(column, []).append((first, axis))

    def visit(self, nodes: Sequence[ir.Node]) -> None:
        """Make what differs between the nodes true of all sizes."""
        first = nodes[0]
        for aspect, of in _ASPECTS.items():
            if len({of(node) for node in nodes}) > 1:
                self.fail(first, f"it has another {aspect} at another size")
        for name in list(first.attributes):
            columns = [_numbers(node.attributes[name].value) for node in nodes]
            if any(column != columns[0] for column in columns):
                self.fail(first, f"its {name} is another at another size")
        for index, values in enumerate(zip(*(node.inputs for node in nodes), strict=False)):
            if index < len(first.inputs) and not self.same(first, values):
                self.replace(first, index, [value.const_value.numpy() for value in values])  # type: ignore[union-attr]

    def same(self, node: ir.Node, values: Sequence[ir.Value | None]) -> bool:
        """Whether an input is the same at every size; False where it is a constant that is not."""
        first, tensors = values[0], [value.const_value if value is not None else None for value in values]
        names = {value.name if value is not None else "" for value in values}
        shapes = {str(tensor.shape) if tensor is not None else "" for tensor in tensors}
        alike, on_disk = len(names) == len(shapes) == 1, isinstance(tensors[0], ON_DISK)
        constants = [tensor for tensor in tensors if tensor is not None and (not on_disk or tensor.size <= SMALL)]
        if len(constants) == len(values) and not (alike and on_disk):  # weights are what their names say
            arrays = [tensor.numpy() for tensor in constants]
            return all(np.array_equal(array, arrays[0]) for array in arrays)
        if not alike:
            self.fail(node, f"it reads something else than {first.name if first else 'nothing'} at another size")
        return True

    # What is made of it -------------------------------------------------------------------------------------------

    def replace(self, node: ir.Node, index: int, arrays: Sequence[np.ndarray]) -> None:
        """Put what is true of all sizes in the place of an input that is a constant at each."""
        if all(array.dtype == np.int64 for array in arrays) and len({array.shape for array in arrays}) == 1:
            columns = [tuple(map(int, column)) for column in zip(*(array.flat for array in arrays), strict=True)]
            if (make := self.makers.get((node.domain, node.op_type, index))) is not None:
                make(node, columns)
                return
        numbers = {float(number) for array in arrays for number in np.unique(array)}
        if len(numbers) != 1 or len({array.ndim for array in arrays}) != 1 or arrays[0].dtype.kind != "f":
            self.fail(node, "it reads a constant that is another one at another size")
        number, dtype = numbers.pop(), arrays[0].dtype
        filled = self.edit.constant(f"full.{number!r}.{dtype}", ir.tensor(np.array(number, dtype)))
        shape = self.sizes(node, list(zip(*(array.shape for array in arrays), strict=True)))
        name = f"{node.name}/filled_{index}"
        node.replace_input_with(index, self.edit.emit(node, "Expand", [filled, shape], arrays[0].shape, name=name)[0])

    def reshape(self, node: ir.Node, columns: Sequence[Column]) -> None:
        """The target in 0 and -1, and Shapes where these are not enough."""
        before, zeros = self.shapes[_first(node)], "allowzero" not in node.attributes
        parts = list(columns)
        for axis, column in enumerate(columns[: len(before)]):
            if zeros and len({*column}) > 1 and column == before[axis]:
                parts[axis] = (0,) * len(column)
        left = [axis for axis, part in enumerate(parts) if len({*part}) > 1]
        if left and not any(-1 in part for part in parts):
            rest = next((axis for axis in left if columns[axis] not in self.with_size), left[-1])
            parts[rest] = (-1,) * len(parts[rest])
            left.remove(rest)
        node.replace_input_with(1, self.sizes(node, columns if left and tuple(columns) in self.with_shape else parts))

    def expand(self, node: ir.Node, columns: Sequence[Column]) -> None:
        """To sizes of other values."""
        node.replace_input_with(1, self.sizes(node, columns))

    def resize(self, node: ir.Node, columns: Sequence[Column]) -> None:
        """By scales where they say it, else to the sizes of another value."""
        scales = _scales(self.shapes[_first(node)], columns)
        if scales is None:
            node.replace_input_with(3, self.sizes(node, columns))
            return
        node.resize_inputs(3)
        tensor = ir.tensor(np.array(scales, np.float32))
        node.replace_input_with(2, self.edit.constant(f"scales.{'_'.join(map(str, scales))}", tensor))

    def sizes(self, node: ir.Node, columns: Sequence[Column]) -> ir.Value:
        """The numbers as int64, of shapes that values have before `node`."""
        if tuple(columns) in self.with_shape:
            return self.shape(self.nearest(node, self.with_shape[tuple(columns)]), 0, len(columns))
        parts: list[ir.Value] = []
        fixed: list[int] = []
        axis = 0
        while axis < len(columns):
            if len({*columns[axis]}) == 1:
                fixed.append(columns[axis][0])
                axis += 1
                continue
            if columns[axis] not in self.with_size:
                self.fail(node, f"it has a size of {' and '.join(map(str, columns[axis]))}")
            parts, fixed = [*parts, *([self.edit.ints(*fixed)] if fixed else [])], []
            having = dict(self.with_size[columns[axis]])
            value = self.nearest(node, list(having))
            start, count = having[value], 1
            for own, wanted in zip(self.shapes[value][start + 1 :], columns[axis + 1 :], strict=False):
                if own != wanted:
                    break
                count += 1
            parts.append(self.shape(value, start, start + count))
            axis += count
        parts += [self.edit.ints(*fixed)] if fixed else []
        if len(parts) == 1:
            return parts[0]
        (joined,) = self.edit.emit(node, "Concat", parts, [len(columns)], name=f"{node.name}/sizes", axis=0)
        return joined

    def nearest(self, node: ir.Node, values: Sequence[ir.Value]) -> ir.Value:
        """The graph's input, which is there for the whole run; else the last that is read again at `node` or later, so
        that nothing is kept for its shape alone; else the last."""
        given = [value for value in values if value.is_graph_input()]
        here = self.place[node]
        kept = [
            value
            for value in values
            if value.is_graph_output() or any(self.place.get(use.node, -1) >= here for use in value.uses())
        ]
        return given[0] if given else (kept or values)[-1]

    def shape(self, value: ir.Value, start: int, end: int) -> ir.Value:
        """Part of a value's Shape, right after the value."""
        if (value, start, end) not in self.measured:
            whole, maker = end - start == len(self.shapes[value]), value.producer()
            part: dict[str, Any] = {} if whole else {"start": start, "end": end}
            name = f"{value.name}/shape" + "".join(f"_{number}" for number in part.values())
            at = maker or self.model.graph[0]
            (found,) = self.edit.emit(at, "Shape", [value], [end - start], name=name, after=maker is not None, **part)
            found.type = ir.TensorType(ir.DataType.INT64)
            self.measured[value, start, end] = found
        return self.measured[value, start, end]

    # Names --------------------------------------------------------------------------------------------------------

    def name_sizes(self) -> None:
        """Ports say which of their sizes are free; of other values those that are none of these stay unsaid."""
        ports = [*self.model.graph.inputs, *self.model.graph.outputs]
        columns = {column for value in ports for column in self.shapes[value] if len({*column}) > 1}
        names = {tuple(sizes["batch"] for sizes in SAMPLES): BATCH}
        for side, (alone, latent, pixel) in NAMES.items():
            unit = tuple(sizes[side] for sizes in SAMPLES)
            times = {column[0] // unit[0]: column for column in columns if _scales((unit,), (column,)) is not None}
            largest = times.get(max(times, default=1), unit)
            names |= {unit: alone} if largest == unit else {unit: latent, largest: pixel}
        for value in ports:
            if odd := [column for column in self.shapes[value] if len({*column}) > 1 and column not in names]:
                self.fail(value.producer(), f"{value.name} has a size of {' and '.join(map(str, odd[0]))}")
        for value, shape in self.shapes.items():
            value.shape = ir.Shape([names.get(column) if len({*column}) > 1 else column[0] for column in shape])


_ASPECTS: dict[str, Callable[[ir.Node], object]] = {
    "meaning": lambda node: node.op_identifier(),
    "number of inputs": lambda node: len(node.inputs),
    "number of results": lambda node: len(node.outputs),
    "set of attributes": lambda node: tuple(node.attributes),
}


def _numbers(value: object) -> object:
    """An attribute's value as it can be compared."""
    return value.numpy().tolist() if isinstance(value, ir.TensorProtocol) else value


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None, "no op that is asked about can do without it"
    return value


def _scales(before: Sequence[Column], after: Sequence[Column]) -> list[int] | None:
    """How many times larger each axis becomes, where that is the same at every size."""
    found: list[int] = []
    for small, large in zip(before, after, strict=True):
        times = {b // a if b % a == 0 else 0 for a, b in zip(small, large, strict=True)}
        if len(times) > 1 or 0 in times:
            return None
        found += times
    return found
