"""Partial evaluation: one walk in the graph's order that gives every value its static shape and computes all
that sizes alone decide.

An exporter leaves shape arithmetic, constants in a dozen spellings and steps that do nothing; with the sizes known, all
of it goes. What is computed from a weight (a transpose, a scaled copy) becomes a weight that is computed when it is
read. Results are named by what they are, so that graphs of one file at several sizes share what is the same.

onnxscript's folder does much of this; it reads every weight that it folds, and keeps the results in memory.
"""

from __future__ import annotations

import hashlib
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from ondevice.converters.architectures.builder import OPSET
from ondevice.converters.component import FLOATS, WHOLE, lazy
from ondevice.errors import GraphError

SMALL = 1 << 16  # elements of a result that is computed now
LARGEST = 1 << 31  # elements of a result that is computed at all
KNOWN, SCALES = 1024, 8  # elements of a whole and of a broken constant that shape inference is told

# fmt: off
FOLDS = frozenset((
    "Abs", "Add", "And", "ArgMax", "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "Cos", "CumSum",
    "Div", "Equal", "Erf",
    "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherND", "Greater", "GreaterOrEqual", "IsNaN", "Less",
    "LessOrEqual", "Log", "MatMul",
    "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceSum",
    "Reshape", "Round", "ScatterND", "Sigmoid", "Sign", "Sin", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile",
    "Transpose", "Trilu",
    "Unsqueeze", "Where",
))
# fmt: on
SAME_IF_SHAPED_ALIKE = frozenset(("Reshape", "Expand", "Squeeze", "Unsqueeze", "Flatten"))
UNINFERRED = frozenset(("GroupNormalization",))  # shaped as their first input; ONNX has functions for them and no rule
NEUTRAL = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0, "Pow": 1.0}


def evaluate(model: ir.Model, where: str) -> None:
    """Bring every node of `model` to static shapes, in place; `where` names the file in errors.

    Raises:
        GraphError: shapes do not fit each other, or stay unknown; names the node.
    """
    graph = model.graph
    opset = graph.opset_imports.get("", OPSET)
    _prune(graph)  # a pooled output, say, has ops that nobody else needs
    for node in list(graph):
        where_node = f"{where}: node {node.name or node.outputs[0].name} ({node.op_type[:80]})"
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            raise GraphError(
                "it holds a graph of its own.", where=where_node, fix="export the model without control flow"
            )
        if node.op_type == "Constant":
            _keep(graph, node, [_literal(node, where_node)])
        elif node.op_type in ("Shape", "Size") and node.inputs[0] is not None and shape_of(node.inputs[0]) is not None:
            _keep(graph, node, [_measured(node)])
        else:
            _infer(node, opset, where_node)
            if not _fold(graph, node, opset, where_node) and not _drop(node):
                _merge(graph, node)
    _prune(graph)


def constant(graph: ir.Graph, array: np.ndarray) -> ir.Value:
    """An initializer named by its content."""
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:12]
    return _initializer(graph, ir.tensor(array, name=f"const.{digest}"))


def _initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    name = str(tensor.name)
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def shape_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """The static shape, if it is known."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def array_of(value: ir.Value | None) -> np.ndarray | None:
    """A small constant's values."""
    if value is None or value.const_value is None or value.const_value.size > SMALL:
        return None
    return value.const_value.numpy()


# What is known --------------------------------------------------------------------------------------------------------


def _literal(node: ir.Node, where: str) -> np.ndarray:
    name, attribute = next(iter(node.attributes.items()), ("", None))
    if attribute is None or name not in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        raise GraphError(f"its {name or 'value'} is not supported (expected numbers).", where=where)
    if name == "value":
        tensor = attribute.as_tensor()
        if tensor.dtype not in FLOATS and tensor.dtype not in WHOLE:
            raise GraphError(
                f"it holds {tensor.dtype.name} (expected numbers).", where=where, fix="export the model again"
            )
        return tensor.numpy().astype(np.float32) if tensor.dtype in FLOATS else tensor.numpy()
    return np.array(attribute.value, np.float32 if "float" in name else np.int64)


