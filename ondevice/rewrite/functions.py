"""What a fused op means: an ONNX function body in the primitives it replaces,
so that any ONNX runtime runs a fused graph unchanged.

Bodies are opset 18, as our graphs are; constants are cast like the data, so one body serves float32 and float16.
Integer lists are attributes of type INTS even where there is one number: a body can only pass those on.
"""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir

from ondevice.graph import epilogue
from ondevice.graph.ops import DOMAIN
from ondevice.graph.ranks import SUM
from ondevice.rewrite import product_bodies
from ondevice.rewrite.product_bodies import ACTIVATIONS, Body

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


def _nhwc(x: str) -> str:
    """Group norm with the channels last, any number of dimensions between."""
    return f"""
        shape = Shape ({x})
        channels = Shape <start = -1> ({x})
        keep = Constant <value_ints = [0]> ()
        rest = Constant <value_ints = [-1]> ()
        flat = Concat <axis = 0> (keep, rest, channels)
        rows = Reshape ({x}, flat)
        first = Transpose <perm = [0, 2, 1]> (rows)
        count = Constant <value_ints: ints = @groups> ()
        split = Concat <axis = 0> (keep, count, rest)
        grouped = Reshape (first, split)
        one = Constant <value_float = 1.0> ()
        typed_one = CastLike (one, {x})
        ones = Expand (typed_one, count)
        zeros = Sub (ones, ones)
        normal = InstanceNormalization <epsilon: float = @epsilon> (grouped, ones, zeros)
        first_shape = Shape (first)
        wide = Reshape (normal, first_shape)
        last = Transpose <perm = [0, 2, 1]> (wide)
        back = Reshape (last, shape)
        scaled = Mul (back, scale)
        shifted = Add (scaled, bias)
    """


def _trig(first: str, second: str) -> Body:
    return (
        (),
        ("t", "frequencies"),
        f"angle = Mul (t, frequencies) a = {first} (angle) b = {second} (angle) y = Concat <axis = -1> (a, b)",
    )


_GIVEN = """
    count = Constant <value_ints: ints = @groups> ()
    channels = Shape <start = -1> (x)
    one = Constant <value_ints = [1]> ()
    column = Concat <axis = 0> (count, one)
    per_group = Div (channels, count)
    table = Concat <axis = 0> (count, per_group)
    mean_column = Reshape (mean, column)
    mean_table = Expand (mean_column, table)
    mean_row = Reshape (mean_table, channels)
    variance_column = Reshape (variance, column)
    variance_table = Expand (variance_column, table)
    variance_row = Reshape (variance_table, channels)
    small = Constant <value_float: float = @epsilon> ()
    typed_small = CastLike (small, variance)
    above = Add (variance_row, typed_small)
    deviation = Sqrt (above)
    centred = Sub (x, mean_row)
    normal = Div (centred, deviation)
    scaled = Mul (normal, scale)
    shifted = Add (scaled, bias)
"""
_RMS = """
    shape = Shape (x)
    lead = Shape <end = -1> (x)
    count = Constant <value_ints: ints = @heads> ()
    rest = Constant <value_ints = [-1]> ()
    split = Concat <axis = 0> (lead, count, rest)
    apart = Reshape (x, split)
    square = Mul (apart, apart)
    last = Constant <value_ints = [-1]> ()
    mean = ReduceMean <keepdims = 1> (square, last)
    small = Constant <value_float: float = @epsilon> ()
    typed_small = CastLike (small, x)
    above = Add (mean, typed_small)
    root = Sqrt (above)
    unit = Div (apart, root)
    scaled = Mul (unit, weight)
    y = Reshape (scaled, shape)
"""
_ADA = """
    last = Constant <value_ints = [-1]> ()
    mean = ReduceMean <keepdims = 1> (x, last)
    centred = Sub (x, mean)
    square = Mul (centred, centred)
    variance = ReduceMean <keepdims = 1> (square, last)
    small = Constant <value_float: float = @epsilon> ()
    typed_small = CastLike (small, x)
    above = Add (variance, typed_small)
    deviation = Sqrt (above)
    normal = Div (centred, deviation)
    one = Constant <value_float = 1.0> ()
    typed_one = CastLike (one, x)
    gain = Add (scale, typed_one)
    scaled = Mul (normal, gain)
    y = Add (scaled, shift)
"""
_ATTENTION: Body = ("heads", "scale"), ("q", "k", "v"), _HEADS + _MIX.format("plain")
_MASKED: Body = (
    ("heads", "scale"),
    ("q", "k", "v", "mask"),
    _HEADS + "masked = Add (plain, mask)" + _MIX.format("masked"),
)
_NORMS = {  # up to `shifted`
    "GroupNorm": _GROUP_NORM + "shifted = Add (scaled, bias)",
    "GroupNormNhwc": _nhwc("x"),
    "ConcatGroupNormNhwc": "x_all = Concat <axis = -1> (x, x2)" + _nhwc("x_all"),
    "NormalizeNhwc": _GIVEN,
}
BODIES: dict[str, Body] = {
    **{op: ((), ("x",), body.format("x", "y")) for op, body in ACTIVATIONS.items()},
    "Attention": _ATTENTION,
    "MaskedAttention": _MASKED,
    "RmsNorm": (("heads", "epsilon"), ("x", "weight"), _RMS),
    "AdaLayerNorm": (("epsilon",), ("x", "shift", "scale"), _ADA),
    "GatedAdd": ((), ("x", "gate", "z"), "part = Mul (gate, z) y = Add (x, part)"),
    SUM: ((), ("x",), "y = Identity (x)"),
    "CosSin": _trig("Cos", "Sin"),
    "SinCos": _trig("Sin", "Cos"),
}


def body_of(op: str) -> Body:
    """The body of a fused op: of BODIES, or of one that takes steps."""
    if op in BODIES:
        return BODIES[op]
    stepped = epilogue.of(op)
    if stepped.base in _NORMS:
        return (
            ("groups", "epsilon"),
            stepped.operands,
            _NORMS[stepped.base] + product_bodies.finish(stepped.steps, "shifted"),
        )
    return (product_bodies.linear if stepped.base in epilogue.LINEAR else product_bodies.conv)(stepped)


@functools.cache
def _text(op: str) -> str:
    attributes, inputs, body = body_of(op)
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
