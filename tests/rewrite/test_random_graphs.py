"""Any graph of these pieces means the same after rewriting, and has no more nodes."""

import numpy as np
import onnx_ir as ir
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.converters.components.builder import GraphBuilder, shape_of
from ondevice.converters.components.layers import attention, gelu, group_norm, quick_gelu, silu
from ondevice.rewrite import rewrite

SHAPE = (2, 6, 5)  # [n, channels or tokens, rest]
PIECES = ("silu", "gelu", "quick_gelu", "norm", "attend", "sigmoid", "erf", "add", "mul", "halves")


def apply(b, piece, scope, x, y):
    """One more value from two earlier ones of SHAPE."""
    if piece in ("silu", "gelu", "quick_gelu"):
        return {"silu": silu, "gelu": gelu, "quick_gelu": quick_gelu}[piece](b, scope, x)
    if piece == "norm":
        return group_norm(b, "norm", x, 3, 1e-5)
    if piece == "attend":
        return attention(b, scope, x, y, y, 5)
    if piece in ("sigmoid", "erf"):
        return b.unary(scope, piece.capitalize(), x)
    if piece == "halves":  # value * gelu(gate), over the last axis or the one before it
        wide = b.concat(scope, 2, x, y)
        value, gate = b.op(scope, "Split", [wide], shape_of(x), shape_of(x), axis=2, num_outputs=2)
        return b.binary(scope, "Mul", value, gelu(b, scope, gate))
    return b.binary(scope, piece.capitalize(), x, y)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=8), st.integers(1, 3))
def test_any_graph_of_pieces(steps, outputs):
    rng = np.random.default_rng(0)
    weights = {f"norm.{part}": ir.tensor(rng.standard_normal(6, dtype=np.float32)) for part in ("weight", "bias")}

    def build():
        b = GraphBuilder("g", weights)
        values = [b.input("x", SHAPE)]
        for number, (piece, left, right) in enumerate(steps):
            values.append(apply(b, piece, f"s{number}", values[left % len(values)], values[right % len(values)]))
        last = dict.fromkeys(values[1:][-outputs:])  # inner values that are outputs, too, must survive
        return b.finish(**{f"y{i}": value for i, value in enumerate(last)})

    plain, fused = build(), build()
    rewrite(fused)
    assert len(fused.graph) <= len(plain.graph)
    inputs = {"x": rng.standard_normal(SHAPE, dtype=np.float32)}
    for got, expected in zip(run(fused, inputs), run(plain, inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


def run(model, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        None, inputs
    )
