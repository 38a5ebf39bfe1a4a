"""Rules over pictures: channels last, convolutions with what follows them,
larger and joined pictures that are never made."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rewrite.graphs import by_onnxruntime, feed, fused_ops, graph, on_device, ops

from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import group_norm, silu
from ondevice.rewrite import rewrite
from ondevice.target import Target

rng = np.random.default_rng(0)
ANYWHERE = Target("t", "", "cpu", {}, {}, {}, 1 << 20, {})


class Net(GraphBuilder):
    """A builder whose weights are made up as they are asked for."""

    def __init__(self):
        super().__init__("net", {})

    def made(self, name, *shape):
        return self.constant(name, (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def conv(self, name, x, out, k=3, bias=True, **settings):
        n, c, h, w = shape_of(x)
        stride = settings.get("strides", (1, 1))[0]
        pads = settings.setdefault("pads", (k // 2,) * 4)
        shape = (n, out, (h + pads[0] + pads[2] - k) // stride + 1, (w + pads[1] + pads[3] - k) // stride + 1)
        inputs = [x, self.made(f"{name}.weight", out, c // settings.get("group", 1), k, k)] + [
            self.made(f"{name}.bias", out)
        ] * bias
        return self.op(name, "Conv", inputs, shape, **{"strides": (1, 1), **settings})

    def norm(self, name, x):
        for part in ("weight", "bias"):
            self._weights[f"{name}.{part}"] = ir.tensor(rng.standard_normal(shape_of(x)[1], dtype=np.float32))
        return group_norm(self, name, x, 3, 1e-5)


def chain(build):
    b = Net()
    x, y = b.input("x", (2, 6, 5, 4)), b.input("y", (2, 6, 5, 4))
    return b.finish(out=build(b, x, y))


def shifted(b, x, shape):
    return b.binary("s", "Add", b.conv("c", x, 9), b.made("t", *shape))


def upsampled(b, x, **changes):
    small = b.conv("c", x, 9)
    large = b.resize("up", small, 10, 8)
    large.producer().attributes.update(
        {name: ir.Attr(name, ir.AttributeType.STRING, value) for name, value in changes.items()}
    )
    return b.conv("d", large, 6)


def joined(b, x, y, read=lambda b, z: b.conv("short", z, 4, k=1)):
    z = b.concat("join", 1, b.conv("c", x, 6), b.conv("d", y, 6))
    return b.binary("sum", "Add", b.conv("e", silu(b, "n", b.norm("n", z)), 4), read(b, z))


def rectified(b, x):
    return x, b.unary("r", "Relu", x)


FIRES = {
    "a convolution": (lambda b, x, y: b.conv("c", x, 9), {"ConvNhwcBias": 1}),
    "without a bias": (lambda b, x, y: b.conv("c", x, 9, bias=False), {"ConvNhwc": 1}),
    "with a stride and uneven pads": (
        lambda b, x, y: b.conv("c", x, 9, strides=(2, 2), pads=(0, 0, 1, 1)),
        {"ConvNhwcBias": 1},
    ),
    "1x1": (lambda b, x, y: b.conv("c", x, 9, k=1), {"LinearBias": 1}),
    "1x1 with a stride": (lambda b, x, y: b.conv("c", x, 9, k=1, strides=(2, 2)), {"ConvNhwcBias": 1}),
    "a norm between": (
        lambda b, x, y: b.conv("d", silu(b, "n", b.norm("n", b.conv("c", x, 9))), 6),
        {"ConvNhwcBias": 2, "GroupNormNhwcSilu": 1},
    ),
    "a shift for all pictures": (lambda b, x, y: shifted(b, x, (1, 9, 1, 1)), {"ConvNhwcBiasShift": 1}),
    "a shift per picture": (lambda b, x, y: shifted(b, x, (2, 9, 1, 1)), {"ConvNhwcBiasShift": 1}),
    "a residual": (
        lambda b, x, y: b.binary("s", "Add", x, b.conv("d", b.conv("c", x, 9), 6)),
        {"ConvNhwcBias": 1, "ConvNhwcBiasAdd": 1},
    ),
    "silu": (lambda b, x, y: silu(b, "s", b.conv("c", x, 9)), {"ConvNhwcBiasSilu": 1}),
    "relu": (lambda b, x, y: b.unary("s", "Relu", b.conv("c", x, 9)), {"ConvNhwcBiasRelu": 1}),
    "a block of a tiny autoencoder": (
        lambda b, x, y: b.unary("f", "Relu", b.binary("s", "Add", b.conv("d", b.unary("r", "Relu", x), 6), x)),
        {"ConvNhwcBiasAddThenRelu": 1},
    ),
    "twice the size": (lambda b, x, y: upsampled(b, x), {"ConvNhwcBias": 1, "UpConvNhwcBias": 1}),
    "two parts": (
        lambda b, x, y: joined(b, x, y),
        {"ConvNhwcBias": 2, "ConcatGroupNormNhwcSilu": 1, "ConcatLinearBias": 1, "ConvNhwcBiasAdd": 1},
    ),
}
PARTLY = {
    "a sum that another op reads, too": (
        lambda b, x, y: b.binary("t", "Sub", *rectified(b, b.binary("s", "Add", b.conv("c", x, 6), x))),
        {"ConvNhwcBiasAdd": 1},
        "another node reads the result before it",
    ),
    "a relu of a finished result": (
        lambda b, x, y: b.unary("r", "Relu", silu(b, "s", b.conv("c", x, 9))),
        {"ConvNhwcBiasSilu": 1},
        "ends in Silu already",
    ),
    "grouped": (lambda b, x, y: b.conv("c", x, 9, group=3), {}, "it is grouped"),
    "dilated": (lambda b, x, y: b.conv("c", x, 9, dilations=(2, 2), pads=(2, 2, 2, 2)), {}, "dilated"),
    "a shift of a view": (
        lambda b, x, y: b.binary(
            "s",
            "Add",
            b.transpose("t", b.reshape("r", b.transpose("u", b.conv("c", x, 8), 0, 2, 3, 1), 2, 5, 8, 4), 0, 3, 1, 2),
            b.made("h", 1, 4, 1, 1),
        ),
        {"ConvNhwcBias": 1},
        "a view stands between",
    ),
    "a shift per pixel": (lambda b, x, y: shifted(b, x, (1, 1, 5, 4)), {"ConvNhwcBias": 1}, ""),
    "another rounding": (
        lambda b, x, y: upsampled(b, x, nearest_mode="ceil"),
        {"ConvNhwcBias": 2},
        "does not repeat the nearest pixel",
    ),
    "a larger picture that another op reads": (
        lambda b, x, y: b.binary(
            "s", "Add", upsampled(b, x), b.conv("e", b.unary("n", "Neg", b._nodes[1].outputs[0]), 6)
        ),
        {"ConvNhwcBias": 2, "ConvNhwcBiasAdd": 1},
        "another node reads the larger picture",
    ),
    "parts that another op reads": (
        lambda b, x, y: joined(b, x, y, lambda b, z: b.conv("f", z, 4)),
        {"ConvNhwcBias": 3, "GroupNormNhwcSilu": 1, "ConvNhwcBiasAdd": 1},
        "which cannot take two parts",
    ),
}


@pytest.mark.parametrize("build, expected", FIRES.values(), ids=FIRES)
def test_fires(build, expected):
    model = chain(build)
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    assert fused_ops(model) == expected
    np.testing.assert_allclose(by_onnxruntime(model, inputs), before, rtol=1e-5, atol=1e-5)
    after = ops(model)
    assert not any(outcome.applied for outcome in rewrite(model)) and ops(model) == after


def test_of_two_enlargements_the_convolution_takes_one():
    """The floors of two scales are not the floor of their product; and who rewrites again must not stumble over it."""
    model = chain(lambda b, x, y: b.conv("d", b.resize("more", b.resize("up", b.conv("c", x, 9), 7, 6), 10, 8), 6))
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    assert fused_ops(model) == {"ConvNhwcBias": 1, "UpConvNhwcBias": 1} and ops(model)["Resize"] == 1
    np.testing.assert_allclose(by_onnxruntime(model, inputs), before, rtol=1e-5, atol=1e-5)
    again = rewrite(model)
    assert not any(outcome.applied for outcome in again)
    assert any("enlarges what it reads already" in why for outcome in again for why in outcome.skipped)


@pytest.mark.parametrize("build, expected, reason", PARTLY.values(), ids=PARTLY)
def test_near_misses_are_left_alone_and_say_why(build, expected, reason):
    model = chain(build)
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    skipped = [why for outcome in rewrite(model) for why in outcome.skipped]
    assert fused_ops(model) == expected
    assert not reason or any(reason in why for why in skipped), skipped
    assert not any(outcome.applied for outcome in rewrite(model))
    np.testing.assert_allclose(by_onnxruntime(model, inputs), before, rtol=1e-5, atol=1e-5)


def test_only_the_edges_of_the_graph_are_turned():
    model = chain(lambda b, x, y: joined(b, x, y))
    rewrite(model)
    assert ops(model)["Transpose"] == 3  # two inputs, one output
    assert not {"Concat", "Conv", "Reshape", "Mul", "Add"} & set(ops(model))


def test_tokens_and_pixels_are_the_same_rows():
    """What stands between a convolution and attention costs nothing: a view, and no transpose."""
    model = chain(
        lambda b, x, y: b.reshape("t", b.transpose("t", b.norm("n", b.conv("c", x, 9)), 0, 2, 3, 1), 2, 20, 9),
    )
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    assert ops(model)["Transpose"] == 1 and ops(model)["Reshape"] == 1
    np.testing.assert_allclose(by_onnxruntime(model, inputs), before, rtol=1e-5, atol=1e-5)


# Attention in bands ---------------------------------------------------------------------------------------------------


ATTENTION = """(float[1,3,8] q, float[1,5,8] k, float[1,5,8] v) => (float[1,3,8] y)
    <int64[4] s = {0, -1, 2, 4}, int64[3] j = {1, 3, 8}, float c = {0.7}> {
    a = Reshape(q, s) b = Transpose<perm=[0,2,1,3]>(a) d = Mul(b, c)
    e = Reshape(k, s) f = Transpose<perm=[0,2,3,1]>(e) g = Mul(f, c)
    h = MatMul(d, g) i = Softmax<axis=-1>(h)
    l = Reshape(v, s) m = Transpose<perm=[0,2,1,3]>(l) n = MatMul(i, m) o = Transpose<perm=[0,2,1,3]>(n)
    y = Reshape(o, j) }"""


@pytest.mark.device
@pytest.mark.parametrize("scratch", [1, 130, 1 << 20])  # a head at a time, two, all of them
def test_partially_fused_softmax_in_bands(scratch):
    text = ATTENTION.replace("float[1,3,8] q", "float[2,3,8] q").replace("float[1,5,8]", "float[2,5,8]")
    model = graph(text.replace("float[1,3,8] y", "float[2,3,8] y").replace("j = {1, 3, 8}", "j = {2, 3, 8}"))
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    target = Target("t", "", "cpu", {}, {"max_head": 0}, {}, scratch, {})
    rewrite(model)
    assert fused_ops(model) == {"Attention": 1}
    np.testing.assert_allclose(on_device(model, inputs, target), before, rtol=1e-5, atol=1e-5)


# Time embedding -------------------------------------------------------------------------------------------------------

WAVES = "(float[2,1] t, float[1,4] r) => (float[2,8] y) {{ a = Mul(t, r) s = Sin(a) c = Cos(a) {} }}"
FLIPPED = """(float[2,1] t, float[1,4] r) => (float[2,8] y)
    <int64[1] zero = {{0}}, int64[1] half = {{{}}}, int64[1] end = {{99}}, int64[1] axis = {{1}}> {{
    a = Mul(t, r) s = Sin(a) c = Cos(a) w = Concat<axis=-1>(s, c)
    right = Slice(w, half, end, axis) left = Slice(w, zero, half, axis) y = Concat<axis=-1>(right, left) }}"""
RATES = {"r": np.array([[1.0, 0.5, 0.1, 0.01]], np.float32)}


@pytest.mark.parametrize(
    "text, constants, expected",
    [
        (WAVES.format("y = Concat<axis=-1>(s, c)"), RATES, {"SinCos": 1}),
        (WAVES.format("y = Concat<axis=1>(c, s)"), RATES, {"CosSin": 1}),
        (FLIPPED.format(4), RATES, {"CosSin": 1}),
        (FLIPPED.format(3), RATES, {"SinCos": 1}),
        (WAVES.format("y = Concat<axis=-1>(s, c)"), {}, {}),
        (WAVES.format("y = Concat<axis=-1>(s, s)"), RATES, {}),
    ],
    ids=["sin cos", "cos sin", "flipped", "cut elsewhere", "computed frequencies", "the same twice"],
)
def test_time_embedding(text, constants, expected):
    model = graph(text, **constants)
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    assert fused_ops(model) == expected
    np.testing.assert_allclose(by_onnxruntime(model, inputs), before, rtol=1e-5, atol=1e-6)


# Half precision -------------------------------------------------------------------------------------------------------


def halved(model):
    """The same graph in float16: every float input and constant."""
    proto = ir.to_proto(model)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    return ir.from_proto(proto)


@pytest.mark.parametrize("name", ["two parts", "twice the size", "a shift per picture", "silu", "a residual"])
def test_bodies_run_in_half_precision(name):
    model = chain(FIRES[name][0])
    inputs = feed(model)
    rewrite(model)
    whole = by_onnxruntime(model, inputs)
    half = by_onnxruntime(halved(model), {key: value.astype(np.float16) for key, value in inputs.items()})
    assert half.dtype == np.float16
    assert np.abs(half - whole).max() <= 2e-2 * np.abs(whole).max()
