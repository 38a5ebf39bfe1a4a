"""What exporters spell in many ways comes to one: same values, our own ops; near misses stay as they are."""

import collections

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_files import legal, parsed

from ondevice.converters.onnx_import.evaluate import evaluate
from ondevice.converters.onnx_import.spelling import FORMS, NATIVE, respell
from ondevice.errors import GraphError
from ondevice.rewrite import rewrite

onnxruntime.set_default_logger_severity(3)


def run(model):
    rng = np.random.default_rng(0)
    inputs = {
        v.name: rng.standard_normal([int(size) for size in v.shape], dtype=np.float32) for v in model.graph.inputs
    }
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, inputs
    )[0]


def ops(model):
    return dict(collections.Counter(node.op_type for node in model.graph))


def heads(scores, *, mask="", between="", out="y = MatMul(p, v)"):
    """Attention over [1, 2, tokens, 4]: `scores` makes s of q and k."""
    soft = f"t = Add(s, {mask}) p0 = Softmax<axis = -1>(t)" if mask else "p0 = Softmax<axis = -1>(s)"
    keep = between or "p = Identity(p0)"
    return (
        "(float[1,2,3,4] q, float[1,2,5,4] k, float[1,2,5,4] v) => (float[1,2,3,4] y) "
        f"{{ {scores} {soft} {keep} {out} }}"
    )


SANDWICH = """f = Constant<value_ints = [2, 5, 4]>() a = Reshape(k, f) b = Transpose<perm = [0, 2, 1]>(a)
    w = Constant<value_ints = [1, 2, 4, 5]>() kt = Reshape(b, w)"""
PLAIN = "kt = Transpose<perm = [0, 1, 3, 2]>(k)"
HALF = "c = Constant<value_float = 0.5>()"
BOTH = "g = Constant<value_float = 0.7>() q1 = Mul(q, g) k1 = Mul(kt, g) s = MatMul(q1, k1)"
OURS = {"Transpose": 1, "Mul": 2, "MatMul": 2, "Softmax": 1}
GUARD = "n = IsNaN(p0) z = Constant<value_float = FILL>() p = Where(n, z, p0)"
CAUSAL = np.triu(np.full((3, 5), -np.inf, np.float32), 1)
WIDE = CAUSAL.reshape(1, 1, 3, 5)
NOTHING = np.full((1, 1, 3, 5), -np.inf, np.float32)
NORM = (
    "(float[2,6,5,1] x, float[6] w, float[6] b) => (float[2,6,5,1] y) { y = GroupNormalization<num_groups = 3, "
    "epsilon = 0.001>(x, w, b) }"
)
WEIGHTS = {"w": np.arange(6, dtype=np.float32), "b": np.ones(6, np.float32)}
ATTEND = (
    "(float[1,2,3,4] q, float[1,2,5,4] k, float[1,2,5,4] v) => (float[1,2,3,4] y) "
    "{ MASK y = Attention<ATTRS>(q, k, v MORE) }"
)


def attend(attributes="", mask="", more=""):
    return (
        ATTEND.replace("<ATTRS>", f"<{attributes}>" if attributes else "").replace("MASK", mask).replace("MORE", more)
    )


PRIMITIVE_NORM = {"Reshape": 2, "InstanceNormalization": 1, "Mul": 1, "Add": 1}
VALUES = {"two": np.float32(2), "e": np.float32(1e-5), "w": np.arange(4, dtype=np.float32), "b": np.ones(4, np.float32)}
LAYER_NORM = """(float[2,3,4] x) => (float[2,3,4] y) {
    m = ReduceMean<axes = [-1]>(x) c = Sub(x, m) s = Pow(c, two) n = ReduceMean<axes = [-1]>(s) d = Add(n, e)
    r = Sqrt(d) h = Div(c, r) g = Mul(h, w) y = Add(g, b) }"""
HALVES = """(float[2,3,8] x) => (float[2,3,4] y) {
    a = Constant<value_ints = [2]>() o = Constant<value_ints = [0]>() h = Constant<value_ints = [4]>()
    e = Constant<value_ints = [99]>()
    v = Slice(x, o, h, a) g = Slice(x, h, e, a) y = Sub(v, g) }"""
