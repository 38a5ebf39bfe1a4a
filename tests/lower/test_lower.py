"""Graphs become programs: calls, storage types, views without calls, weights, and refusals that name the node."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ondevice.errors import GraphError, NoKernelError, PlanError, UsageError
from ondevice.lower import exact_values, lower


def graph(text, **weights):
    """A model from ONNX's text form, shapes inferred; inputs named in `weights` become initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> g {text}')
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    for value in [v for v in model.graph.inputs if v.name in weights]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(weights[value.name], name=value.name)
        model.graph.register_initializer(value)
    for count, node in enumerate(model.graph):
        node.name = node.name or f"n{count}"
    return model


def zeros(*shape):
    return np.zeros(shape, np.float32)


def calls(program):
    return [(c.op, c.kernel, c.inputs, c.outputs) for c in program.calls]


def test_views_make_no_calls_and_outputs_get_their_own_tensor():
    program = lower(
        graph("(float[2,6] x) => (float[3,4] y) <int64[2] s = {3, 4}> { a = Neg(x) y = Reshape(a, s) }"), "unet"
    )
    assert calls(program) == [("Neg", "unary", ("x",), ("a",)), ("Identity", "strided_copy", ("a",), ("y",))]
    assert (program.inputs, program.outputs) == (("x",), ("y",))


def test_half_storage_casts_at_the_borders_only():
    program = lower(
        graph("(float[5] x) => (float[5] y) { a = Neg(x) b = Add(a, x) y = Exp(b) }"), "unet", storage="f16"
    )
    assert calls(program) == [
        ("Cast", "cast", ("x",), ("x:f16",)),
        ("Neg", "unary", ("x:f16",), ("a",)),
        ("Add", "binary", ("a", "x:f16"), ("b",)),
        ("Exp", "unary", ("b",), ("y:f16",)),
        ("Cast", "cast", ("y:f16",), ("y",)),
    ]
    assert [t.name for t in program.tensors.values() if t.dtype == "f32"] == ["x", "y"]


TIMESTEP = """(float[1] t, float[1,4] x, float[1,2] f) => (float[1,4] y) <int64[1] one = {1}> {
    t2 = Unsqueeze(t, one) a = Mul(t2, f) s = Sin(a) c = Cos(a)
    e = Concat<axis=1>(s, c) y = Add(e, x) }"""


def test_the_timestep_path_stays_float32():
    model = graph(TIMESTEP, f=np.ones((1, 2), np.float32))
    assert {"t", "t2", "a", "f", "s", "c"} <= exact_values(model.graph) and not {"e", "x", "y"} & exact_values(
        model.graph
    )
    program = lower(model, "unet", storage="f16")
    kinds = {name: tensor.dtype for name, tensor in program.tensors.items()}
    assert (kinds["a"], kinds["s"], kinds["e"]) == ("f32", "f32", "f16")
    assert all(dict(c.defines)["F16"] == 0 for c in program.calls if c.op in ("Mul", "Sin", "Cos"))
    assert kinds["f:f32"] == "f32", "a float32 weight in a half component has a key of its own"


def test_gemm_stores_its_weight_transposed_once():
    w = np.arange(6, dtype=np.float32).reshape(3, 2)
    text = """(float[1,2] x, float[3,2] w, float[3] b) => (float[1,3] y) {
        g = Gemm<transB=1>(x, w, b) y = Gemm<transB=1>(x, w, b) }"""
    program = lower(graph(text, w=w, b=zeros(3)), "unet")
    assert [c.op for c in program.calls] == ["MatMul", "Add", "MatMul", "Add"]
    assert sorted(program.weights) == ["b", "w.T"]
    np.testing.assert_array_equal(program.weights["w.T"].numpy(), w.T)


def test_matmul_merges_a_batch_with_a_shared_right_side():
    text = "(float[2,3,4] x, float[4,5] w) => (float[2,3,5] y) { y = MatMul(x, w) }"
    (call,) = lower(graph(text, w=zeros(4, 5)), "unet").calls
    assert call.scalars[:4] == (1, 6, 5, 4) and call.flops == 2 * 6 * 5 * 4


def test_concat_writes_one_tensor_part_by_part():
    program = lower(graph("(float[2,3,4] a, float[2,5,4] b) => (float[2,8,4] y) { y = Concat<axis=1>(a, b) }"), "unet")
    assert [(c.inputs, c.outputs) for c in program.calls] == [(("a",), ("y",)), (("b",), ("y",))]


X = "(float[2,3,4,4] x) =>"
REFUSED = {
    "unknown op": (
        "(float[4] x) => (float[4] y) { y = Elu(x) }",
        GraphError,
        r"n0 \(Elu\): op ai.onnx::Elu is not supported",
    ),
    "attribute": (
        "(float[4] x) => (float[4] y) { y = Softmax<axis=-1, beta=2>(x) }",
        GraphError,
        r"attributes \['beta'\] are not supported",
    ),
    "axis": (f"{X} (float[2,3,4,4] y) {{ y = Softmax<axis=1>(x) }}", GraphError, "only the last axis is supported"),
    "groups": (
        "(float[2,3,4,4] x, float[3,1,1,1] w) => (float[2,3,4,4] y) { y = Conv<group=3>(x, w) }",
        GraphError,
        "group 1, dilation 1",
    ),
    "symbolic": ('(float["n"] x) => (float["n"] y) { y = Neg(x) }', GraphError, "value y: its shape is .* Fix: build"),
    "resize": (
        f'{X} (float[2,3,8,8] y) <float[4] s = {{1, 1, 2, 2}}> {{ y = Resize<mode="linear">(x, , s) }}',
        GraphError,
        "mode .*linear.* is not supported",
    ),
    "resize of channels, too": (
        f"{X} (float[2,4,8,8] y) <int64[4] s = {{2, 4, 8, 8}}> "
        '{ y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , , s) }',
        GraphError,
        "two neighbouring axes of four",
    ),
    "gemm": ("(float[2,2] x, float[2,2] w) => (float[2,2] y) { y = Gemm<alpha=2.0>(x, w) }", GraphError, "alpha=1"),
    "index": (
        "(float[65536,65536] x) => (float[65536,65536] y) { y = Neg(x) }",
        PlanError,
        "unet: tensor x .* Fix: use a smaller --size",
    ),
}


@pytest.mark.parametrize("text, error, match", REFUSED.values(), ids=REFUSED)
def test_refusals_name_the_node_and_the_limit(text, error, match):
    model = graph(text, w=zeros(3, 1, 1, 1) if "group" in text else zeros(2, 2))
    with pytest.raises(error, match=match):
        lower(model, "unet")


def test_unknown_storage_and_missing_kernels_are_refused():
    model = graph("(float[4] x) => (float[4] y) { y = Neg(x) }")
    with pytest.raises(UsageError, match="storage 'bf16' is unknown"):
        lower(model, "unet", storage="bf16")
    with pytest.raises(NoKernelError, match="Neg"):
        lower(model, "unet", kernels={})
