"""Every op through lowering, planning and a device equals its float64 meaning, in both storage types."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tolerance import rtol

from ondevice.graph import reference
from ondevice.lower import lower
from ondevice.lower.kernel_file import load_all
from ondevice.plan import plan
from ondevice.run.opencl import choose_device
from ondevice.run.session import NUMPY, Session

pytestmark = pytest.mark.device


class Memory:
    """A bundle that is not on disk."""

    def __init__(self, plan, weights):
        self._plan, self._kernels, self._arrays = plan, load_all(), weights

    def plan(self, component, **sizes):
        return self._plan

    def weight(self, key):
        return key, 0, self._arrays[key].nbytes

    def shard(self, name):
        return self._arrays[name].reshape(-1).view(np.uint8)

    def source(self, file, dialect, defines):
        return self._kernels[file].source(dialect, **dict(defines))


def run(model, inputs, storage):
    program = lower(model, "test", storage=storage)
    dispatch_plan = plan(program, storage=storage)
    arrays = {}
    for operand in dispatch_plan.operands:
        if operand.weight is not None:
            values = program.weights[operand.name].numpy()
            arrays[operand.weight] = np.ascontiguousarray(values, NUMPY[operand.dtype])
    return Session(Memory(dispatch_plan, arrays), choose_device()).run("test", inputs)


# Text of a graph, then how many terms an output sums. Weights are the inputs named w*.
OPS = {
    "add, per channel": ("(float[2,5,3,7] x, float[5,1,1] w0) => (float[2,5,3,7] y) { y = Add(x, w0) }", 1),
    "sub, scalar": ("(float[3,7] x, float w0) => (float[3,7] y) { y = Sub(w0, x) }", 1),
    "mul, both sides repeat": ("(float[3,1,5] x, float[7,1] w0) => (float[3,7,5] y) { y = Mul(x, w0) }", 1),
    "div": (
        "(float[11] x, float[11] w0) => (float[11] y) <float[1] two = {2.0}> { a = Mul(w0, w0) "
        "b = Add(a, two) y = Div(x, b) }",
        4,
    ),
    "sigmoid, erf, tanh": ("(float[2,9] x) => (float[2,9] y) { a = Sigmoid(x) b = Erf(a) y = Tanh(b) }", 4),
    "exp, neg, sqrt": ("(float[13] x) => (float[13] y) { a = Neg(x) b = Exp(a) y = Sqrt(b) }", 4),
    "sin, cos": ("(float[3] x) => (float[6] y) { a = Sin(x) b = Cos(x) y = Concat<axis=0>(a, b) }", 4),
    "matmul, shared right": ("(float[2,3,17] x, float[17,33] w0) => (float[2,3,33] y) { y = MatMul(x, w0) }", 17),
    "matmul, batched": ("(float[2,3,5,7] x, float[2,3,7,19] w0) => (float[2,3,5,19] y) { y = MatMul(x, w0) }", 7),
    "matmul, shared left": ("(float[5,7] x, float[3,7,2] w0) => (float[3,5,2] y) { y = MatMul(x, w0) }", 7),
    "gemm": ("(float[3,5] x, float[7,5] w0, float[7] w1) => (float[3,7] y) { y = Gemm<transB=1>(x, w0, w1) }", 6),
    "conv": (
        "(float[2,3,9,7] x, float[5,3,3,3] w0, float[5] w1) => (float[2,5,9,7] y) "
        "{ y = Conv<pads=[1,1,1,1]>(x, w0, w1) }",
        28,
    ),
    "conv, strided, padded after": (
        "(float[1,4,8,10] x, float[3,4,3,3] w0) => (float[1,3,4,5] y) "
        "{ y = Conv<pads=[0,0,1,1], strides=[2,2]>(x, w0) }",
        36,
    ),
    "conv 1x1": ("(float[2,6,5,3] x, float[9,6,1,1] w0, float[9] w1) => (float[2,9,5,3] y) { y = Conv(x, w0, w1) }", 7),
    "instance norm": (
        "(float[2,3,35] x, float[3] w0, float[3] w1) => (float[2,3,35] y) "
        "{ y = InstanceNormalization<epsilon=1e-6>(x, w0, w1) }",
        64,
    ),
    "layer norm": (
        "(float[2,5,21] x, float[21] w0, float[21] w1) => (float[2,5,21] y) { y = LayerNormalization(x, w0, w1) }",
        64,
    ),
    "softmax": ("(float[2,3,77] x) => (float[2,3,77] y) { y = Softmax<axis=-1>(x) }", 77),
    "transpose": ("(float[2,3,5,7] x) => (float[2,5,7,3] y) { y = Transpose<perm=[0,2,3,1]>(x) }", 1),
    "reshape": ("(float[2,3,4] x) => (float[4,6] y) <int64[2] s = {4, -1}> { a = Neg(x) y = Reshape(a, s) }", 1),
    "split": ("(float[2,3,8] x) => (float[2,3,4] y) { a, b = Split<axis=-1, num_outputs=2>(x) y = Sub(a, b) }", 2),
    "slice": (
        "(float[2,9,5] x) => (float[2,3,5] y) <int64[1] b={1}, int64[1] e={9}, int64[1] a={1}, "
        "int64[1] s={3}> { y = Slice(x,b,e,a,s) }",
        1,
    ),
    "expand": ("(float[3,1] x) => (float[2,3,5] y) <int64[3] s = {2,3,5}> { y = Expand(x, s) }", 1),
    "concat, channels": ("(float[2,3,4] x, float[2,2,4] w0) => (float[2,5,4] y) { y = Concat<axis=1>(x, w0) }", 1),
    "resize by scales": (
        "(float[1,2,3,5] x) => (float[1,2,6,10] y) <float[4] s = {1,1,2,2}> "
        '{ y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , s) }',
        1,
    ),
    "resize by sizes": (
        "(float[1,2,3,5] x) => (float[1,2,5,9] y) <int64[4] s = {1,2,5,9}> "
        '{ y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , , s) }',
        1,
    ),
    "gather": ("(int32[2,3] i, float[6,7] w0) => (float[2,3,7] y) { y = Gather<axis=0>(w0, i) }", 1),
}


@pytest.mark.parametrize("storage", ["f32", "f16"])
@pytest.mark.parametrize("text, terms", OPS.values(), ids=OPS)
def test_op(text, terms, storage):
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> g {text}')
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    rng = np.random.default_rng(len(text))
    inputs = {}
    for value in list(model.graph.inputs):
        shape = [int(dim) for dim in value.shape]
        if value.dtype == ir.DataType.INT32:
            inputs[value.name] = rng.integers(0, 6, shape).astype(np.int32)
            continue
        array = rng.standard_normal(shape).astype(np.float16).astype(np.float32)  # representable in both storage types
        if value.name.startswith("w"):
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(array, name=value.name)
            model.graph.register_initializer(value)
        else:
            inputs[value.name] = array
    for count, node in enumerate(model.graph):
        node.name = f"n{count}"
    expected = reference.run(model, inputs)["y"]
    got = run(model, inputs, storage)["y"]
    assert got.dtype == np.float32 and got.shape == expected.shape
    nodes = sum(1 for _ in model.graph)  # each may round once to storage
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=rtol(storage, terms) * nodes * max(1.0, np.abs(expected).max()) * 2
    )