def _measured(node: ir.Node) -> np.ndarray:
    """Shape or Size of a value whose shape is known."""
    shape = shape_of(node.inputs[0])
    assert shape is not None, "the caller has seen it"
    if node.op_type == "Size":
        return np.array(prod(shape), np.int64)
    start, end = (
        node.attributes[name].as_int() if name in node.attributes else default
        for name, default in (("start", 0), ("end", None))
    )
    return np.array(shape[start:end], np.int64)


def _infer(node: ir.Node, opset: int, where: str) -> None:
    """Types and shapes of the node's outputs, by ONNX's own rules."""
    for value in node.outputs:
        value.shape = None
    if node.domain not in ("", "ai.onnx"):
        raise GraphError(
            f"op {node.domain[:80]}::{node.op_type[:80]} is not ONNX's own.",
            where=where,
            fix="export with torch.onnx's own ops only",
        )
    proto, types, data = ir.serde.serialize_node(node), {}, {}
    for value in filter(None, node.inputs):
        if value.name is None or value.dtype is None or (shape := shape_of(value)) is None:
            what = f"the shape of its input {value.name} does not follow from the sizes of the graph's inputs."
            raise GraphError(what, where=where, fix="export the model again with torch.onnx")
        types[value.name] = onnx.helper.make_tensor_type_proto(int(value.dtype), shape)
        if (
            value.const_value is not None
            and value.const_value.size <= KNOWN
            and (value.dtype in WHOLE or value.const_value.size <= SCALES)
        ):
            data[value.name] = onnx.numpy_helper.from_array(np.asarray(value.const_value.numpy()))
    try:
        found: dict[str, onnx.TypeProto] = {}
        for version in (opset, max(opset, OPSET)):  # early versions of some ops, such as LessOrEqual 12, have no rule
            schema = onnx.defs.get_schema(node.op_type, version, "")
            imports = [onnx.helper.make_operatorsetid("", version)]
            if not any(kind.tensor_type.HasField("shape") for kind in found.values()):
                found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
    except onnx.defs.SchemaError:
        raise GraphError(
            f"there is no such op in opset {opset}.", where=where, fix="export the model again at opset 18"
        ) from None
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        RuntimeError,
        ValueError,
        KeyError,
    ) as error:
        shapes = ", ".join(str(list(shape_of(value) or ())) for value in node.inputs if value is not None)
        reason = str(error).splitlines()[0].split("]")[-1].strip()[:160]
        raise GraphError(
            f"its inputs {shapes} do not fit ({reason}).",
            where=where,
            fix="choose a --size that the file was exported for; most need multiples of 64 pixels",
        ) from None
    if node.op_type in UNINFERRED and (source := node.inputs[0]) is not None:
        node.outputs[0].type, node.outputs[0].shape = source.type, source.shape
        return
    for value in node.outputs:
        kind = found.get(value.name or "")
        if kind is None or not kind.HasField("tensor_type"):
            continue
        value.type = ir.TensorType(ir.DataType(kind.tensor_type.elem_type))
        if kind.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.tensor_type.shape.dim):
            value.shape = ir.Shape([dim.dim_value for dim in kind.tensor_type.shape.dim])


# What goes ------------------------------------------------------------------------------------------------------------


def _keep(graph: ir.Graph, node: ir.Node, arrays: list[np.ndarray]) -> None:
    """Put constants in the place of a node's outputs."""
    for value, array in zip(node.outputs, arrays, strict=False):
        _replace(value, constant(graph, array))


def _replace(value: ir.Value, by: ir.Value) -> None:
    """Everywhere but as a graph output, whose name is fixed."""
    for user, index in tuple(value.uses()):
        user.replace_input_with(index, by)


