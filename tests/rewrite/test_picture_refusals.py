"""What stops the rules over pictures and products, clause by clause:
reason, onnxruntime's numbers, the device's, as in test_refusals."""

import numpy as np
import pytest
from rewrite.graphs import by_onnxruntime, feed, graph, on_device
from rewrite.test_pictures import ANYWHERE, Net, chain, joined, upsampled
from rewrite.test_refusals import close, made

from ondevice.converters.architectures.builder import shape_of
from ondevice.converters.architectures.layers import gelu, silu
from ondevice.errors import GraphError
from ondevice.rewrite import rewrite

NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def last(b, x):
    """[n, c, h, w] as [n, h, w, c]."""
    return b.transpose("last", x, 0, 2, 3, 1)


def first(b, x):
    """And back."""
    return b.transpose("first", x, 0, 3, 1, 2)


def resized(b, x, *shape, **modes):
    """A Resize to `shape`, whatever it does to which axis."""
    return b.op("up", "Resize", [x, None, None, b.ints(*shape)], shape, **NEAREST | modes)


def scaled(b, x, by, shape):
    """A Resize by scales. ONNX finds a pixel by the scale that is given:
    5 by 1.35 are 6, and 6 / 5 is another scale."""
    return b.op("up", "Resize", [x, None, b.constant("by", np.array(by, np.float32))], shape, **NEAREST)


def layer(b, x):
    """A linear layer with a bias, 12 columns to 12."""
    return b.binary("l", "Add", b.matmul("m", x, b.made("w", 12, 12)), b.made("v", 12))


def read_twice(b, x, y):
    """A join that one layer takes as its input and as its residual."""
    z = last(b, b.concat("join", 1, b.conv("c", x, 6), b.conv("d", y, 6)))
    return first(b, b.binary("sum", "Add", layer(b, z), z))


def joined_residual(b, x, y):
    """A join that is only the residual of a layer."""
    z = last(b, b.concat("join", 1, b.conv("c", x, 6), b.conv("d", y, 6)))
    return first(b, b.binary("sum", "Add", layer(b, last(b, b.conv("e", x, 12))), z))


