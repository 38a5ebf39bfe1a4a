"""Each op of Core ML's programs, evaluated as it was saved, against its meaning in float64."""

import math

import numpy as np
import onnx
import pytest
from mil_packages import load, mb, save_package
from onnx.reference import ReferenceEvaluator

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


X, IDS = random(2, 6, 5, 7), np.array([[3, 0, 8], [1, 1, 2]], np.int32)
Q, K, V, MASK = random(2, 3, 5, 4), random(2, 3, 7, 4), random(2, 3, 7, 6), random(5, 7)
WEIGHT, BIAS, TABLE = random(4, 3, 3, 2), random(4), random(9, 5)
GAMMA, BETA = random(6), random(6)
ERF = np.vectorize(math.erf)


def conv(x, w, b, **attributes):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)],
        "conv",
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, None) for n in "xwb"],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)],
    )
    return ReferenceEvaluator(graph, opsets={"": 18}).run(None, {"x": x, "w": w.astype(float), "b": b.astype(float)})[0]


def normalized(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def per_channel(a):
    return a[:, None, None]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


UNARY = {
    "sin": np.sin,
    "cos": np.cos,
    "exp": np.exp,
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "erf": ERF,
    "square": np.square,
    "relu": lambda x: np.maximum(x, 0),
}
BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "real_div": np.divide, "maximum": np.maximum}
# op and case: what the builder makes of x [2,6,5,7], and what it means in float64
CASES = {
    **{name: (lambda x, n=name: getattr(mb, n)(x=x), f) for name, f in UNARY.items()},
    **{
        name: (lambda x, n=name: getattr(mb, n)(x=x, y=GAMMA.reshape(6, 1, 1)), lambda x, f=f: f(x, per_channel(GAMMA)))
        for name, f in BINARY.items()
    },
    "sqrt": (lambda x: mb.sqrt(x=mb.square(x=x)), np.abs),
    "rsqrt": (lambda x: mb.rsqrt(x=mb.square(x=x), epsilon=0.5), lambda x: 1 / np.sqrt(x**2 + 0.5)),
    "gelu": (lambda x: mb.gelu(x=x, mode="EXACT"), lambda x: x / 2 * (1 + ERF(x / math.sqrt(2)))),
    "gelu_tanh": (
        lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
        lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "gelu_sigmoid": (lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), lambda x: x * sigmoid(1.702 * x)),
    "softmax": (lambda x: mb.softmax(x=x, axis=1), lambda x: softmax(x, 1)),
    "conv": (
        lambda x: mb.conv(
            x=x,
            weight=WEIGHT,
            bias=BIAS,
            strides=[2, 1],
            pad_type="custom",
            pad=[3, 0, 1, 2],
            dilations=[1, 2],
            groups=2,
        ),
        lambda x: conv(x, WEIGHT, BIAS, strides=[2, 1], pads=[3, 1, 0, 2], dilations=[1, 2], group=2),
    ),
    "conv_valid": (
        lambda x: mb.conv(x=x, weight=np.concatenate([WEIGHT, WEIGHT[::-1]], 1), strides=[2, 3], pad_type="valid"),
        lambda x: conv(x, np.concatenate([WEIGHT, WEIGHT[::-1]], 1), 0 * BIAS, strides=[2, 3]),
    ),
    "conv_padded_past_the_kernel": (
        lambda x: mb.conv(x=x, weight=np.ones((1, 6, 1, 1), np.float32), pad_type="custom", pad=[2, 1, 0, 4]),
        lambda x: np.pad(x.sum(1, keepdims=True), ((0, 0), (0, 0), (2, 1), (0, 4))),
    ),
    "linear": (
        lambda x: mb.linear(x=x, weight=TABLE[:, :1].repeat(7, 1), bias=TABLE[:, 1]),
        lambda x: x @ TABLE[:, :1].repeat(7, 1).T + TABLE[:, 1],
    ),
    "matmul": (lambda x: mb.matmul(x=x, y=random(6, 7, 2) * 0 + 1), lambda x: x.sum(-1, keepdims=True).repeat(2, -1)),
    "matmul_transposed": (
        lambda x: mb.matmul(x=x, y=x, transpose_x=True, transpose_y=False),
        lambda x: x.swapaxes(2, 3) @ x,
    ),
    "layer_norm": (
        lambda x: mb.layer_norm(x=x, axes=[-1], gamma=GAMMA[:1].repeat(7), beta=BETA[:1].repeat(7), epsilon=1e-3),
        lambda x: normalized(x, -1, 1e-3) * GAMMA[0] + BETA[0],
    ),
    "layer_norm_of_channels": (
        lambda x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA),
        lambda x: normalized(x, 1) * per_channel(GAMMA) + per_channel(BETA),
    ),
    "instance_norm": (
        lambda x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=1e-2),
        lambda x: normalized(x, (2, 3), 1e-2) * per_channel(GAMMA) + per_channel(BETA),
    ),
    "batch_norm": (
        lambda x: mb.batch_norm(x=x, mean=BETA, variance=GAMMA**2, gamma=BETA, beta=GAMMA),
        lambda x: (
            (x - per_channel(BETA)) / np.sqrt(per_channel(GAMMA) ** 2 + 1e-5) * per_channel(BETA) + per_channel(GAMMA)
        ),
    ),
    "reshape": (lambda x: mb.reshape(x=x, shape=[2, -1, 35]), lambda x: x.reshape(2, 6, 35)),
    "reshape_with_zeros": (lambda x: mb.reshape(x=x, shape=[1, 0, -1, 0, 0]), lambda x: x[None]),
    "transpose": (lambda x: mb.transpose(x=x, perm=[0, 3, -2, 1]), lambda x: x.transpose(0, 3, 2, 1)),
    "expand_dims": (lambda x: mb.expand_dims(x=x, axes=[-2]), lambda x: x[..., None, :]),
    "squeeze": (lambda x: mb.squeeze(x=mb.expand_dims(x=x, axes=[2]), axes=[2]), lambda x: x),
    "concat": (lambda x: mb.concat(values=[x, x, x], axis=-1), lambda x: np.concatenate([x, x, x], -1)),
    "split": (lambda x: mb.split(x=x, num_splits=3, axis=1)[1], lambda x: x[:, 2:4]),
    "split_sizes": (lambda x: mb.split(x=x, split_sizes=[1, 3, 2], axis=1)[1], lambda x: x[:, 1:4]),
    "slice_by_index": (
        lambda x: mb.slice_by_index(
            x=x,
            begin=[0, 5, 1, -3],
            end=[0, 1, -1, 9],
            stride=[1, -2, 1, 1],
            end_mask=[True, False, False, True],
            squeeze_mask=[False] * 4,
        ),
        lambda x: x[:, 5:1:-2, 1:-1, -3:],
    ),
    "slice_and_squeeze": (
        lambda x: mb.slice_by_index(
            x=x,
            begin=[0, 2, 0, 0],
            end=[0] * 4,
            begin_mask=[True] * 4,
            end_mask=[True] * 4,
            squeeze_mask=[False, True, False, False],
        ),
        lambda x: x[:, 2],
    ),
    "gather": (
        lambda x: mb.gather(x=x, indices=np.array([[1, 4], [0, 0]], np.int32), axis=2),
        lambda x: x[:, :, [[1, 4], [0, 0]]],
    ),
    "upsample": (
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2.0, scale_factor_width=3.0),
        lambda x: x.repeat(2, 2).repeat(3, 3),
    ),
    "resize": (
        lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=9, target_size_width=13),
        lambda x: x[:, :, [0, 0, 1, 1, 2, 2, 3, 3, 4], :][..., [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]],
    ),
    "reduce_mean": (
        lambda x: mb.reduce_mean(x=x, axes=[1, -1], keep_dims=True),
        lambda x: x.mean((1, 3), keepdims=True),
    ),
    "reduce_sum": (lambda x: mb.reduce_sum(x=x, axes=[0]), lambda x: x.sum(0)),
    "select": (lambda x: mb.select(cond=mb.greater(x=x, y=0.0), a=x, b=BETA[0]), lambda x: np.where(x > 0, x, BETA[0])),
    "tile": (lambda x: mb.tile(x=x, reps=[1, 2, 1, 3]), lambda x: np.tile(x, [1, 2, 1, 3])),
    "pad": (
        lambda x: mb.pad(x=x, pad=[1, 0, 2, 3], constant_val=2.0),
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 3)), constant_values=2),
    ),
    "embedding": (lambda x, ids: mb.gather(x=TABLE, indices=ids, axis=0), lambda x: TABLE[IDS]),
    "cast": (lambda x: mb.cast(x=mb.cast(x=x, dtype="int32"), dtype="fp32"), np.trunc),
}