def _fold(graph: ir.Graph, node: ir.Node, opset: int, where: str) -> bool:
    """Compute a node that has only constants; one that moves a large weight, when that is read."""
    inputs = [value for value in node.inputs if value is not None]
    if node.op_type not in FOLDS or not inputs or any(value.const_value is None for value in inputs):
        return False
    shapes = [shape_of(value) for value in node.outputs]
    sizes = [prod(shape) for shape in shapes if shape is not None]
    if len(sizes) < len(shapes) or any(size > LARGEST for size in sizes):
        return False
    proto = ir.serde.serialize_node(node)
    if max(sizes, default=0) <= SMALL and all(
        value.const_value.size <= SMALL for value in inputs if value.const_value is not None
    ):
        _keep(graph, node, _run(proto, inputs, opset, where))
        return True
    key = [
        node.op_type,
        *(str(value.name) for value in inputs),
        *sorted(f"{a.name}={a.value!r}" for a in node.attributes.values()),
    ]
    digest, base = (
        hashlib.sha256("\0".join(key).encode()).hexdigest()[:12],
        max(inputs, key=lambda value: prod(shape_of(value) or (1,))),
    )
    for index, (value, shape) in enumerate(zip(node.outputs, shapes, strict=True)):
        assert shape is not None and value.dtype is not None, "both are known above"
        name = f"{str(base.name).split(':')[0]}:{node.op_type}.{digest}" + (f".{index}" if index else "")
        _replace(value, _initializer(graph, _later(proto, inputs, opset, where, index, value.dtype, shape, name)))
    return True


def _later(
    proto: onnx.NodeProto,
    inputs: list[ir.Value],
    opset: int,
    where: str,
    index: int,
    dtype: ir.DataType,
    shape: tuple[int, ...],
    name: str,
) -> ir.LazyTensor:
    sources = [(str(value.name), value.const_value) for value in inputs]

    def read() -> np.ndarray:
        value = _evaluated(
            proto, {name: np.asarray(tensor.numpy()) for name, tensor in sources if tensor is not None}, opset, where
        )[index]
        return np.ascontiguousarray(value).reshape(shape)

    return lazy(read, dtype, shape, name)


def _run(proto: onnx.NodeProto, inputs: list[ir.Value], opset: int, where: str) -> list[np.ndarray]:
    """Floats in float64 and rounded once: one bit of a time frequency turns the angle of timestep 981 by 6e-5."""
    given = {str(value.name): value.const_value.numpy() for value in inputs if value.const_value is not None}
    wide = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in given.items()}
    if proto.op_type in ("Cast", "CastLike", "ConstantOfShape"):
        wide = given
    results = _evaluated(proto, wide, opset, where)
    return [array.astype(np.float32) if array.dtype == np.float64 else array for array in results]


def _evaluated(proto: onnx.NodeProto, given: dict[str, np.ndarray], opset: int, where: str) -> list[np.ndarray]:
    named = onnx.NodeProto()
    named.CopyFrom(proto)
    try:
        with np.errstate(all="ignore"):
            results: Any = ReferenceEvaluator(named, opsets={"": opset}).run(None, given)
    except Exception as error:  # ONNX's reference raises whatever NumPy raises; the graph is to blame
        raise GraphError(
            f"it cannot be computed ({str(error)[:160]}).", where=where, fix="export the model again"
        ) from None
    return [np.asarray(array) for array in results]


def _drop(node: ir.Node) -> bool:
    """Take a step out that changes nothing."""
    source, result = node.inputs[0] if node.inputs else None, node.outputs[0]
    if source is None or not _does_nothing(node, source, result):
        return False
    _replace(result, source)
    return True


