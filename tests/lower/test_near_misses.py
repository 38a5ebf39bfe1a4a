"""What lowering takes and what it refuses, clause by clause: the reason, or onnxruntime's numbers on the device."""

import numpy as np
import onnx_ir as ir
import pytest
from rewrite.graphs import by_onnxruntime, feed, graph, on_device

from ondevice.errors import GraphError
from ondevice.lower import lower


def ones(*shape):
    return np.ones(shape, np.float32)


NEAREST = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
BACK = """(float[4,6] x) => (float[2,6] y) <int64[1] f = {3}, int64[1] t = {1}, int64[1] a = {0}, int64[1] s = {-1}> {
    y = Slice(x, f, t, a, s) }"""
PLAIN = "only the last axis is supported"
COLUMN = r"its scale or its bias is \(.*\) \(expected one number per column: \(4,\)\)"
FLOATS = r"it computes INT32 \(expected floats\)"
REFUSED = {  # id: (text, reason)
    "integers to floats": ("(int32[3] x) => (float[3] y) { y = Cast<to=1>(x) }", "casts from INT32 to FLOAT"),
    "floats to integers": ("(float[3] x) => (int32[3] y) { y = Cast<to=6>(x) }", "casts from FLOAT to INT32"),
    "integers to booleans": ("(int32[3] x) => (bool[3] y) { y = Cast<to=9>(x) }", "casts from INT32 to BOOL"),
    "floats to booleans": ("(float[3] x) => (bool[3] y) { y = Cast<to=9>(x) }", "casts from FLOAT to BOOL"),
    "floats to bytes": (
        "(float[3] x) => (float[3] y) { b = Cast<to=2>(x) y = Cast<to=1>(b) }", "casts from FLOAT to UINT8",
    ),
    "integers to bytes": (
        "(int32[3] x) => (int32[3] y) { b = Cast<to=3>(x) y = Cast<to=6>(b) }", "casts from INT32 to INT8",
    ),
    "a sum of integers": ("(int32[3] x) => (int32[3] y) { y = Add(x, x) }", FLOATS),
    "integers with another sign": ("(int32[3] x) => (int32[3] y) { y = Neg(x) }", FLOATS),
    "a product of integers": ("(int32[3,3] x) => (int32[3,3] y) { y = MatMul(x, x) }", FLOATS),
    "a vector on the left": (
        "(float[4] x, float[4,5] w) => (float[5] y) { y = MatMul(x, w) }", "operands of rank 1 and 2",
    ),
    "a vector on the right": (
        "(float[4,5] x, float[5] w) => (float[4] y) { y = MatMul(x, w) }", "operands of rank 2 and 1",
    ),
    "batches that repeat": (
        "(float[2,1,3,4] x, float[2,5,4,6] w) => (float[2,5,3,6] y) { y = MatMul(x, w) }",
        r"batch dimensions \(2, 1\) and \(2, 5\)",
    ),
    "gemm turns what is computed": (
        "(float[3,4] x, float[2,4] w) => (float[3,2] y) { y = Gemm<transB=1>(x, w) }", "a constant weight",
    ),
    "layer norm of two axes": (
        "(float[2,3,4] x, float[3,4] w) => (float[2,3,4] y) { y = LayerNormalization<axis=1>(x, w) }", PLAIN,
    ),
    "one scale for all": ("(float[3,4] x, float[1] w) => (float[3,4] y) { y = LayerNormalization(x, w) }", COLUMN),
    "a scale per row": ("(float[4,4] x, float[4,1] w) => (float[4,4] y) { y = LayerNormalization(x, w) }", COLUMN),
    "a scale per element": ("(float[3,4] x, float[3,4] w) => (float[3,4] y) { y = LayerNormalization(x, w) }", COLUMN),
    "one bias for all": (
        "(float[3,4] x, float[4] w, float b) => (float[3,4] y) { y = LayerNormalization(x, w, b) }", COLUMN,
    ),
    "the mean, too": (
        "(float[3,4] x, float[4] w) => (float[3,4] y, float[3,1] m) { y, m = LayerNormalization(x, w) }",
        "its first output",
    ),
    "a mean that is read": (
        "(float[3,4] x, float[4] w) => (float[3,1] y) { n, m = LayerNormalization(x, w) y = Neg(m) }", "first output",
    ),
    "one bias for all channels": (
        "(float[1,2,5,5] x, float[3,2,3,3] w, float[1] b) => (float[1,3,3,3] y) { y = Conv(x, w, b) }",
        r"b is \(1,\) .* channel: \(3,\)",
    ),
    "one scale for all channels": (
        "(float[2,3,7] x, float[1] w, float[3] b) => (float[2,3,7] y) { y = InstanceNormalization(x, w, b) }",
        r"w is \(1,\) .*: \(3,\)",
    ),
    "a norm of numbers in a row": (
        "(float[3] x, float[3] w, float[3] b) => (float[3] y) { y = InstanceNormalization(x, w, b) }",
        r"x is .*, which has no channels",
    ),
    "more biases than channels": (
        "(float[2,3,7] x, float[3] w, float[7] b) => (float[2,3,7] y) { y = InstanceNormalization(x, w, b) }",
        r"b is \(7,\) .*: \(3,\)",
    ),
    "softmax over rows": ("(float[3,4] x) => (float[3,4] y) { y = Softmax<axis=0>(x) }", PLAIN),
    "resize of three axes": (
        f"(float[1,2,3] x) => (float[1,2,6] y) <int64[3] s = {{1, 2, 6}}> {{ y = Resize<{NEAREST}>(x, , , s) }}",
        "axes of four",
    ),
    "resize of pictures": (
        f"(float[1,2,3,4] x) => (float[2,2,3,4] y) <int64[4] s = {{2, 2, 3, 4}}> {{ y = Resize<{NEAREST}>(x, , , s) }}",
        "axes of four",
    ),
    "resize by computed scales": (
        f"(float[1,2,3,4] x, float[4] s) => (float[1,2,6,8] y) {{ y = Resize<{NEAREST}>(x, , s) }}",
        "not the ratio of its sizes",
    ),
    "columns of a table": (
        "(float[3,4] x) => (float[3,1] y) <int64[1] i = {1}> { y = Gather<axis=1>(x, i) }",
        r"rows of a matrix .*table \(3, 4\), axis 1",
    ),
    "matrices of a table": (
        "(float[3,4,2] x) => (float[1,4,2] y) <int64[1] i = {1}> { y = Gather(x, i) }",
        r"rows of a matrix .*table \(3, 4, 2\), axis 0",
    ),
    "backwards": (BACK, "step -1 is not supported"),
    "a computed start": (
        "(float[4,6] x, int64[1] f) => (float[2,6] y) <int64[1] t = {3}, int64[1] a = {0}> { y = Slice(x, f, t, a) }",
        r"input 1 \(f\) must be a constant",
    ),
    "six axes turned": (
        "(float[2,3,2,3,2,3] x) => (float[3,2,3,2,3,2] y) { y = Transpose(x) }", "more than 4 dimensions",
    ),
    "six axes repeated": (
        "(float[2,1,2,1,2,1] x, float[1,3,1,3,1,3] z) => (float[2,3,2,3,2,3] y) { y = Add(x, z) }",
        "more than 4 dimensions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("text, reason", REFUSED.values(), ids=REFUSED)
def test_what_kernels_cannot_do_is_said(text, reason):
    model = graph(text)
    for value in model.graph.outputs:  # as an importer leaves them
        value.shape = value.shape if value.shape.is_static() else ir.Shape([1, 2, 6, 8])
    with pytest.raises(GraphError, match=reason):
        lower(model, "net")


TAKEN = {
    "the last row": ("(float[3,4] x) => (float[1,4] y) <int64[1] i = {-1}> { n = Neg(x) y = Gather(n, i) }", {}),
    "rows from both ends": (
        "(float[3,4] x) => (float[2,2,4] y) <int64[2,2] i = {-3, 2, 0, -2}> { y = Gather<axis=-2>(x, i) }", {},
    ),
    "integers moved": ("(int32[3] x) => (int32[6] y) { y = Concat<axis=0>(x, x) }", {}),
    "wider integers": ("(int32[3] x) => (int32[3] y) { a = Cast<to=7>(x) y = Cast<to=6>(a) }", {}),
    "wider floats": ("(float[3] x) => (float[3] y) { a = Cast<to=11>(x) b = Exp(a) y = Cast<to=1>(b) }", {}),
    "a scale in a row": ("(float[3,4] x, float[1,4] w) => (float[3,4] y) { y = LayerNormalization(x, w) }", {}),
    "a left side for all": ("(float[1,3,4] x, float[2,5,4,6] w) => (float[2,5,3,6] y) { y = MatMul(x, w) }", {}),
    "a constant batch of one": (
        "(float[2,3,4] x, float[1,4,5] w) => (float[2,3,5] y) { y = MatMul(x, w) }", {"w": ones(1, 4, 5)},
    ),
    "gemm alone": ("(float[3,4] x, float[4,2] w) => (float[3,2] y) { y = Gemm(x, w) }", {}),
    "gemm with one number": ("(float[3,4] x, float[4,2] w, float c) => (float[3,2] y) { y = Gemm(x, w, c) }", {}),
    "rows and columns": (
        "(float[4,5] x) => (float[2,4] y) <int64[2] f = {1, 1}, int64[2] t = {3, 5}> { y = Slice(x, f, t) }", {},
    ),
    "an uneven split": (
        "(float[3,5] x) => (float[3,3] y) <int64[2] s = {2, 3}> { n = Neg(x) a, b = Split<axis=1>(n, s) y = Exp(b) }",
        {},
    ),
    "a split of rows": (
        "(float[2,5,4] x) => (float[2,2,4] y) { n = Neg(x) a, b = Split<axis=1, num_outputs=2>(n) y = Exp(b) }", {},
    ),
    "unequal pads": (
        "(float[1,2,5,4] x, float[3,2,3,3] w) => (float[1,3,6,3] y) { y = Conv<pads=[2,0,1,1]>(x, w) }", {},
    ),
    "numbers without axes": ("(float x, float[3] z) => (float[3] y) { a = Exp(x) y = Add(a, z) }", {}),
}  # fmt: skip


@pytest.mark.device
@pytest.mark.parametrize("text, constants", TAKEN.values(), ids=TAKEN)
def test_what_kernels_can_do_is_what_onnx_says(text, constants):
    model = graph(text, **constants)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    got = on_device(model, inputs)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


PARTS = {
    "halves of rows": (
        "(float[3,4] x) => (float[3,2] a, float[3,2] b) { n = Neg(x) a, b = Split<axis=-1, num_outputs=2>(n) }"
    ),
    "halves of an input": "(float[3,4] x) => (float[3,2] a, float[3,2] b) { a, b = Split<axis=-1, num_outputs=2>(x) }",
    "halves of one row": (
        "(float[1,4] x) => (float[1,2] a, float[1,2] b) { n = Neg(x) a, b = Split<axis=-1, num_outputs=2>(n) }"
    ),
    "a view of one": """(float[1,4] x) => (float[2] y, float[1,2] b) <int64[1] s = {2}> {
        n = Neg(x) a, b = Split<axis=1, num_outputs=2>(n) y = Reshape(b, s) }""",
    "one that is read, too": (
        "(float[3,4] x) => (float[3,2] y, float[3,2] b) { n = Neg(x) a, b = Split<axis=-1, "
        "num_outputs=2>(n) y = Softmax(b) }"
    ),
}


@pytest.mark.device
@pytest.mark.parametrize("storage, atol", [("f32", 1e-6), ("f16", 3e-3)])
@pytest.mark.parametrize("text", PARTS.values(), ids=PARTS)
def test_parts_of_rows_are_results(text, storage, atol):
    model = graph(text)
    inputs = feed(model)
    for got, expected in zip(
        on_device(model, inputs, storage=storage, every=True), by_onnxruntime(model, inputs, every=True), strict=True
    ):
        assert (got.shape, got.dtype) == (expected.shape, np.float32)
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol)
