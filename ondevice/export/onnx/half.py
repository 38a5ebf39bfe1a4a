"""A graph with weights and activations in float16.

What half precision cannot carry stays float32, between Casts: normalizations, softmaxes with the masks added to them,
and what sines and cosines of time embeddings are made of. LayerNormalization needs no Casts: ONNX itself has its
statistics in float32 (stash_type 1). Fused ops keep their names, and get bodies that cast inside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from ondevice.export.narrow import half as rounded_to_half
from ondevice.graph.epilogue import NORMS, is_one
from ondevice.graph.origin import cast, origin_of, with_origin
from ondevice.lower import exact_values

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
WIDE = {"InstanceNormalization", "Softmax", "Cast", "Constant", "DequantizeLinear"}  # work in float32
AFTER_NORM = {"Reshape", "Mul", "Add"}  # how a GroupNorm ends: back to its shape, its scale, its bias
KEPT = {("Resize", 1), ("Resize", 2), ("MaskedAttention", 3)}  # inputs that are float32 beside data in float16


def halve(model: ir.Model) -> None:
    """Make a float32 graph a float16 one, in place; its ports, too, but for those that sines and cosines are made of.

    Every value keeps its name: where a Cast follows, that has it. Weights stay lazy; when they are written, GraphError
    for one that holds NaN or a number too large for float16.
    """
    graph, exact = model.graph, exact_values(model.graph)
    wide = _wide_nodes(graph, exact)
    for value in list(graph.initializers.values()):
        if value.dtype == FLOAT:
            _halve_weight(graph, value, wide)
    results = [value for node in graph for value in node.outputs if value.dtype == FLOAT]
    for value in (*(value for value in graph.inputs if value.dtype == FLOAT), *results):
        maker = value.producer()
        own = FLOAT if maker in wide or (maker is None and value.name in exact) else HALF
        value.type = ir.TensorType(own)
        other = HALF if own == FLOAT else FLOAT
        readers = [(use.node, use.idx) for use in value.uses() if _wanted(use.node, use.idx, wide) == other]
        given_out = value.is_graph_output() and own == FLOAT and maker is not None
        if readers or given_out:
            _cast(graph, value, other, readers, given_out)
    for function in model.functions.values():
        if is_one(function.name, NORMS):
            _widen_body(function)
        else:
            _widen_softmax(function)


def _wide_nodes(graph: ir.Graph, exact: Collection[str]) -> set[ir.Node | None]:
    """The nodes that work in float32."""
    wide, norms = set[ir.Node | None](), set[ir.Node | None]()
    for node in graph:
        moving = [v for v in node.inputs if v is not None and v.dtype == FLOAT and v.const_value is None]
        ends_norm = node.op_type in AFTER_NORM and bool(moving) and all(v.producer() in norms for v in moving)
        if node.op_type == "InstanceNormalization" or ends_norm:
            norms.add(node)
        if node.op_type in WIDE or ends_norm or any(value.name in exact for value in node.outputs):
            wide.add(node)
        if node.op_type == "Softmax" and (mask := _mask_before(node)) is not None:
            wide.add(mask)
    return wide


def _mask_before(softmax: ir.Node) -> ir.Node | None:
    """The Add that masks what a Softmax reads, if one does."""
    source = softmax.inputs[0]
    maker = None if source is None else source.producer()
    if source is None or maker is None or maker.op_type != "Add" or len(source.uses()) > 1:
        return None
    return maker


def _wanted(node: ir.Node, index: int, wide: Collection[ir.Node | None]) -> ir.DataType:
    """The type in which a node reads a float."""
    return FLOAT if node in wide or (node.op_type, index) in KEPT else HALF


def _halve_weight(graph: ir.Graph, value: ir.Value, wide: Collection[ir.Node | None]) -> None:
    """In float16 for the nodes that want it so; what others read stays beside it as NAME:float32."""
    name, tensor = str(value.name), value.const_value
    narrow = [use for use in value.uses() if _wanted(use.node, use.idx, wide) == HALF]
    if not narrow or tensor is None:
        return
    fixed = ir.Shape(tensor.shape.numpy())
    lazy = ir.LazyTensor(lambda: ir.Tensor(rounded_to_half(tensor.numpy(), name)), dtype=HALF, shape=fixed, name=name)
    with_origin(lazy, cast(origin_of(tensor), HALF))
    half = ir.Value(name=name, shape=fixed, type=ir.TensorType(HALF), const_value=lazy)
    for use in narrow:
        use.node.replace_input_with(use.idx, half)
    graph.initializers.pop(name)
    graph.register_initializer(half)
    if value.uses():
        value.name = f"{name}:float32"
        graph.register_initializer(value)


def _cast(
    graph: ir.Graph, value: ir.Value, to: ir.DataType, readers: Iterable[tuple[ir.Node, int]], given_out: bool
) -> None:
    """`value` in another type, for `readers` and, where it is `given_out`, as the graph's output."""
    maker, name = value.producer(), str(value.name)
    if maker is None:
        new_name = f"{name}:{'float16' if to == HALF else 'float32'}"
    elif to == HALF:
        value.name, new_name = f"{name}:float32", name
    else:
        new_name = f"{name}:float32"
    new = ir.Value(name=new_name, shape=value.shape, type=ir.TensorType(to))
    node = ir.node("Cast", [value], attributes={"to": to}, outputs=[new], name=f"{new_name}/Cast")
    for reader, index in readers:
        reader.replace_input_with(index, new)
    if given_out:
        graph.outputs[list(graph.outputs).index(value)] = new
    if maker is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(maker, node)


def _widen_body(function: ir.Function) -> None:
    """A fused op's whole body in float32."""
    first = function[0]
    for value in function.inputs:
        wide = _inner_cast(value, FLOAT)
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, wide.outputs[0])
        wide.replace_input_with(0, value)
        function.insert_before(first, wide)
    (result,) = function.outputs
    narrow = _inner_cast(result, HALF)
    function.append(narrow)
    function.outputs[0] = narrow.outputs[0]


def _widen_softmax(function: ir.Function) -> None:
    """A fused op's Softmax in float32, and the mask that is added before it."""
    for node in [node for node in function if node.op_type == "Softmax"]:
        at = _mask_before(node) or node
        source, result = at.inputs[0], node.outputs[0]
        assert source is not None, "a body has all its inputs"
        wide, narrow = _inner_cast(source, FLOAT), _inner_cast(result, HALF)
        for use in list(result.uses()):
            if use.node is not narrow:
                use.node.replace_input_with(use.idx, narrow.outputs[0])
        at.replace_input_with(0, wide.outputs[0])
        function.insert_before(at, wide)
        function.insert_after(node, narrow)


def _inner_cast(value: ir.Value, to: ir.DataType) -> ir.Node:
    """A Cast of a value of a body, not in its place yet."""
    new = ir.Value(name=f"{value.name}_{'wide' if to == FLOAT else 'narrow'}", type=ir.TensorType(to))
    return ir.node("Cast", [value], attributes={"to": to}, outputs=[new])
