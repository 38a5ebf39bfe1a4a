"""What a fused op means: an ONNX function body in the primitives it replaces, so that any ONNX runtime runs a fused graph unchanged.

Bodies are opset 18, as our graphs are; constants are cast like the data, so one body serves float32 and float16. Integer lists are
attributes of type INTS even where there is one number: a body can only pass those on.
"""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir

from ondevice.ops import DOMAIN

VERSION = 1

_GROUP_NORM = """
    keep = Constant <value_ints = [0]> ()
    count = Constant <value_ints: ints = @groups> ()
    rest = Constant <value_ints = [-1]> ()
    split = Concat <axis = 0> (keep, count, rest)
    grouped = Reshape (x, split)
    one = Constant <value_float = 1.0> ()
    typed_one = CastLike (one, x)
    ones = Expand (typed_one, count)
    zeros = Sub (ones, ones)
    normal = InstanceNormalization <epsilon: float = @epsilon> (grouped, ones, zeros)
    shape = Shape (x)
    wide = Reshape (normal, shape)
    scaled = Mul (wide, scale)
"""
_GELU = """
    root = Constant <value_float = 1.4142135381698608> ()
    typed_root = CastLike (root, {0})
    one = Constant <value_float = 1.0> ()
    typed_one = CastLike (one, {0})
    half = Constant <value_float = 0.5> ()
    typed_half = CastLike (half, {0})
    reduced = Div ({0}, typed_root)
    erf = Erf (reduced)
    shifted = Add (erf, typed_one)
    halved = Mul (shifted, typed_half)
"""
_GELU_TANH = """
    k = Constant <value_float = 0.044714998453855515> ()
    typed_k = CastLike (k, x)
    root = Constant <value_float = 0.7978845834732056> ()
    typed_root = CastLike (root, x)
    one = Constant <value_float = 1.0> ()
    typed_one = CastLike (one, x)
    half = Constant <value_float = 0.5> ()
    typed_half = CastLike (half, x)
    square = Mul (x, x)
    cube = Mul (square, x)
    small = Mul (cube, typed_k)
    sum = Add (x, small)
    inner = Mul (sum, typed_root)
    tanh = Tanh (inner)
    shifted = Add (tanh, typed_one)
    halved = Mul (x, typed_half)
    y = Mul (halved, shifted)
"""
_HEADS = """
    keep = Constant <value_ints = [0]> ()
    rest = Constant <value_ints = [-1]> ()
    count = Constant <value_ints: ints = @heads> ()
    split = Concat <axis = 0> (keep, keep, count, rest)
    q_heads = Reshape (q, split)
    k_heads = Reshape (k, split)
    v_heads = Reshape (v, split)
    q_first = Transpose <perm = [0, 2, 1, 3]> (q_heads)
    k_turned = Transpose <perm = [0, 2, 3, 1]> (k_heads)
    v_first = Transpose <perm = [0, 2, 1, 3]> (v_heads)
    factor = Constant <value_float: float = @scale> ()
    typed_factor = CastLike (factor, q)
    scaled = Mul (q_first, typed_factor)
    plain = MatMul (scaled, k_turned)
"""
_MIX = """
    weights = Softmax <axis = -1> ({0})
    mixed = MatMul (weights, v_first)
    tokens = Transpose <perm = [0, 2, 1, 3]> (mixed)
    shape = Shape (q)
    y = Reshape (tokens, shape)
"""

# op -> (attributes, inputs, body)
BODIES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "GroupNorm": (("groups", "epsilon"), ("x", "scale", "bias"), _GROUP_NORM + "y = Add (scaled, bias)"),
    "GroupNormSilu": (
        ("groups", "epsilon"),
        ("x", "scale", "bias"),
        _GROUP_NORM + "shifted = Add (scaled, bias) gate = Sigmoid (shifted) y = Mul (shifted, gate)",
    ),
    "Silu": ((), ("x",), "gate = Sigmoid (x) y = Mul (x, gate)"),
    "Gelu": ((), ("x",), _GELU.format("x") + "y = Mul (x, halved)"),
    "GeluTanh": ((), ("x",), _GELU_TANH),
    "QuickGelu": (
        (),
        ("x",),
        "k = Constant <value_float = 1.7020000219345093> () typed = CastLike (k, x) z = Mul (x, typed) s = Sigmoid (z) y = Mul (x, s)",
    ),
    "Geglu": (
        (),
        ("x",),
        "value, gate = Split <axis = -1, num_outputs = 2> (x)" + _GELU.format("gate") + "g = Mul (gate, halved) y = Mul (value, g)",
    ),
    "Attention": (("heads", "scale"), ("q", "k", "v"), _HEADS + _MIX.format("plain")),
    "MaskedAttention": (("heads", "scale"), ("q", "k", "v", "mask"), _HEADS + "masked = Add (plain, mask)" + _MIX.format("masked")),
}


@functools.cache
def _text(op: str) -> str:
    attributes, inputs, body = BODIES[op]
    listed = f" <{', '.join(attributes)}>" if attributes else ""
    return f'<domain: "{DOMAIN}", opset_import: ["": 18]> {op}{listed} ({", ".join(inputs)}) => (y) {{ {body} }}'


def function(op: str) -> ir.Function:
    """A fresh copy of the body of a fused op."""
    return ir.serde.deserialize_function(onnx.parser.parse_function(_text(op)))


def add_functions(model: ir.Model) -> None:
    """Give the model the bodies of the fused ops that it uses."""
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for op in sorted(used):
        body = function(op)
        model.functions[body.identifier()] = body
    if used:
        model.graph.opset_imports[DOMAIN] = VERSION