def _does_nothing(node: ir.Node, source: ir.Value, result: ir.Value) -> bool:
    op, alike = node.op_type, shape_of(source) == shape_of(result)
    if op in ("Identity", "Dropout"):
        return not any(value.uses() for value in node.outputs[1:])
    if op == "Cast":
        return source.dtype == result.dtype
    if op in SAME_IF_SHAPED_ALIKE:
        return alike
    if op == "Transpose":
        perm = _perm(node)
        return perm == sorted(perm)
    if op == "Concat":
        return len(node.inputs) == 1
    if op == "Slice":
        steps = array_of(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
        return alike and steps is not None and bool((steps > 0).all())
    if op in NEUTRAL and alike:
        other = array_of(node.inputs[1])
        return other is not None and other.size == 1 and float(other.reshape(-1)[0]) == NEUTRAL[op]
    return False


def _perm(node: ir.Node) -> list[int]:
    rank = len(shape_of(node.inputs[0]) or ())
    return list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else list(reversed(range(rank)))


def _merge(graph: ir.Graph, node: ir.Node) -> None:
    """Give Reshape its whole shape, put the constant of a sum or a product on the right, and let a step that continues
    another one of its kind begin at the first one's source."""
    before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if node.op_type == "Reshape" and (shape := shape_of(node.outputs[0])) is not None:
        node.replace_input_with(1, constant(graph, np.array(shape, np.int64)))
        node.attributes.pop("allowzero", None)
        if before is not None and before.op_type in ("Reshape", "Unsqueeze", "Squeeze", "Flatten"):
            node.replace_input_with(0, before.inputs[0])
            _drop(node)
    elif node.op_type in ("Add", "Mul"):
        first, second = node.inputs
        if first is not None and first.const_value is not None and second is not None and second.const_value is None:
            node.replace_input_with(0, second)
            node.replace_input_with(1, first)
            _drop(node)
    elif node.op_type == "Transpose" and before is not None and before.op_type == "Transpose":
        inner = _perm(before)
        node.replace_input_with(0, before.inputs[0])
        node.attributes["perm"] = ir.AttrInt64s("perm", [inner[axis] for axis in _perm(node)])
        _drop(node)
    elif node.op_type == "Unsqueeze" and before is not None and before.op_type == "Unsqueeze":
        inner_axes, outer_axes = array_of(before.inputs[1]), array_of(node.inputs[1])
        if inner_axes is not None and outer_axes is not None:
            rank = len(shape_of(node.outputs[0]) or ())
            node.replace_input_with(0, before.inputs[0])
            node.replace_input_with(1, constant(graph, _both_axes(inner_axes, outer_axes, rank)))
    elif node.op_type == "Slice" and before is not None and before.op_type == "Concat":
        _skip_concat(node, before)


def _both_axes(first: np.ndarray, second: np.ndarray, rank: int) -> np.ndarray:
    """Axes of one Unsqueeze that does what two do."""
    new = {int(axis) % rank for axis in second}
    old = [axis for axis in range(rank) if axis not in new]
    return np.array(sorted(new | {old[int(axis) % len(old)] for axis in first}), np.int64)


def _skip_concat(node: ir.Node, concat: ir.Node) -> None:
    """A Slice that takes exactly one part of a Concat is that part."""
    bounds = [array_of(value) for value in node.inputs[1:]]
    shape, axis = shape_of(concat.outputs[0]), concat.attributes["axis"].as_int()
    if shape is None or any(bound is None or bound.size != 1 for bound in bounds) or len(bounds) < 3:
        return
    start, end, along, *step = (int(bound.reshape(-1)[0]) for bound in bounds if bound is not None)
    if (along - axis) % len(shape) or step not in ([], [1]):
        return
    first, last, _ = slice(start, end).indices(shape[axis])
    at = 0
    for part in concat.inputs:
        size = (shape_of(part) or shape)[axis]
        if (at, at + size) == (first, last) and part is not None:
            _replace(node.outputs[0], part)
        at += size


def _prune(graph: ir.Graph) -> None:
    """Remove what no output needs: nodes, and initializers."""
    outputs = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(value.uses() or value in outputs for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs:
            del graph.initializers[name]