def build(x, ids):
    results = []
    for name, (make, _) in CASES.items():
        made = make(x, ids) if name == "embedding" else make(x)
        results.append(mb.identity(x=made, name=f"out_{name}"))
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mil")
    return load(save_package(folder / "ops.mlpackage", build, {"x": X, "ids": IDS})).run({"x": X, "ids": IDS})


@pytest.mark.parametrize("name", CASES)
def test_an_op_means_what_it_should(results, name):
    expected, found = CASES[name][1](X.astype(np.float64)), results[f"out_{name}"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6 * np.abs(expected).max())


def test_attention_with_and_without_a_mask(tmp_path):
    given = {"q": Q, "k": K, "v": V}

    def build(q, k, v):
        attention = mb.scaled_dot_product_attention
        masks = {"plain": None, "added": MASK, "chosen": MASK > 0}
        return [attention(query=q, key=k, value=v, attn_mask=mask, name=name) for name, mask in masks.items()]

    found = load(save_package(tmp_path / "a.mlpackage", build, given)).run(given)
    scores = Q.astype(np.float64) @ K.swapaxes(2, 3) / 2
    for name, mask in (("plain", 0), ("added", MASK), ("chosen", np.where(MASK > 0, 0, -np.inf))):
        np.testing.assert_allclose(found[name], softmax(scores + mask) @ V, rtol=1e-5, atol=1e-6)
