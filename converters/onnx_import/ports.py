"""Inputs and outputs of an imported graph: found by name, given our names, types and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.component import FLOATS, lazy
from ondevice.converters.families import Family
from ondevice.errors import GraphError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ports:
    """What a role's graph takes and gives, in our builder's terms. Shapes are in the sizes asked for."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    scale: int = 1  # pixels per unit of the inputs' height and width


def ports(
    family: Family, role: str, configs: Mapping[str, Config], *, batch: int = 1, height: int = 0, width: int = 0
) -> Ports:
    """The ports of `role` at a size, by running our builder dry; height and width in latent units."""
    about, graph = family.roles[role], family.graph(role)
    sizes = {"batch": batch} | ({"height": height, "width": width} if graph.sized else {}) | about.joined(configs)
    found = family.parts[about.part].architecture.ports(about.graph, configs[about.part], **sizes)
    inner = next((shape[2] for shape in found.inputs.values() if len(shape) == 4), 1)
    return Ports(found.inputs, found.outputs, family.scale(configs) * height // inner if graph.sized else 1)


def matched(graph: ir.Graph, wanted: Ports, where: str) -> dict[str, ir.Value]:
    """The graph's inputs by our names: by name where every name is there, else in order.

    Raises:
        GraphError: another number of inputs, or one of another rank.
    """
    given = [value for value in graph.inputs if value.name not in graph.initializers]
    names = [str(value.name) for value in given]
    if len(given) != len(wanted.inputs):
        raise GraphError(
            f"it takes {', '.join(names) or 'nothing'} (expected {', '.join(wanted.inputs)}).",
            where=where,
            fix="export the model with these inputs only",
        )
    found = dict(zip(wanted.inputs, given, strict=True))
    if set(names) == set(wanted.inputs):
        found = {name: given[names.index(name)] for name in wanted.inputs}
    for name, value in found.items():
        ranks = (0, 1) if name == "timestep" else (len(wanted.inputs[name]),)
        if value.shape is None or len(value.shape) not in ranks:
            raise GraphError(
                f"its input {value.name} is {_shown(value)} (expected {list(wanted.inputs[name])}).", where=where
            )
    return found


def misfit(graph: ir.Graph, wanted: Ports, where: str) -> str | None:
    """What size the file is fixed to, if it is one that was not asked for. Raises GraphError as `matched` does."""
    for name, value in matched(graph, wanted, where).items():
        assert value.shape is not None, "matched has seen it"
        if name == "timestep":
            continue  # adapted whatever it is
        own = [size if isinstance(size, int) else None for size in value.shape]
        if any(size is not None and size != asked for size, asked in zip(own, wanted.inputs[name], strict=True)):
            pixels = (
                f" ({own[3] * wanted.scale}x{own[2] * wanted.scale} pixels)"
                if len(own) == 4 and own[2] and own[3]
                else ""
            )
            return (
                f"its input {value.name} is fixed to {_shown(value)}{pixels}, "
                f"and {list(wanted.inputs[name])} is asked for"
            )
    return None


def _shown(value: ir.Value) -> str:
    if value.shape is None:
        return "of unknown shape"
    return "[" + ", ".join(str(size) if isinstance(size, int) else "any" for size in value.shape) + "]"


def adapt(model: ir.Model, wanted: Ports, where: str) -> None:
    """Give a graph our inputs and outputs, in place:
    sizes fixed, floats in float32, token ids in int32, a float timestep [1].

    The timestep's own type is not kept: a file that takes whole numbers only moves them about and casts them, so that
    it can as well have the fractions of samplers that use them.
    """
    graph = model.graph
    for name, value in matched(graph, wanted, where).items():
        shape, own = wanted.inputs[name], value
        kind = ir.DataType.INT32 if name == "input_ids" else ir.DataType.FLOAT
        if name == "timestep":
            assert own.shape is not None, "matched has seen it"
            batch = next((dims[0] for other, dims in wanted.inputs.items() if other == "sample"), 1)
            inner = () if len(own.shape) == 0 else (batch,) if own.shape[0] != 1 else (1,)
            _stay_float(own)
            _begin_at_one(graph, own, inner)
        own.name, own.shape, own.type = name, ir.Shape(shape), ir.TensorType(kind)
    order = list(wanted.inputs)
    graph.inputs[:] = sorted(
        graph.inputs, key=lambda value: order.index(str(value.name)) if value.name in order else -1
    )
    _our_outputs(graph, wanted, where)
    _single_precision(graph)


def _stay_float(timestep: ir.Value) -> None:
    """Casts of a timestep that is only moved about do nothing: it is a float already."""
    ahead, seen = [timestep], set()
    while ahead:
        for user in (use.node for use in ahead.pop().uses()):
            if user.op_type in ("Cast", "Expand", "Reshape", "Unsqueeze", "Squeeze", "Identity") and user not in seen:
                seen.add(user)
                ahead.append(user.outputs[0])
                if user.op_type == "Cast":
                    user.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)


def _begin_at_one(graph: ir.Graph, timestep: ir.Value, inner: Shape) -> None:
    """Let the graph take [1] where it was written for a scalar or for one per picture."""
    if inner == (1,):
        return
    target = ir.Value(
        name="timestep/shape", const_value=ir.tensor(list(inner), dtype=ir.DataType.INT64, name="timestep/shape")
    )
    target.shape, target.type = ir.Shape([len(inner)]), ir.TensorType(ir.DataType.INT64)
    users = tuple(timestep.uses())
    node = ir.node("Expand" if inner else "Reshape", [timestep, target], name="timestep/fit")
    node.outputs[0].name = "timestep/fitted"
    for user, index in users:
        user.replace_input_with(index, node.outputs[0])
    graph.register_initializer(target)
    graph.insert_before(graph[0], node)


def _our_outputs(graph: ir.Graph, wanted: Ports, where: str) -> None:
    """Keep the outputs of our names, or the first where we have one; what only the others need goes later."""
    if not graph.outputs:
        raise GraphError("it has no output.", where=where, fix="export the model again")
    named = {str(value.name): value for value in graph.outputs}
    if len(wanted.outputs) > 1 and not set(wanted.outputs) <= set(named):
        what = f"it gives {', '.join(named)} (expected {', '.join(wanted.outputs)})."
        raise GraphError(what, where=where, fix="export the model with outputs of these names")
    kept = [named.get(name, graph.outputs[0]) for name in wanted.outputs]
    graph.outputs.clear()
    for name, value in zip(wanted.outputs, kept, strict=True):
        graph.outputs.append(value)
        value.name = name


def _single_precision(graph: ir.Graph) -> None:
    """Every float is float32, as in our own graphs; a bundle's --dtype decides what is stored."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in FLOATS and tensor.dtype != ir.DataType.FLOAT:
            value.const_value = _widened(tensor)
        if value.const_value is not None:
            value.type = ir.TensorType(value.const_value.dtype)
    for node in graph:
        if node.op_type == "Cast" and ir.DataType(node.attributes["to"].as_int()) in FLOATS:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
        if node.op_type == "ConstantOfShape" and "value" in node.attributes:
            tensor = node.attributes["value"].as_tensor()
            if tensor.dtype in FLOATS:
                node.attributes["value"] = ir.AttrTensor("value", ir.tensor(tensor.numpy().astype("float32")))


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return lazy(
        lambda: tensor.numpy().astype("float32"), ir.DataType.FLOAT, list(tensor.shape.numpy()), str(tensor.name)
    )
