"""Any graph of these pieces means the same after rewriting, and has no more nodes."""

import numpy as np
import onnx_ir as ir
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import attention, gelu, group_norm, quick_gelu, silu
from ondevice.rewrite import rewrite

SHAPE = (2, 6, 5)  # [n, channels or tokens, rest]
PIECES = (
    "silu", "gelu", "quick_gelu", "norm", "attend", "masked", "projected", "gemm", "slice", "sigmoid", "erf", "add",
    "mul", "halves",
)  # fmt: skip
MASKS = ((1, 1), (2, 1), (1, 5), (2, 5))  # pictures and heads of a mask: only the first is one for all


def made(b, scope, *shape):
    return b.constant(f"{scope}.{shape}", np.random.default_rng(len(scope)).standard_normal(shape, dtype=np.float32))


def apply(b, piece, scope, x, y, kind):
    """One more value from two earlier ones of SHAPE, of one kind out of eight."""
    n, tokens, width = SHAPE
    if piece == "masked":
        mask = made(b, f"{scope}.mask", *MASKS[kind % 4], tokens, tokens)
        return attention(b, scope, x, y, y, 5, mask)
    if piece == "projected":  # a bias on some of q, k, v
        q, k, v = (b.matmul(scope, x, made(b, f"{scope}.{name}", width, width)) for name in "qkv")
        q, k, v = (
            b.binary(scope, "Add", z, made(b, f"{scope}.b{i}", width)) if kind >> i & 1 else z
            for i, z in enumerate((q, k, v))
        )
        return attention(b, scope, q, k, v, 1)
    if piece == "gemm":  # alpha and beta of 1 or not
        rows = b.reshape(scope, x, n * tokens, width)
        scales = {"alpha": (1.0, 0.5)[kind & 1], "beta": (1.0, 2.0)[kind >> 1 & 1]}
        out = b.op(
            scope,
            "Gemm",
            [rows, made(b, f"{scope}.w", width, width), made(b, f"{scope}.b", width)],
            (n * tokens, width),
            **scales,
        )
        return b.reshape(scope, out, *SHAPE)
    if piece == "slice":  # two parts change places; starts and axes count from the end in some
        at, axis = (2, -3)[kind & 1], (2, -1)[kind >> 1 & 1]
        cut = at % width
        bounds = [b.ints(at), b.ints(99), b.ints(axis)], [b.ints((0, -width)[kind >> 2]), b.ints(cut), b.ints(axis)]
        ends = [
            b.op(scope, "Slice", [x, *bound], (n, tokens, size))
            for bound, size in zip(bounds, (width - cut, cut), strict=True)
        ]
        return b.concat(scope, 2, *ends)
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
@given(
    st.lists(st.tuples(st.sampled_from(PIECES), *[st.integers(0, 7)] * 3), min_size=1, max_size=8), st.integers(1, 3)
)
def test_any_graph_of_pieces(steps, outputs):
    rng = np.random.default_rng(0)
    weights = {f"norm.{part}": ir.tensor(rng.standard_normal(6, dtype=np.float32)) for part in ("weight", "bias")}

    def build():
        b = GraphBuilder("g", weights)
        values = [b.input("x", SHAPE)]
        for number, (piece, left, right, kind) in enumerate(steps):
            values.append(apply(b, piece, f"s{number}", values[left % len(values)], values[right % len(values)], kind))
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
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, inputs)
