"""A fused graph as the ops of a TFLite model: one emitter per op, in the graph's order.

Pictures are channels last throughout, the ports among them: where our graph turns an input or a result, the file does
not.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ondevice.export.tflite import arithmetic, attention, moves, norms, products
from ondevice.export.tflite.file import Model
from ondevice.export.tflite.weights import Storage
from ondevice.export.tflite.words import FIRST, LAST, Tensor, Words
from ondevice.graph.epilogue import read
from ondevice.graph.verify import static_shape

Emitter = Callable[[Words, ir.Node], "Tensor | list[Tensor]"]
EMITTERS: dict[str, Emitter] = {
    **dict.fromkeys(arithmetic.BINARY, arithmetic.binary),
    **dict.fromkeys(arithmetic.UNARY, arithmetic.unary),
    **dict.fromkeys(arithmetic.ACTIVATIONS, arithmetic.activation),
    **dict.fromkeys(("CosSin", "SinCos"), arithmetic.waves),
    **dict.fromkeys(("Reshape", "Unsqueeze", "Squeeze", "Flatten"), moves.reshape),
    **dict.fromkeys(("Attention", "MaskedAttention"), attention.attention),
    "Erf": arithmetic.erf,
    "Exp": arithmetic.exp,
    "Neg": arithmetic.neg,
    "MatMul": products.matmul,
    "Gemm": products.gemm,
    "Conv": products.conv,
    "InstanceNormalization": norms.instance_norm,
    "LayerNormalization": norms.layer_norm,
    "Softmax": attention.softmax,
    "Resize": moves.resize,
    "Gather": moves.gather,
    "Transpose": moves.transpose,
    "Concat": moves.concat,
    "Split": moves.split,
    "Slice": moves.slices,
    "Expand": moves.expand,
    "Identity": moves.same,
    "Cast": moves.cast,
    # with whatever steps
    **dict.fromkeys(("Linear", "ConcatLinear"), products.linear),
    **dict.fromkeys(("ConvNhwc", "UpConvNhwc"), products.conv_nhwc),
    "GroupNorm": norms.group_norm,
    **dict.fromkeys(("GroupNormNhwc", "ConcatGroupNormNhwc"), norms.group_norm_nhwc),
}


def emit(
    graph: ir.Graph, model: Model, storage: Storage, composites: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Put the graph into `model`; its inputs and results by our names, channels last where they have four axes.

    Args:
        composites: group norms and attention are composites, with their builtin ops in subgraphs of their own.

    Raises:
        GraphError: names the component and the node that a TFLite file cannot hold.
    """
    words = Words(model, storage, composites)
    inputs = {str(value.name): _input(words, value) for value in graph.inputs}
    unturned = _unturned(graph)
    for node in graph:
        if node.outputs[0] not in unturned or node.outputs[0].uses():
            _emit(words, node)
    taken = {tensor.number for tensor in inputs.values()}
    outputs = {}
    for value in graph.outputs:
        words.scope = words.where = str(value.name)
        tensor = words.last(unturned.get(value, value), turned=value not in unturned)
        if tensor.number in taken or words.is_constant(tensor):
            tensor = words.copy(tensor)  # a result has a tensor of its own
            words.name(tensor, words.scope)
        taken.add(tensor.number)
        outputs[words.scope] = tensor
    return inputs, outputs


def _input(words: Words, value: ir.Value) -> Tensor:
    """A tensor that is given."""
    words.where, shape = f"input {value.name}", static_shape(value)
    kind, picture = words.dtype(value), len(shape) == 4
    stored = tuple(shape[axis] for axis in LAST) if picture else shape
    tensor = Tensor(words.graph.tensor(str(value.name), stored, kind), stored, kind)
    words.keep(value, tensor, last=picture)
    return tensor


def _unturned(graph: ir.Graph) -> dict[ir.Value, ir.Value]:
    """Results that are values with channels last turned to have them first: those values."""
    found = {}
    for value in graph.outputs:
        node = value.producer()
        if node is not None and node.op_type == "Transpose" and _perm(node) == FIRST and node.inputs[0] is not None:
            found[value] = node.inputs[0]
    return found


def _perm(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes["perm"].as_ints()) if "perm" in node.attributes else ()


def _emit(words: Words, node: ir.Node) -> None:
    """One node. What it becomes several ops for has the value's name on the last."""
    words.scope, words.where = str(node.outputs[0].name), f"node {node.name} ({node.op_type})"
    if node.op_type == "Transpose" and _perm(node) == LAST and (picture := words.picture(node.inputs[0])) is not None:
        words.keep(node.outputs[0], picture)
        return
    stepped = read(node.op_type) if node.domain else None
    emitter = EMITTERS.get(stepped.base if stepped else node.op_type)
    if emitter is None:
        raise words.refusal("there is nothing like it among TFLite's ops.")
    found = emitter(words, node)
    for value, tensor in zip(node.outputs, found if isinstance(found, list) else [found], strict=True):
        words.keep(value, tensor)
        words.name(tensor, str(value.name))
