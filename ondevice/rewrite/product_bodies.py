"""The bodies of activations, of Linear and of ConvNhwc:
products, then steps in their order (`ondevice.graph.epilogue`).

Both are channels last: x is [..., in], a weight [in, out], or [kh, kw, in, out] for a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from ondevice.graph.epilogue import STEPS, Stepped

Body = tuple[tuple[str, ...], tuple[str, ...], str]  # attributes, inputs, nodes

GELU = """
    root = Constant <value_float = 1.4142135381698608> ()
    typed_root = CastLike (root, {0})
    one = Constant <value_float = 1.0> ()
    typed_one = CastLike (one, {0})
    half = Constant <value_float = 0.5> ()
    typed_half = CastLike (half, {0})
    reduced = Div ({0}, typed_root)
    erf = Erf (reduced)
    shifted_erf = Add (erf, typed_one)
    halved = Mul (shifted_erf, typed_half)
"""
GELU_TANH = """
    three = Constant <value_float = 3.0> ()
    typed_three = CastLike (three, {0})
    small = Constant <value_float = 0.044714998453855515> ()
    typed_small = CastLike (small, {0})
    root = Constant <value_float = 0.7978845834732056> ()
    typed_root = CastLike (root, {0})
    one = Constant <value_float = 1.0> ()
    typed_one = CastLike (one, {0})
    half = Constant <value_float = 0.5> ()
    typed_half = CastLike (half, {0})
    cube = Pow ({0}, typed_three)
    part = Mul (cube, typed_small)
    inner = Add ({0}, part)
    angle = Mul (inner, typed_root)
    tanh = Tanh (angle)
    shifted_tanh = Add (tanh, typed_one)
    halved = Mul (shifted_tanh, typed_half)
"""
ACTIVATIONS = {  # {0} is the input's name, {1} the output's
    "Silu": "share = Sigmoid ({0}) {1} = Mul ({0}, share)",
    "Gelu": GELU + "{1} = Mul ({0}, halved)",
    "GeluTanh": GELU_TANH + "{1} = Mul ({0}, halved)",
    "QuickGelu": """
        k = Constant <value_float = 1.7020000219345093> () typed_k = CastLike (k, {0})
        z = Mul ({0}, typed_k) s = Sigmoid (z) {1} = Mul ({0}, s)
    """,
    "Geglu": "value, beside = Split <axis = -1, num_outputs = 2> ({0})"
    + GELU.format("beside")
    + "open = Mul (beside, halved) {1} = Mul (value, open)",
}
_FINISHES = ACTIVATIONS | dict.fromkeys(("Relu", "ThenRelu"), "{1} = Relu ({0})")


def finish(steps: Sequence[str], value: str) -> str:
    """The steps from `value` to `y`."""
    nodes = [] if steps else [f"y = Identity ({value})"]
    for number, step in enumerate(steps, 1):
        about, after = STEPS[step], "y" if number == len(steps) else f"with_{step}"
        joined = f"{after} = {about.joins} ({value}, {about.operand})"
        nodes.append(joined if about.operand else _FINISHES[step].format(value, after))
        value = after
    return " ".join(nodes)


def linear(stepped: Stepped) -> Body:
    """Of a Linear, whose x may come in two parts."""
    joined = "x2" in stepped.operands
    start = (
        "wide = Concat <axis = -1> (x, x2) product = MatMul (wide, weight)"
        if joined
        else "product = MatMul (x, weight)"
    )
    return (), stepped.operands, f"{start} {finish(stepped.steps, 'product')}"


def conv(stepped: Stepped) -> Body:
    """Of a ConvNhwc, whose x may first be repeated to a larger picture."""
    up = stepped.base == "UpConvNhwc"
    resize = 'Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
    large = (
        f"sizes = Constant <value_ints: ints = @sizes> () large = {resize} (first, , , sizes)"
        if up
        else "large = Identity (first)"
    )
    start = f"""
        first = Transpose <perm = [0, 3, 1, 2]> (x)
        {large}
        turned = Transpose <perm = [3, 2, 0, 1]> (weight)
        plain = Conv <strides: ints = @strides, pads: ints = @pads> (large, turned)
        product = Transpose <perm = [0, 2, 3, 1]> (plain)
    """
    return ("strides", "pads", *["sizes"] * up), stepped.operands, start + finish(stepped.steps, "product")
