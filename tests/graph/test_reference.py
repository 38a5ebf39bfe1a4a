"""reference.run: float64 all the way, one test per op, against onnxruntime and against the formula written out."""

import math

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from ondevice.graph import reference
from ondevice.graph.ops import OPS

NEAREST = 'Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">'
GRAPHS = {
    "Add": "(float[2,5,3] x, float[5,1] w) => (float[2,5,3] y) { y = Add(x, w) }",
    "Sub": "(float[3,7] x, float w) => (float[3,7] y) { y = Sub(w, x) }",
    "Mul": "(float[3,1,5] x, float[7,1] w) => (float[3,7,5] y) { y = Mul(x, w) }",
    "Div": (
        "(float[11] x, float[11] w) => (float[11] y) <float[1] three = {3.0}> { a = Mul(w, w) "
        "b = Add(a, three) y = Div(x, b) }"
    ),
    "Sigmoid": "(float[2,9] x) => (float[2,9] y) { y = Sigmoid(x) }",
    "Erf": "(float[2,9] x) => (float[2,9] y) { y = Erf(x) }",
    "Tanh": "(float[2,9] x) => (float[2,9] y) { y = Tanh(x) }",
    "Sin": "(float[7] x) => (float[7] y) { y = Sin(x) }",
    "Cos": "(float[7] x) => (float[7] y) { y = Cos(x) }",
    "Exp": "(float[7] x) => (float[7] y) { y = Exp(x) }",
    "Neg": "(float[7] x) => (float[7] y) { y = Neg(x) }",
    "Relu": "(float[2,9] x) => (float[2,9] y) { y = Relu(x) }",
    "Sqrt": "(float[7] x) => (float[7] y) { a = Exp(x) y = Sqrt(a) }",
    "MatMul": "(float[2,3,17] x, float[17,33] w) => (float[2,3,33] y) { y = MatMul(x, w) }",
    "Gemm": "(float[3,5] x, float[7,5] w, float[7] v) => (float[3,7] y) { y = Gemm<transB=1>(x, w, v) }",
    "Conv": (
        "(float[1,4,8,10] x, float[3,4,3,3] w) => (float[1,3,4,5] y) { y = Conv<pads=[0,0,1,1], strides=[2,2]>(x, w) }"
    ),
    "InstanceNormalization": "(float[2,3,35] x, float[3] w, float[3] v) => (float[2,3,35] y) "
    "{ y = InstanceNormalization<epsilon=1e-6>(x, w, v) }",
    "LayerNormalization": (
        "(float[2,5,21] x, float[21] w, float[21] v) => (float[2,5,21] y) { y = LayerNormalization(x, w, v) }"
    ),
    "ReduceMean": ("(float[2,3,17] x) => (float[2,3,1] y) <int64[1] a = {-1}> { y = ReduceMean<keepdims=1>(x, a) }"),
    "Softmax": "(float[2,3,77] x) => (float[2,3,77] y) { y = Softmax<axis=-1>(x) }",
    "Transpose": "(float[2,3,5,7] x) => (float[2,5,7,3] y) { y = Transpose<perm=[0,2,3,1]>(x) }",
    "Reshape": "(float[2,3,4] x) => (float[2,4,3] y) <int64[3] s = {0, 4, -1}> { y = Reshape(x, s) }",
    "Unsqueeze": "(float[2,3] x) => (float[2,3,1,1] y) <int64[2] a = {2, 3}> { y = Unsqueeze(x, a) }",
    "Squeeze": "(float[2,1,3,1] x) => (float[2,3] y) <int64[2] a = {1, 3}> { y = Squeeze(x, a) }",
    "Flatten": "(float[2,3,5] x) => (float[2,15] y) { y = Flatten<axis=1>(x) }",
    "Constant": "(float[3] x) => (float[3] y) { a = Constant<value_float=0.1>() b = Sqrt(a) y = Add(x, b) }",
    "Concat": "(float[2,3,4] x, float[2,2,4] w) => (float[2,5,4] y) { y = Concat<axis=1>(x, w) }",
    "Split": "(float[2,3,8] x) => (float[2,3,4] y) { a, b = Split<axis=-1, num_outputs=2>(x) y = Sub(a, b) }",
    "Slice": "(float[2,9,5] x) => (float[2,3,5] y) <int64[1] b={1}, int64[1] e={9}, int64[1] a={1}, int64[1] s={3}> "
    "{ y = Slice(x, b, e, a, s) }",
    "Expand": "(float[3,1] x) => (float[2,3,5] y) <int64[3] s = {2, 3, 5}> { y = Expand(x, s) }",
    "Resize": f"(float[1,2,3,5] x) => (float[1,2,5,9] y) <int64[4] s = {{1,2,5,9}}> {{ y = {NEAREST}(x, , , s) }}",
    "Gather": "(int32[2,3] i, float[6,7] w) => (float[2,3,7] y) { y = Gather<axis=0>(w, i) }",
    "Cast": "(float[7] x) => (float[7] y) { a = Exp(x) b = Cast<to=1>(a) y = Add(a, b) }",
    "Identity": "(float[7] x) => (float[7] y) { y = Identity(x) }",
}