PADDED = """(float[1,2,5,4] x, float[3,2,3,3] w) => (float[1,3,2,2] y) {
    p = Constant<value_ints = [0, 0, 0, 0, 0, 0, 1, 1]>() z = Constant<value_float = FILL>()
    a = Pad<mode = "constant">(x, p, z) y = Conv<strides = [2, 2], pads = [0, 0, 0, 0]>(a, w) }"""
KERNEL = {"w": np.arange(54, dtype=np.float32).reshape(3, 2, 3, 3)}

CASES = {  # id: (text, opset, constants, ops)
    "group norm": (NORM, 21, WEIGHTS, PRIMITIVE_NORM),
    "gelu": ("(float[4] x) => (float[4] y) { y = Gelu(x) }", 20, {}, {"Div": 1, "Erf": 1, "Add": 1, "Mul": 2}),
    "tanh gelu": (
        '(float[4] x) => (float[4] y) { y = Gelu<approximate = "tanh">(x) }', 20, {}, {"Mul": 6, "Add": 2, "Tanh": 1},
    ),
    "attention": (attend(), 23, {}, OURS),
    "attention with a scale": (attend("scale = 0.3"), 23, {}, OURS),
    "attention, causal": (attend("is_causal = 1"), 23, {}, OURS | {"Add": 1}),
    "attention, mask of booleans": (
        attend(mask="m = Constant<value = bool[1,1,3,5] {1,0,0,0,0,1,1,0,0,0,1,1,1,0,0}>()", more=", m"), 23, {},
        OURS | {"Add": 1},
    ),
    "attention, mask to add": (attend(mask="m = Identity(mask)", more=", m"), 23, {"mask": WIDE}, OURS | {"Add": 1}),
    "turned keys": (heads(f"{SANDWICH} {BOTH}"), 18, {}, OURS),
    "scale on the scores": (heads(f"{PLAIN} {HALF} s0 = MatMul(q, kt) s = Mul(s0, c)"), 18, {}, OURS),
    "scale divides the scores": (heads(f"{PLAIN} {HALF} s0 = MatMul(q, kt) s = Div(s0, c)"), 18, {}, OURS),
    "scale on the queries": (heads(f"{PLAIN} {HALF} q1 = Mul(c, q) s = MatMul(q1, kt)"), 18, {}, OURS),
    "guarded softmax": (
        heads(f"{PLAIN} {BOTH}", mask="mask", between=GUARD.replace("FILL", "0.0")), 18, {"mask": WIDE},
        OURS | {"Add": 1},
    ),
    "narrow mask": (heads(f"{PLAIN} {BOTH}", mask="mask"), 18, {"mask": CAUSAL}, OURS | {"Add": 1}),
    "layer norm": (LAYER_NORM, 14, VALUES, {"LayerNormalization": 1}),
    "halves": (HALVES, 17, {}, {"Split": 1, "Sub": 1}),
    "split without a number": (
        HALVES.split("{\n")[0] + "{ v, g = Split<axis = -1>(x) y = Sub(v, g) }", 17, {}, {"Split": 1, "Sub": 1},
    ),
    "padding": (PADDED.replace("FILL", "0.0"), 17, KERNEL, {"Conv": 1}),
    "powers": ("(float[4] x) => (float[4] y) { y = Pow(x, three) }", 18, {"three": np.float32(3)}, {"Mul": 2}),
}  # fmt: skip
OTHERWISE = SANDWICH.replace("[2, 5, 4]", "[5, 2, 4]").replace("[0, 2, 1]", "[1, 2, 0]")
OVERLAP = HALVES.replace("v = ", "i = Constant<value_ints = [3]>() j = Constant<value_ints = [7]>() v = ").replace(
    "(x, h, e, a)", "(x, i, j, a)"
)
ACROSS = HALVES.replace("[2,3,8] x", "[2,8,4] x").replace("[2,3,4] y", "[2,4,4] y").replace("[2]>() o", "[1]>() o")
EVERY = (
    HALVES.replace("v = ", "t = Constant<value_ints = [2]>() v = ")
    .replace(", a)", ", a, t)")
    .replace("[2,3,4] y", "[2,3,2] y")
)
LESS = HALVES.replace("v = ", "i = Constant<value_ints = [3]>() v = ").replace("(x, o, h, a)", "(x, o, i, a)")
LESS = LESS.replace("y = Sub(v, g)", "y = Concat<axis = 2>(v, g)").replace("[2,3,4] y", "[2,3,7] y")
NEAR_MISSES = {  # id: (text, opset, what stays)
    "keys turned otherwise": (heads(f"{OTHERWISE} {BOTH}"), 18, {"Reshape": 2}),
    "a factor that is no scale": (
        heads(f"{PLAIN} {HALF} s0 = MatMul(q, kt) s1 = Mul(s0, c) s = Neg(s1)"), 18, {"Neg": 1, "Mul": 1},
    ),
    "a negative scale": (
        heads(f"{PLAIN} c = Constant<value_float = -0.5>() s0 = MatMul(q, kt) s = Mul(s0, c)"), 18, {"Mul": 1},
    ),
    "halves that overlap": (OVERLAP, 17, {"Slice": 2}),
    "halves of another axis": (ACROSS, 17, {"Slice": 2}),
    "less than a half": (LESS, 17, {"Slice": 2}),
    "halves by every second column": (EVERY, 17, {"Slice": 2}),
    "a first half that is a result": (
        HALVES.replace("float[2,3,4] y", "float[2,3,4] v, float[2,3,4] y").replace("Sub(v, g)", "Neg(g)"), 17,
        {"Slice": 2},
    ),
    "a second half that is a result": (
        HALVES.replace("float[2,3,4] y", "float[2,3,4] g, float[2,3,4] y").replace("Sub(v, g)", "Neg(v)"), 17,
        {"Slice": 2},
    ),
    "parts that are no halves": (
        "(float[2,5] x) => (float[2,3] y) { s = Constant<value_ints = [2, 3]>() a, "
        "b = Split<axis = 1>(x, s) y = Neg(b) }",
        17, {"Split": 1},
    ),
    "a division by a negative number": (
        heads(f"{PLAIN} c = Constant<value_float = -2.0>() s0 = MatMul(q, kt) s = Div(s0, c)"), 18, {"Div": 1},
    ),
    "a scale of three dimensions": (
        """(float[2,3,4] q, float[2,4,5] k) => (float[2,3,5] y) {
           c = Constant<value_float = 0.5>() s = MatMul(q, k) t = Mul(s, c) y = Softmax(t) }""",
        18, {"Mul": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("text, opset, constants, expected", CASES.values(), ids=CASES)
def test_comes_to_our_spelling(text, opset, constants, expected):
    model = legal(text, opset, **constants)
    assert ops(model) == expected and model.graph.opset_imports == {"": 18}
    want = run(parsed(text, opset, **constants))
    np.testing.assert_allclose(run(model), want, rtol=1e-5, atol=1e-6)
    rewrite(model)
    np.testing.assert_allclose(run(model), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text, opset, stays", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_misses_stay(text, opset, stays):
    model = legal(text, opset)
    assert stays.items() <= ops(model).items()
    np.testing.assert_allclose(run(model), run(parsed(text, opset)), rtol=1e-5, atol=1e-6)


STAYS = {  # id: (text, opset, constants, op that is left as it was)
    "a guard that fills with one": (
        heads(f"{PLAIN} {BOTH}", mask="mask", between=GUARD.replace("FILL", "1.0")), 18, {"mask": WIDE}, "IsNaN",
    ),
    "a guard that is needed": (
        heads(f"{PLAIN} {BOTH}", mask="mask", between=GUARD.replace("FILL", "0.0")), 18, {"mask": NOTHING}, "IsNaN",
    ),
    "attention with a cap": (attend("softcap = 5.0"), 23, {}, "Attention"),
    "padding with ones": (PADDED.replace("FILL", "1.0"), 17, KERNEL, "Pad"),
    "padding of channels": (PADDED.replace("FILL", "0.0").replace("[0, 0, 0, 0, 0, 0,", "[0, 1, 0, 0, 0, 0,"), 17,
                            {"w": np.ones((3, 3, 3, 3), np.float32)}, "Pad"),
    "padding by reflection": (PADDED.replace("constant", "reflect").replace("FILL", "0.0"), 17, KERNEL, "Pad"),
    "padding that cuts": (
        PADDED.replace("FILL", "0.0").replace("0, 0, 0, 0, 0, 0, 1, 1", "0, 0, -1, 0, 0, 0, 2, 1"), 17, KERNEL, "Pad",
    ),
    "padding of a film": (
        """(float[1,2,3,5,4] x, float[3,2,1,3,3] w) => (float[1,3,3,4,3] y) {
           p = Constant<value_ints = [0, 0, 0, 1, 0, 0, 0, 0, 0, 1]>() a = Pad(x, p) y = Conv(a, w) }""",
        18, {"w": np.ones((3, 2, 1, 3, 3), np.float32)}, "Pad",
    ),
    "padding of named axes": (
        PADDED.replace("[0, 0, 0, 0, 0, 0, 1, 1]", "[0, 0, 1, 1]").replace("FILL", "0.0")
        .replace("z = ", "n = Constant<value_ints = [2, 3]>() z = ").replace("(x, p, z)", "(x, p, z, n)"), 18, KERNEL,
        "Pad",
    ),
    "padding before a convolution that pads by rule": (
        PADDED.replace("FILL", "0.0").replace("pads = [0, 0, 0, 0]", 'auto_pad = "VALID"'), 17, KERNEL, "Pad",
    ),
    "a power of more axes": (
        "(float[4] x) => (float[1,4] y) { y = Pow(x, two) }", 18, {"two": np.full((1, 1), 2, np.float32)}, "Pow",
    ),
    "a norm of means without their axis": (
        LAYER_NORM.replace("[-1]", "[-1], keepdims = 0").replace("[2,3,4]", "[4,4]"), 14, VALUES, "ReduceMean",
    ),
    "a norm over another axis": (
        LAYER_NORM.replace("[-1]", "[1]").replace("[2,3,4]", "[2,4,4]"), 14, VALUES, "ReduceMean",
    ),
    "a norm with one scale for all": (LAYER_NORM, 14, VALUES | {"w": np.float32(2)}, "ReduceMean"),
    "a norm with one bias for all": (LAYER_NORM, 14, VALUES | {"b": np.float32(2)}, "ReduceMean"),
    "a norm with an epsilon per column": (LAYER_NORM, 14, VALUES | {"e": np.full(4, 1e-5, np.float32)}, "ReduceMean"),
    "a norm with a scale per group": (
        NORM, 21, {"w": np.ones(3, np.float32), "b": np.ones(3, np.float32)}, "GroupNormalization",
    ),
    "attention with fewer keys' heads": (
        attend().replace("[1,2,5,4] k", "[1,1,5,4] k").replace("[1,2,5,4] v", "[1,1,5,4] v"), 23, {}, "Attention",
    ),
    "attention over rows of heads": (
        """(float[1,5,8] q, float[1,5,8] k, float[1,5,8] v) => (float[1,5,8] y) {
           y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v) }""",
        23, {}, "Attention",
    ),
    "a guard of a softmax over the queries": (
        heads(f"{PLAIN} {BOTH}", mask="mask", between=GUARD.replace("FILL", "0.0")).replace("axis = -1", "axis = 2"),
        18, {"mask": np.tile(np.array([-np.inf, 0, 0, 0, 0], np.float32), (1, 1, 3, 1))}, "IsNaN",
    ),
    "a fourth power": ("(float[4] x) => (float[4] y) { y = Pow(x, four) }", 18, {"four": np.float32(4)}, "Pow"),
    "a norm of another power": (LAYER_NORM, 14, VALUES | {"two": np.float32(4)}, "Pow"),
}  # fmt: skip


@pytest.mark.parametrize("text, opset, constants, op", STAYS.values(), ids=STAYS)
def test_what_means_something_else_is_left(text, opset, constants, op):
    if "float[3,2,3,3] w" in text and constants["w"].shape[1] == 3:
        text = text.replace("float[3,2,3,3] w", "float[3,3,3,3] w")
    model = parsed(text, opset, **constants)
    evaluate(model, "g.onnx")
    respell(model, NATIVE + FORMS)
    assert op in ops(model)


def test_a_scale_before_the_heads_moves_behind_them():
    text = """(float[1,3,8] x, float[1,2,5,4] k, float[1,2,5,4] v) => (float[1,2,3,4] y) {
        c = Constant<value_float = 0.5>() h = Constant<value_ints = [1, 3, 2, 4]>() a = Mul(x, c) b = Reshape(a, h)
        q = Transpose<perm = [0, 2, 1, 3]>(b) kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt) p = Softmax(s)
        y = MatMul(p, v) }"""
    model = legal(text)
    assert [node.op_type for node in model.graph][:2] != ["Mul", "Reshape"] and ops(model)["Mul"] == 2
    np.testing.assert_allclose(run(model), run(parsed(text)), rtol=1e-5, atol=1e-6)


def test_a_scale_a_column_stays_before_the_heads():
    text = """(float[1,3,8] x, float[1,2,5,4] k, float[1,2,5,4] v) => (float[1,2,3,4] y) {
        h = Constant<value_ints = [1, 3, 2, 4]>() a = Mul(x, c) b = Reshape(a, h)
        q = Transpose<perm = [0, 2, 1, 3]>(b) kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt) p = Softmax(s)
        y = MatMul(p, v) }"""
    scale = {"c": np.arange(1, 9, dtype=np.float32)}
    assert [node.op_type for node in legal(text, **scale).graph][:2] == ["Mul", "Reshape"]
    np.testing.assert_allclose(run(legal(text, **scale)), run(parsed(text, **scale)), rtol=1e-5, atol=1e-6)


ROOMY = np.stack([CAUSAL, np.zeros_like(CAUSAL)])
MASKS = {  # id: (mask, shape that is left)
    "a mask per head": (ROOMY[None], (1, 2, 3, 5)),
    "a mask per head, of three dimensions": (ROOMY, (2, 3, 5)),
    "the same for each head": (np.stack([CAUSAL, CAUSAL]), (1, 1, 3, 5)),
    "a mask of keys": (np.array([0, 0, 0, -np.inf, -np.inf], np.float32), (5,)),
    "a mask of queries": (np.ones((3, 1), np.float32), (3, 1)),
}


@pytest.mark.parametrize("mask, left", MASKS.values(), ids=MASKS)
def test_masks_that_heads_share_are_one(mask, left):
    text = heads(f"{PLAIN} {BOTH}", mask="mask")
    model = legal(text, mask=mask)
    (add,) = (node for node in model.graph if node.op_type == "Add")
    assert tuple(add.inputs[1].shape.numpy()) == left
    np.testing.assert_allclose(run(model), run(parsed(text, mask=mask)), rtol=1e-5, atol=1e-6)


def test_an_inner_value_with_another_user_survives():
    text = heads(f"{SANDWICH} {BOTH}", out="m = MatMul(p, v) e = ReduceMax<keepdims = 0>(a) y = Add(m, e)")
    model = parsed(text)
    evaluate(model, "g.onnx")
    respell(model, NATIVE + FORMS)
    assert "ReduceMax" in ops(model)
    np.testing.assert_allclose(run(model), run(parsed(text)), rtol=1e-5, atol=1e-6)


# Partial evaluation ---------------------------------------------------------------------------------------------------

FOLDED = {
    "shape arithmetic": (
        """(float[2,3,4] x) => (float[6,4] y) { s = Shape(x) i = Constant<value_ints = [0, 1]>() a = Gather(s, i)
    p = ReduceProd(a)
           l = Constant<value_ints = [-1]>() j = Concat<axis = 0>(p, l) y = Reshape(x, j) }""",
        {"Reshape": 1},
    ),
    "a view of a view": (
        """(float[2,3,4] x) => (float[4,6] y) { a = Constant<value_ints = [6, 4]>() b = Constant<value_ints = [4, 6]>()
           v = Reshape(x, a) y = Reshape(v, b) }""",
        {"Reshape": 1},
    ),
    "a turn back": ("(float[2,3] x) => (float[2,3] y) { a = Transpose(x) b = Transpose(a) y = Neg(b) }", {"Neg": 1}),
    "two turns": (
        "(float[2,3,4] x) => (float[3,2,4] y) { a = Transpose<perm = [1, 2, 0]>(x) "
        "b = Transpose<perm = [0, 2, 1]>(a) y = Neg(b) }",
        {"Transpose": 1, "Neg": 1},
    ),
    "steps that do nothing": (
        """(float[2,3] x) => (float[2,3] y) { o = Constant<value_float = 1.0>() z = Constant<value_float = 0.0>()
           a = Mul(o, x) b = Div(a, o) c = Add(b, z) d = Identity(c) e = Cast<to = 1>(d) f = Dropout(e) y = Neg(f) }""",
        {"Neg": 1},
    ),
    "two new axes": (
        """(float[2,3] x) => (float[1,2,1,3] y) { a = Constant<value_ints = [1]>() b = Constant<value_ints = [0]>()
           c = Unsqueeze(x, a) d = Unsqueeze(c, b) y = Neg(d) }""",
        {"Unsqueeze": 1, "Neg": 1},
    ),
    "a part of a whole": (
        """(float[2,3] x, float[2,4] z) => (float[2,4] y) { c = Concat<axis = 1>(x, z) a = Constant<value_ints = [1]>()
           s = Constant<value_ints = [3]>() e = Constant<value_ints = [9223372036854775807]>() p = Slice(c, s, e, a)
           y = Neg(p) }""",
        {"Neg": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("text, expected", FOLDED.values(), ids=FOLDED)
def test_what_sizes_decide_is_folded(text, expected):
    model = legal(text)
    assert ops(model) == expected
    np.testing.assert_allclose(run(model), run(parsed(text)), rtol=1e-6)


@pytest.mark.parametrize("start, end", [(2, 6), (3, 5), (0, 4)])
def test_a_part_that_is_not_the_whole_of_one_stays(start, end):
    text = f"""(float[2,3] x, float[2,4] z) => (float[2,{end - start}] y) {{ c = Concat<axis = 1>(x, z)
    a = Constant<value_ints = [1]>()
              s = Constant<value_ints = [{start}]>() e = Constant<value_ints = [{end}]>() p = Slice(c, s, e, a)
              y = Neg(p) }}"""
    assert ops(legal(text)) == {"Concat": 1, "Slice": 1, "Neg": 1}


def test_a_constant_is_rounded_once():
    """One bit of a frequency turns the angle of timestep 981 by 6e-5,
    and NumPy's float32 exp is off by one in a third of them."""
    given = np.linspace(-9, 0, 160, dtype=np.float32)
    model = legal("(float[160] x) => (float[160] y) { f = Exp(e) y = Mul(x, f) }", e=given)
    (found,) = (value.const_value.numpy() for value in model.graph.initializers.values())
    np.testing.assert_array_equal(found, np.exp(given.astype(np.float64)).astype(np.float32))


UNKNOWN = {
    "shapes that do not fit": (
        "(float[2,3] x, float[4,5] w) => (float[2,5] y) { y = MatMul(x, w) }", r"its inputs \[2, 3\], \[4, 5\] do",
    ),
    "an op of a later opset": ("(float[4] x) => (float[4] y) { y = Gelu(x) }", r"there is no such op in opset 18"),
    "as many as there are": (
        "(float[4] x) => (float[N] y) { a = NonZero(x) y = Cast<to = 1>(a) }", r"the shape of its input a does not",
    ),
    "another domain": (
        "(float[4] x) => (float[4] y) { y = com.microsoft.FastGelu(x) }",
        r"op com\.microsoft::FastGelu is not ONNX's own",
    ),
}  # fmt: skip


@pytest.mark.parametrize("text, message", UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_evaluated_is_said(text, message):
    with pytest.raises(GraphError, match=message):
        evaluate(parsed(text), "g.onnx")
