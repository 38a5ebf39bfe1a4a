"""Linear layers: bias, merged projections, and what is done to a product as it is stored."""

import numpy as np
import pytest
from rewrite.graphs import by_onnxruntime, feed, fused_ops, graph, ops

from ondevice.rewrite import rewrite

rng = np.random.default_rng(0)
W, W2, W3 = (rng.standard_normal((6, n), dtype=np.float32) for n in (8, 8, 4))
B, B2 = (rng.standard_normal(n, dtype=np.float32) for n in (8, 4))
LINEAR = "m = MatMul(x, w) l = Add(m, b)"
IN = "(float[2,3,6] x, float[6,8] w, float[8] b"
HALVES = "v, g = Split<axis={}, num_outputs=2>(l)"
GELU = "d = Div(g, r) e = Erf(d) a = Add(e, o) h = Mul(a, f) t = Mul(g, h)"
CONSTANTS = "<float r = {1.4142135}, float o = {1.0}, float f = {0.5}>"
BOTH = {"w": W, "b": B}

FIRES = {
    "bias": (f"{IN}) => (float[2,3,8] l) {{ {LINEAR} }}", BOTH, {"LinearBias": 1}),
    "bias on the left": (f"{IN}) => (float[2,3,8] l) {{ m = MatMul(x, w) l = Add(b, m) }}", BOTH, {"LinearBias": 1}),
    "gemm": (
        "(float[3,6] x, float[8,6] w, float[8] b) => (float[3,8] y) { y = Gemm<transB=1>(x, w, b) }",
        {"w": W.T.copy(), "b": B},
        {"LinearBias": 1},
    ),
    "gemm, not turned": (
        "(float[3,6] x, float[6,8] w, float[8] b) => (float[3,8] y) { y = Gemm(x, w, b) }",
        BOTH,
        {"LinearBias": 1},
    ),
    "silu": (f"{IN}) => (float[2,3,8] y) {{ {LINEAR} s = Sigmoid(l) y = Mul(l, s) }}", BOTH, {"LinearBiasSilu": 1}),
    "relu": (f"{IN}) => (float[2,3,8] y) {{ {LINEAR} y = Relu(l) }}", BOTH, {"LinearBiasRelu": 1}),
    "geglu": (
        f"{IN}) => (float[2,3,4] y) {CONSTANTS} {{ {LINEAR} {HALVES.format(2)} {GELU} y = Mul(v, t) }}",
        BOTH,
        {"LinearBiasGeglu": 1},
    ),
    "residual": (f"{IN}, float[2,3,8] z) => (float[2,3,8] y) {{ {LINEAR} y = Add(z, l) }}", BOTH, {"LinearBiasAdd": 1}),
    "silu, then residual": (
        f"{IN}, float[2,3,8] z) => (float[2,3,8] y) {{ {LINEAR} s = Sigmoid(l) a = Mul(l, s) y = Add(a, z) }}",
        BOTH,
        {"LinearBiasSiluAdd": 1},
    ),
    "residual through a view": (
        f"{IN}, float[6,8] z) => (float[6,8] y) <int64[2] s = {{6, 8}}> {{ {LINEAR} r = Reshape(l, s) y = Add(r, z) }}",
        BOTH,
        {"LinearBiasAdd": 1},
    ),
    "projections of a few rows": (
        "(float[1,6] x, float[6,8] w, float[8] b, float[6,4] u, float[4] c) => (float[1,8] y, float[1,4] z) "
        "{ m = MatMul(x, w) l = Add(m, b) y = Neg(l) n = MatMul(x, u) k = Add(n, c) z = Neg(k) }",
        {**BOTH, "u": W3, "c": B2},
        {"LinearBias": 1},
    ),
}
XWB = "(float[{0},6] x, float[6,8] w, float[{1}] b) => (float[{0},8] l) {{ m = MatMul(x, w) l = Add(m, b) }}"
GEMM = "(float[{0}] x, float[6,8] w, float[8] b) => (float[3,8] y) {{ y = Gemm<{1}>(x, w, b) }}"
LEFT_ALONE = {
    "a computed weight": (XWB.format(2, 8), {"b": B}, {}, "is not a weight"),
    "a bias per row": (XWB.format(2, "2,1"), {"w": W, "b": np.ones((2, 1), np.float32)}, {}, "is no bias"),
    "a scaled gemm": (GEMM.format("3,6", "alpha=2.0"), BOTH, {}, "scales its operands"),
    "a gemm that turns x": (GEMM.format("6,3", "transA=1"), BOTH, {}, "turns the left"),
    "a product that is read twice": (
        f"{IN}) => (float[2,3,8] y, float[2,3,8] k) {{ {LINEAR} s = Sigmoid(l) y = Mul(l, s) k = Neg(l) }}",
        BOTH,
        {"LinearBias": 1, "Silu": 1},
        "another node reads the result before it",
    ),
    "a product that is a result": (
        f"{IN}) => (float[2,3,8] l, float[2,3,8] y) {{ {LINEAR} s = Sigmoid(l) y = Mul(l, s) }}",
        BOTH,
        {"LinearBias": 1, "Silu": 1},
        "another node reads the result before it",
    ),
    "a second residual": (
        f"{IN}, float[2,3,8] z) => (float[2,3,8] y) {{ {LINEAR} p = Add(z, l) y = Add(p, z) }}",
        BOTH,
        {"LinearBiasAdd": 1},
        "adds a residual already",
    ),
    "an activation after a residual": (
        f"{IN}, float[2,3,8] z) => (float[2,3,8] y) {{ {LINEAR} p = Add(z, l) s = Sigmoid(p) y = Mul(p, s) }}",
        BOTH,
        {"LinearBiasAdd": 1, "Silu": 1},
        "",
    ),
    "a residual that is repeated": (
        f"{IN}, float[3,8] z) => (float[2,3,8] y) {{ {LINEAR} y = Add(z, l) }}",
        BOTH,
        {"LinearBias": 1},
        "",
    ),
    "geglu over another axis": (
        "(float[2,4,6] x, float[6,8] w, float[8] b) => (float[2,2,8] y) "
        f"{CONSTANTS} {{ {LINEAR} {HALVES.format(1)} {GELU} y = Mul(v, t) }}",
        BOTH,
        {"LinearBias": 1, "Gelu": 1},
        "it splits axis 1",
    ),
    "geglu of a view": (
        f"{IN}) => (float[2,6,2] y) <int64[3] s = {{2, 6, 4}}, float r = {{1.4142135}}, "
        "float o = {1.0}, float f = {0.5}> "
        f"{{ {LINEAR} w2 = Reshape(l, s) v, g = Split<axis=2, num_outputs=2>(w2) {GELU} y = Mul(v, t) }}",
        BOTH,
        {"LinearBias": 1, "Geglu": 1},
        "a view stands between",
    ),
    "projections of many rows for two readers": (
        "(float[9,6] x, float[6,8] w, float[6,8] u) => (float[9,8] y, float[9,8] z) "
        "{ m = MatMul(x, w) n = MatMul(x, u) y = Neg(m) z = Neg(n) }",
        {"w": W, "u": W2},
        {},
        "",  # no attention reads either, so nothing was missed
    ),
}


