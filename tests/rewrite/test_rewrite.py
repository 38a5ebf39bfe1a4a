"""The rules fire where they should, change nothing that a graph means, and leave near misses alone."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from checkpoint_files import ROLES
from graph.test_epilogue import EVERY
from onnx.reference import ReferenceEvaluator
from rewrite.graphs import by_onnxruntime, feed, fused_ops, graph, ops
from tiny_model import TINY, tiny_graph

from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint, random_checkpoint_from_configs
from ondevice.errors import UsageError
from ondevice.graph.epilogue import TAKES
from ondevice.graph.ops import FUSED
from ondevice.lower import lower
from ondevice.rewrite import FUSIONS, rewrite
from ondevice.rewrite.functions import DOMAIN, function

COUNTS = {  # of SD 1.4 at full size: what stands in an op's name
    "text_encoder": {"MaskedAttention": 12, "QuickGelu": 12},
    "unet": {"GroupNorm": 61, "GroupNormNhwcSilu": 45, "Attention": 32, "Geglu": 16},
    "vae_decoder": {"GroupNorm": 30, "GroupNormNhwcSilu": 29, "Attention": 1},
    "vae_encoder": {"GroupNorm": 22, "GroupNormNhwcSilu": 21, "Attention": 1},
}


@pytest.fixture(scope="module")
def tiny():
    return build(random_checkpoint_from_configs(**TINY, seed=1))


@pytest.mark.parametrize("component", ROLES)
def test_counts_at_full_size(component):
    sizes = {} if component == "text_encoder" else {"batch": 2, "height": 64, "width": 64}
    model = build(random_checkpoint("sd14", 0)).graph(component, **sizes)
    rewrite(model)
    found = fused_ops(model)
    assert {part: sum(count for op, count in found.items() if part in op) for part in COUNTS[component]} == COUNTS[
        component
    ]
    primitives = {
        "InstanceNormalization", "Softmax", "Erf", "Sigmoid", "Div", "Mul", "Conv", "Gemm", "Resize", "Concat", "Sin",
    }  # fmt: skip
    assert not primitives & set(ops(model))


@pytest.mark.parametrize("component", ROLES)
def test_the_fused_graph_of_sd14(golden, component):
    """Every op with its count, by name: a change of the rules shows here."""
    sizes = {} if component == "text_encoder" else {"batch": 2, "height": 64, "width": 64}
    model = build(random_checkpoint("sd14", 0)).graph(component, **sizes)
    outcomes = rewrite(model)
    rules = [f"{o.rule}: {o.applied}" + "".join(f"; not {n}: {why}" for why, n in o.skipped.items()) for o in outcomes]
    uses = lower(model, component, storage="f16").methods
    rules += [
        f"{method}: {u.applied}" + "".join(f"; not {n}: {why}" for why, n in u.skipped.items())
        for method, u in uses.items()
    ]
    golden(
        f"rewrite/sd14_{component}.txt",
        "\n".join([*(f"{op} {count}" for op, count in sorted(ops(model).items())), "", *rules, ""]),
    )


@pytest.mark.parametrize(
    "off", [(), *((family,) for family in FUSIONS)], ids=lambda off: off[0] if off else "every rule"
)
@pytest.mark.parametrize("component", ROLES)
def test_a_fused_graph_means_the_same(tiny, component, off):
    plain, fused = tiny_graph(tiny, component), tiny_graph(tiny, component)
    outcomes = rewrite(fused, without=off)
    onnx.checker.check_model(ir.to_proto(fused), full_check=True)
    inputs = feed(plain)
    expected = by_onnxruntime(plain, inputs)
    assert np.abs(by_onnxruntime(fused, inputs) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert [o.family for o in outcomes if o.off] == [o.family for o in outcomes if o.family in off]


@pytest.mark.parametrize("component", ROLES)
def test_onnx_reference_runs_it_too(tiny, component):
    model = tiny_graph(tiny, component)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    rewrite(model)
    (got,) = ReferenceEvaluator(ir.to_proto(model)).run(None, inputs)
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("component", ROLES)
def test_a_second_pass_changes_nothing(tiny, component):
    model = tiny_graph(tiny, component)
    rewrite(model)
    before = ops(model)
    assert not any(outcome.applied for outcome in rewrite(model)) and ops(model) == before


def test_shapes_types_and_names_survive(tiny):
    model = tiny_graph(tiny, "unet")
    rewrite(model)
    for node in model.graph:
        assert node.name and all(
            v.shape is not None and v.shape.is_static() and v.dtype is not None for v in node.outputs
        )
    assert len({node.name for node in model.graph}) == len(list(model.graph))


def test_rewriting_reads_no_weights():
    def refuse():
        raise AssertionError("a weight was read")

    model = build(random_checkpoint_from_configs(**TINY, seed=1)).graph("unet", height=4, width=4)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.LazyTensor):
            stored = value.const_value
            value.const_value = ir.LazyTensor(refuse, dtype=stored.dtype, shape=stored.shape, name=stored.name)
    rewrite(model)


OPS = [*(op for op in FUSED if op not in TAKES), *(stepped.name for stepped in EVERY)]


@pytest.mark.parametrize("op", OPS)
def test_bodies_are_legal_and_need_nothing_newer(op):
    body = function(op)
    assert body.domain == DOMAIN and body.opset_imports == {"": 18}


SILU = "(float[2,3] x, float[2,3] z) => (float[2,3] y) { s = Sigmoid(x) y = Mul({}, s) }"
GELU = (
    "(float[4] x, float r, float o, float h) => (float[4] y) { d = Div(x, r) e = Erf(d) a = Add(e, o) "
    "m = Mul(a, h) y = Mul(x, m) }"
)
TANH = """(float[4] x, float[4] z, float k, float r, float o, float h) => (float[4] y) {
    s = Mul(x, x) c = Mul(s, x) m = Mul(c, k) a = Add(x, m) i = Mul(a, r) t = Tanh(i) e = Add(t, o) f = Mul(x, h)
    y = Mul(f, e) }"""
TANH_CONSTANTS = {
    "k": np.float32(0.044715),
    "r": np.float32((2 / np.pi) ** 0.5),
    "o": np.float32(1),
    "h": np.float32(0.5),
}
NORM = """(float[2,6,5] x, float[3] o, float[3] z, float[6,1] w, float[6,1] b) => (float[2,6,5] y)
    <int64[3] s = {0, 3, -1}, int64[3] j = {2, 6, 5}> {
    a = Reshape(x, s) n = InstanceNormalization<epsilon=0.001>(a, o, z) r = Reshape(n, j) m = Mul(r, w)
    y = Add(m, b) }"""
HEADS = """(float[1,3,8] q, float[1,5,8] k, float[1,5,8] v, float c) => (float[1,3,WIDTH] y)
    <int64[4] s = {0, -1, 2, 4}, int64[4] t = {0, -1, SPLIT}, int64[3] j = {1, 3, WIDTH}> {
    a = Reshape(q, s) b = Transpose<perm=[0,2,1,3]>(a) d = Mul(b, c)
    e = Reshape(k, s) f = Transpose<perm=[0,2,3,1]>(e) g = Mul(f, c)
    h = MatMul(d, g) i = Softmax<axis=-1>(h)
    l = Reshape(v, t) m = Transpose<perm=[0,2,1,3]>(l) n = MatMul(i, m) o = Transpose<perm=[0,2,1,3]>(n)
    y = Reshape(o, j) }"""
RMS = """(float[2,3,5] x, float e, float[5] w) => (float[2,3,5] y) <int64[1] a = {-1}> {
    s = Mul(x, x) m = ReduceMean<keepdims=1>(s, a) t = Add(m, e) r = Sqrt(t) d = Div(x, r) y = Mul(d, w) }"""
RMS_OF_HEADS = """(float[2,3,8] v, float e, float[4] w) => (float[2,3,8] y)
    <int64[1] a = {-1}, int64[4] p = {0, -1, 2, 4}, int64[3] j = {2, 3, 8}> {
    x = Reshape(v, p) s = Mul(x, x) m = ReduceMean<keepdims=1>(s, a) t = Add(m, e) r = Sqrt(t) d = Div(x, r)
    u = Mul(d, w) y = Reshape(u, j) }"""
ADA = """(float[2,3,5] x, float[2,1,5] t, float[2,1,5] c, float[5] o, float[5] z, float i) => (float[2,3,5] y) {
    n = LayerNormalization<axis=-1, epsilon=1e-6>(x, o, z) g = Add(c, i) m = Mul(n, g) y = Add(m, t) }"""
ADA_CONSTANTS = {"o": np.ones(5, np.float32), "z": np.zeros(5, np.float32), "i": np.float32(1)}
GATED = "(float[2,3,5] x, float[2,1,5] g, float[2,3,5] z) => (float[2,3,5] y) { m = Mul(g, z) y = Add(x, m) }"
MASKED = (
    HEADS.replace("SPLIT", "2, 4")
    .replace("WIDTH", "8")
    .replace("float c)", "float[MASK] p, float c)")
    .replace("i = Softmax<axis=-1>(h)", "hh = Add(h, p) i = Softmax<axis=-1>(hh)")
)
ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(6, 1), "b": np.ones((6, 1), np.float32)}

FIRES = {
    "silu": (SILU.replace("{}", "x"), {}, {"Silu": 1}),
    "silu, other order": (SILU.replace("Mul({}, s)", "Mul(s, x)"), {}, {"Silu": 1}),
    "gelu": (GELU, {"r": np.float32(2**0.5), "o": np.float32(1), "h": np.float32(0.5)}, {"Gelu": 1}),
    "group norm": (NORM, {"o": ones, "z": zeros, **WEIGHTS}, {"GroupNorm": 1}),
    "group norm, split in numbers": (
        NORM.replace("{0, 3, -1}", "{2, 3, 10}"),
        {"o": ones, "z": zeros, **WEIGHTS},
        {"GroupNorm": 1},
    ),
    "group norm of a view": (
        NORM.replace("[2,6,5] x", "[2,6,1,5] x"),
        {"o": ones, "z": zeros, **WEIGHTS},
        {"GroupNorm": 1},
    ),
    "tanh gelu": (TANH, TANH_CONSTANTS, {"GeluTanh": 1}),
    "tanh gelu, half inside": (
        TANH.replace("c = Mul(s, x)", "c = Mul(x, s)").replace(
            "f = Mul(x, h) y = Mul(f, e)", "f = Mul(e, h) y = Mul(x, f)"
        ),
        TANH_CONSTANTS,
        {"GeluTanh": 1},
    ),
    "tanh gelu, half last": (
        TANH.replace("f = Mul(x, h) y = Mul(f, e)", "f = Mul(x, e) y = Mul(f, h)"),
        TANH_CONSTANTS,
        {"GeluTanh": 1},
    ),
    "rms norm": (RMS, {"e": np.float32(1e-6), "w": np.arange(5, dtype=np.float32)}, {"RmsNorm": 1}),
    "rms norm of heads": (
        RMS_OF_HEADS,
        {"e": np.float32(1e-6), "w": np.arange(4, dtype=np.float32)},
        {"RmsNorm": 1},
    ),
    "ada layer norm": (ADA, ADA_CONSTANTS, {"AdaLayerNorm": 1}),
    "gated sum": (GATED, {}, {"GatedAdd": 1}),
    "gated sum, other order": (
        GATED.replace("Mul(g, z)", "Mul(z, g)").replace("Add(x, m)", "Add(m, x)"),
        {},
        {"GatedAdd": 1},
    ),
    **{
        f"attention with a mask of {shape}": (
            MASKED.replace("MASK", shape),
            {"c": np.float32(0.7)},
            {"MaskedAttention": 1},
        )
        for shape in ("1,1,3,5", "1,2,3,5", "1,1,1,5")
    },
    "attention": (HEADS.replace("SPLIT", "2, 4").replace("WIDTH", "8"), {"c": np.float32(0.7)}, {"Attention": 1}),
}
NEAR_MISSES = {
    "silu of another value": (SILU.replace("{}", "z"), {}, ""),
    "gelu, other root": (
        GELU,
        {"r": np.float32(1.5), "o": np.float32(1), "h": np.float32(0.5)},
        "its constants are 1.5, 1.0, 0.5",
    ),
    "gelu, computed root": (GELU, {"o": np.float32(1), "h": np.float32(0.5)}, "its constants are None"),
    "tanh gelu, other cubic": (TANH, TANH_CONSTANTS | {"k": np.float32(0.05)}, "its constants are 0.05"),
    "rms norm over another axis": (
        RMS.replace("a = {-1}", "a = {1}"),
        {"e": np.float32(1e-6), "w": np.ones(5, np.float32)},
        "its mean is over [1]",
    ),
    "rms norm of a computed epsilon": (RMS, {"w": np.ones(5, np.float32)}, "its epsilon no constant"),
    "ada layer norm with a weight inside": (
        ADA,
        ADA_CONSTANTS | {"o": np.full(5, 2, np.float32)},
        "weights of its own",
    ),
    "ada layer norm by another sum": (ADA, ADA_CONSTANTS | {"i": np.float32(2)}, "another sum than 1 + scale"),
    "ada layer norm of a scale per token": (
        ADA.replace("[2,1,5] c", "[2,3,5] c"),
        ADA_CONSTANTS,
        "its scale is (2, 3, 5)",
    ),
    "ada layer norm of a shift of all": (ADA.replace("[2,1,5] t", "[1,1,5] t"), ADA_CONSTANTS, "its shift (1, 1, 5)"),
    "a gate per token": (GATED.replace("[2,1,5] g", "[2,3,5] g"), {}, ""),
    "a gate of all": (GATED.replace("[2,1,5] g", "[1,1,5] g"), {}, ""),
    "a gated sum that is read before it": (
        GATED.replace("=> (float[2,3,5] y)", "=> (float[2,3,5] y, float[2,3,5] m)"),
        {},
        "",
    ),
    "a mask per picture": (
        MASKED.replace("MASK", "1,1,3,1"),
        {"c": np.float32(0.7)},
        "its mask is (1, 1, 3, 1) (expected [1, 1, queries, keys], or one per head, or one row)",
    ),
    "tanh gelu of another value": (TANH.replace("Mul(x, h)", "Mul(z, h)"), TANH_CONSTANTS, ""),
    "norm that joins other channels": (
        NORM.replace("j = {2, 6, 5}", "j = {2, 3, 10}").replace("[2,6,5] y", "[2,3,10] y").replace("[6,1]", "[3,1]"),
        {"o": ones, "z": zeros, "w": np.ones((3, 1), np.float32), "b": np.ones((3, 1), np.float32)},
        "it joins to [2, 3, 10]",
    ),
    "norm with a scale inside": (NORM, {"o": 2 * ones, "z": zeros, **WEIGHTS}, "a scale or a bias of its own"),
    "norm across pictures": (
        NORM.replace("{0, 3, -1}", "{1, 3, 20}"),
        {"o": ones, "z": zeros, **WEIGHTS},
        "does not split [n, groups, rest]",
    ),
    "heads that differ": (
        HEADS.replace("SPLIT", "1, 8").replace("WIDTH", "16"),
        {"c": np.float32(0.7)},
        "its heads are split as",
    ),
    "keys shared by a batch": (
        HEADS.replace("SPLIT", "2, 4")
        .replace("WIDTH", "8")
        .replace("[1,3,8] q", "[2,3,8] q")
        .replace("[1,3,8] y", "[2,3,8] y")
        .replace("j = {1,", "j = {2,"),
        {"c": np.float32(0.7)},
        "with the same n and width",
    ),
    "a computed scale": (HEADS.replace("SPLIT", "2, 4").replace("WIDTH", "8"), {}, "its scale is not a constant"),
}


@pytest.mark.parametrize("text, constants, expected", FIRES.values(), ids=FIRES)
def test_fires(text, constants, expected):
    model = graph(text, **constants)
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    assert fused_ops(model) == expected
    np.testing.assert_allclose(by_onnxruntime(model, inputs), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text, constants, reason", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_misses_are_left_alone_and_say_why(text, constants, reason):
    model = graph(text, **constants)
    before = ops(model)
    skipped = [why for outcome in rewrite(model) for why in outcome.skipped]
    assert ops(model) == before
    assert not reason or any(reason in why for why in skipped), skipped


def test_a_second_user_of_an_inner_value_stops_the_rule():
    text = (
        "(float[4] x, float r) => (float[4] y, float[4] e) { d = Div(x, r) e = Erf(d) a = Add(e, o) "
        "m = Mul(a, h) y = Mul(x, m) }"
    )
    text = text.replace("{ d", "<float o = {1.0}, float h = {0.5}> { d")
    model = graph(text, r=np.float32(2**0.5))
    rewrite(model)
    assert fused_ops(model) == {}


def test_an_unknown_rule_is_refused():
    with pytest.raises(UsageError, match=r"--without: rules fusion are unknown \(expected some of group_norm"):
        rewrite(graph(SILU.replace("{}", "x")), without=["fusion"])