UPSAMPLE = {
    "another rounding": (
        lambda b, x, y: upsampled(b, x, nearest_mode="ceil"), "does not repeat the nearest pixel", "is not supported",
    ),
    "another place": (
        lambda b, x, y: upsampled(b, x, coordinate_transformation_mode="half_pixel"),
        "does not repeat the nearest pixel",
        "is not supported",
    ),
    "between pixels": (
        lambda b, x, y: upsampled(b, x, mode="linear"), "does not repeat the nearest pixel", "is not supported",
    ),
    "channels, too": (
        lambda b, x, y: b.conv("d", first(b, resized(b, last(b, b.conv("c", x, 6)), 2, 10, 8, 12)), 4),
        "it resizes more than height and width",
        "is not supported",
    ),
    "pictures, too": (
        lambda b, x, y: b.conv("d", first(b, resized(b, last(b, b.conv("c", x, 6)), 4, 10, 8, 6)), 4),
        "it resizes more than height and width",
        "is not supported",
    ),
    "scales of pixels that are no ratio of sizes": (
        lambda b, x, y: b.conv(
            "d", first(b, scaled(b, last(b, b.conv("c", x, 6)), (1, 1.35, 1.35, 1), (2, 6, 5, 6))), 4
        ),
        "its scales are not the ratio of its sizes",
        "its scales are not",
    ),
    "scales of planes that are no ratio of sizes": (
        lambda b, x, y: b.conv("d", scaled(b, b.conv("c", x, 6), (1, 1, 1.35, 1.35), (2, 6, 6, 5)), 4),
        "its scales are not the ratio of its sizes",
        "its scales are not",
    ),
    "channels first": (
        lambda b, x, y: b.conv("d", resized(b, b.conv("c", x, 6), 2, 12, 10, 8), 4),
        "it changes the number of channels",
        "is not supported",
    ),
    "a larger picture that is read": (
        lambda b, x, y: b.binary(
            "s", "Add", b.conv("d", large := b.resize("up", b.conv("c", x, 6), 10, 8), 6), b.unary("n", "Neg", large)
        ),
        "another node reads the larger picture",
    ),
}  # fmt: skip
CONCAT = {
    "three parts": (
        lambda b, x, y: b.conv("s", b.concat("j", 1, b.conv("c", x, 6), b.conv("d", y, 6), x), 4, k=1),
        "it does not join two pictures",
    ),
    "rows": (
        lambda b, x, y: b.conv("s", b.concat("j", 2, b.conv("c", x, 6), b.conv("d", y, 6)), 4, k=1),
        "it does not join two pictures",
    ),
    "a layer that adds it, too": (read_twice, "LinearBiasAdd reads it, which cannot take two parts"),
    "a residual": (joined_residual, "LinearBiasAdd reads it, which cannot take two parts"),
    "a convolution": (lambda b, x, y: joined(b, x, y, lambda b, z: b.conv("f", z, 4)), "ConvNhwcBias reads it"),
}
CONVOLUTIONS = {
    "grouped": (lambda b, x, y: b.conv("c", x, 9, group=3), "it is grouped", "group 1"),
    "dilated": (lambda b, x, y: b.conv("c", x, 9, dilations=(2, 2), pads=(2, 2, 2, 2)), "dilated", "dilation 1"),
    "dilated one way": (
        lambda b, x, y: b.op(
            "d", "Conv", [x, b.made("w", 9, 6, 3, 3)], (2, 9, 5, 4), pads=(1, 2, 1, 2), dilations=(1, 2)
        ),
        "dilated",
        "dilation 1",
    ),
    "two strides": (
        lambda b, x, y: b.op(
            "d", "Conv", [x, b.made("w", 9, 6, 3, 3)], (2, 9, 5, 2), pads=(1, 1, 1, 1), strides=(1, 2)
        ),
        "has two strides",
        "one stride",
    ),
    "padded by rule": (
        lambda b, x, y: b.op("d", "Conv", [x, b.made("w", 9, 6, 3, 3)], (2, 9, 5, 4), auto_pad="SAME_UPPER"),
        "padded by rule",
        "explicit pads",
    ),
    "a computed weight": (
        lambda b, x, y: b.op("d", "Conv", [x, b.reshape("r", y, 8, 6, 5, 1)], (2, 8, 1, 4)),
        "its weight is not a constant",
    ),
    "one dimension": (
        lambda b, x, y: b.reshape(
            "v", b.op("d", "Conv", [b.reshape("r", x, 2, 6, 20), b.made("w", 9, 6, 3)], (2, 9, 18)), 2, 9, 3, 6
        ),
        "not over two dimensions",
        "2-D convolutions are supported",
    ),
}
EPILOGUE = {
    "another activation of a convolution": (
        lambda b, x, y: gelu(b, "g", b.conv("c", x, 9)),
        "a ConvNhwc has no such epilogue",
    ),
    "a shift after the activation": (
        lambda b, x, y: b.binary("s", "Add", silu(b, "a", b.conv("c", x, 9)), b.made("t", 2, 9, 1, 1)),
        "its source is finished already",
    ),
    "two shifts": (
        lambda b, x, y: b.binary(
            "r", "Add", b.binary("s", "Add", b.conv("c", x, 9), b.made("t", 2, 9, 1, 1)), b.made("u", 1, 9, 1, 1)
        ),
        "its source is finished already",
    ),
    "a shift after a residual": (
        lambda b, x, y: b.binary("s", "Add", b.binary("r", "Add", b.conv("c", x, 6), y), b.made("t", 2, 6, 1, 1)),
        "",
    ),
    "two activations": (
        lambda b, x, y: silu(b, "b", silu(b, "a", b.conv("c", x, 9))),
        "its source ends in Silu already",
    ),
    "a shift per row": (lambda b, x, y: b.binary("s", "Add", b.conv("c", x, 9), b.made("t", 1, 1, 5, 1)), ""),
    "a shift that is read before": (
        lambda b, x, y: b.binary("m", "Mul", b.binary("s", "Add", c := b.conv("c", x, 9), b.made("t", 1, 9, 1, 1)), c),
        "another node reads the result before it",
    ),
}
PICTURES = {"upsample": UPSAMPLE, "concat": CONCAT, "convolution": CONVOLUTIONS, "epilogue": EPILOGUE}
ROWS = [
    (f"{part}: {name}", *row, *[None] * (3 - len(row))) for part, rows in PICTURES.items() for name, row in rows.items()
]