@pytest.mark.parametrize("text, constants, expected", FIRES.values(), ids=FIRES)
def test_fires(text, constants, expected):
    model = graph(text, **constants)
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    assert fused_ops(model) == expected
    np.testing.assert_allclose(by_onnxruntime(model, inputs), before, rtol=1e-5, atol=1e-5)
    after = ops(model)
    assert not any(outcome.applied for outcome in rewrite(model)) and ops(model) == after


@pytest.mark.parametrize("text, constants, expected, reason", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_near_misses_are_left_alone_and_say_why(text, constants, expected, reason):
    model = graph(text, **constants)
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    skipped = [why for outcome in rewrite(model) for why in outcome.skipped]
    assert fused_ops(model) == expected
    assert not reason or any(reason in why for why in skipped), skipped
    assert not any(outcome.applied for outcome in rewrite(model))
    np.testing.assert_allclose(by_onnxruntime(model, inputs), before, rtol=1e-5, atol=1e-5)


def test_weights_are_joined_in_the_projections_order():
    text, constants, _ = FIRES["projections of a few rows"]
    model = graph(text, **constants)
    rewrite(model)
    (node,) = [n for n in model.graph if n.op_type == "LinearBias"]
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), np.concatenate([W, W3], 1))
    np.testing.assert_array_equal(node.inputs[2].const_value.numpy(), np.concatenate([B, B2]))