def case(op):
    """The op's graph and inputs. Values have all of float64's digits, so that a step in float32 shows."""
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> g {GRAPHS[op]}'))
    rng = np.random.default_rng(len(op))
    inputs = {}
    for value in model.graph.inputs:
        shape = [int(dim) for dim in value.shape]
        inputs[value.name] = (
            rng.integers(0, 6, shape).astype(np.int32) if value.name == "i" else rng.standard_normal(shape)
        )
    return model, inputs


def test_every_op_is_here():
    assert set(GRAPHS) == set(OPS)


@pytest.mark.parametrize("op", GRAPHS)
def test_onnxruntime_agrees_and_the_result_is_float64(op):
    model, inputs = case(op)
    expected = reference.run(model, inputs)["y"]
    assert expected.dtype == np.float64
    narrow = {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in inputs.items()}
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, narrow)[0], expected, rtol=1e-5, atol=1e-5)


def normalized(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def conv(x, w):
    padded, out = np.pad(x[0], ((0, 0), (0, 1), (0, 1))), np.zeros((1, 3, 4, 5))
    for row, column in np.ndindex(4, 5):
        window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        out[0, :, row, column] = (w * window).sum((1, 2, 3))
    return out


FORMULAS = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Erf": np.vectorize(math.erf),
    "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0),
    "Exp": np.exp,
    "Sin": np.sin,
    "MatMul": lambda x, w: np.einsum("bmk,kn->bmn", x, w),
    "Gemm": lambda x, w, v: x @ w.T + v,
    "Conv": conv,
    # The epsilon of a graph is a float32.
    "InstanceNormalization": lambda x, w, v: (
        normalized(x, float(np.float32(1e-6))) * w[:, np.newaxis] + v[:, np.newaxis]
    ),
    "LayerNormalization": lambda x, w, v: normalized(x, float(np.float32(1e-5))) * w + v,
    "ReduceMean": lambda x: x.mean(-1, keepdims=True),
    "Softmax": softmax,
    "Split": lambda x: x[..., :4] - x[..., 4:],
    "Slice": lambda x: x[:, 1:9:3],
    "Resize": lambda x: x[:, :, np.arange(5) * 3 // 5][..., np.arange(9) * 5 // 9],
    "Cast": lambda x: 2 * np.exp(x),
    "Constant": lambda x: x + math.sqrt(np.float32(0.1)),
}


@pytest.mark.parametrize("op", FORMULAS)
def test_no_step_is_rounded_to_float32(op):
    model, inputs = case(op)
    np.testing.assert_allclose(
        reference.run(model, inputs)["y"], FORMULAS[op](*inputs.values()), rtol=1e-12, atol=1e-12
    )


def test_weights_are_widened_and_the_model_is_left_alone():
    model, inputs = case("MatMul")
    w = model.graph.inputs[1]
    model.graph.inputs.remove(w)
    w.const_value = ir.tensor(inputs.pop("w").astype(np.float32), name="w")
    model.graph.register_initializer(w)
    before = ir.to_proto(model).SerializeToString()
    expected = inputs["x"] @ w.const_value.numpy().astype(np.float64)
    np.testing.assert_allclose(reference.run(model, inputs)["y"], expected, rtol=1e-13)
    assert ir.to_proto(model).SerializeToString() == before