@pytest.mark.device
@pytest.mark.parametrize("build, reason, unsupported", [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_one_thing_changed_stops_the_rule_and_no_number(build, reason, unsupported):
    model = chain(build)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    skipped = [why for outcome in rewrite(model) for why in outcome.skipped]
    again = rewrite(model)  # rules that come before others meet what those made only now
    skipped += [why for outcome in again for why in outcome.skipped]
    assert not any(outcome.applied for outcome in again)
    assert not reason or any(reason in why for why in skipped), skipped
    close(by_onnxruntime(model, inputs), expected)
    if unsupported:
        with pytest.raises(GraphError, match=unsupported):
            on_device(model, inputs, ANYWHERE)
    else:
        close(on_device(model, inputs, ANYWHERE), expected)


def both_outputs(build):
    """A graph of two outputs, so that a value inside is a result, too."""
    b = Net()
    x, y = b.input("x", (2, 6, 5, 4)), b.input("y", (2, 6, 5, 4))
    one, two = build(b, x, y)
    return b.finish(out=one, inner=two)


@pytest.mark.parametrize(
    "build, reason",
    [
        (
            lambda b, x, y: (b.conv("d", first(b, large := resized(b, last(b, x), 2, 10, 8, 6)), 4), large),
            "another node reads the larger",
        ),
        (
            lambda b, x, y: (b.conv("s", first(b, z := b.concat("j", 3, last(b, x), last(b, y))), 4, k=1), z),
            "it is a result of the graph",
        ),
        (lambda b, x, y: (silu(b, "a", c := b.conv("c", x, 9)), c), ""),
    ],
    ids=["a larger picture", "a join", "a source"],
)
def test_a_value_that_is_a_result_of_the_graph_is_still_made(build, reason):
    model = both_outputs(build)
    session_inputs = feed(model)
    expected = by_onnxruntime(model, session_inputs, every=True)
    skipped = [why for outcome in rewrite(model) for why in outcome.skipped]
    assert not reason or any(reason in why for why in skipped), skipped
    for got, wanted in zip(by_onnxruntime(model, session_inputs, every=True), expected, strict=True):
        close(got, wanted)


# Products that could be one -------------------------------------------------------------------------------------------

SHARED = """(float[1,9,8] x, float[8,8] wq, float[8,8] wk, float[8,8] wv{more}) => (float[1,9,8] y)
    <int64[4] s = {{0, -1, 2, 4}}, int64[3] j = {{1, 9, 8}}, float c = {{0.7}}> {{
    {q} {k} {v}
    a = Reshape(q, s) b = Transpose<perm=[0,2,1,3]>(a) d = Mul(b, c)
    e = Reshape(k, s) f = Transpose<perm=[0,2,3,1]>(e) g = Mul(f, c)
    h = MatMul(d, g) i = Softmax<axis=-1>(h)
    l = Reshape(v, s) m = Transpose<perm=[0,2,1,3]>(l) n = MatMul(i, m) o = Transpose<perm=[0,2,1,3]>(n)
    r = Reshape(o, j) {end} }}"""


def shared(names="qkv", biased="", end="y = Neg(r)", more=""):
    def one(name):
        return (
            f"{name}0 = MatMul(x, w{name}) {name} = Add({name}0, b{name})"
            if name in biased
            else f"{name} = MatMul(x, w{name})"
        )

    more += "".join(f", float[8] b{name}" for name in biased)
    text = SHARED.format(more=more, end=end, **{name: one(name) for name in names})
    constants = {f"w{name}": made(8, 8) for name in "qkv"} | {f"b{name}": made(8) for name in biased}
    return text, constants


PROJECTIONS = {
    "all three": (*shared(), {"MatMul": 1}),
    "all three with biases": (*shared(biased="qkv"), {"LinearBias": 1}),
    "a bias on q alone": (*shared(biased="q"), {"LinearBias": 1, "MatMul": 1}),
    "a bias on k and v": (*shared(biased="kv"), {"LinearBias": 1, "MatMul": 1}),
    "q that another op reads": (*shared(end="p = Neg(q) y = Add(r, p)"), {"MatMul": 2}),
    "a computed weight": (shared()[0], {name: w for name, w in shared()[1].items() if name != "wk"}, {"MatMul": 2}),
}


@pytest.mark.device
@pytest.mark.parametrize("text, constants, products", PROJECTIONS.values(), ids=PROJECTIONS)
def test_projections_that_are_alike_are_one_product(text, constants, products):
    model = graph(text, **constants)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    rewrite(model)
    found = [node.op_type for node in model.graph if node.op_type in ("MatMul", "LinearBias")]
    assert {name: found.count(name) for name in set(found)} == products
    close(by_onnxruntime(model, inputs), expected)
    close(on_device(model, inputs), expected)


def test_projections_whose_value_is_a_result_stay_alone():
    text, constants = shared(end="y = Neg(r)")
    model = graph(text.replace("=> (float[1,9,8] y)", "=> (float[1,9,8] y, float[1,9,8] q)"), **constants)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs, every=True)
    rewrite(model)
    assert [node.op_type for node in model.graph].count("MatMul") == 2
    for got, wanted in zip(by_onnxruntime(model, inputs, every=True), expected, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("rows, products", [(8, 1), (9, 2)])
def test_few_rows_are_at_most_eight(rows, products):
    text = """(float[{0},6] x, float[6,8] w, float[6,8] u) => (float[{0},8] y, float[{0},8] z)
        {{ m = MatMul(x, w) n = MatMul(x, u) y = Neg(m) z = Neg(n) }}"""
    model = graph(text.format(rows), w=made(6, 8), u=made(6, 8))
    rewrite(model)
    assert [node.op_type for node in model.graph].count("MatMul") == products


def test_shapes_are_those_of_the_builders():
    """The helpers above turn pictures as they say."""
    b = Net()
    x = b.input("x", (2, 6, 5, 4))
    assert (shape_of(last(b, x)), shape_of(first(b, last(b, x)))) == ((2, 5, 4, 6), (2, 6, 5, 4))


def test_joined_rows_of_numbers_are_no_match_that_was_left_alone():
    b = Net()
    model = b.finish(out=b.concat("j", 2, b.input("x", (1, 7, 4)), b.input("y", (1, 7, 3))))
    assert not [why for outcome in rewrite(model) for why in outcome.skipped]
