"""int8 weights: what is quantized, how it is rounded, and what a plan then reads."""

import numpy as np
import onnx_ir as ir
import pytest
from kernels.epilogues import in_panels
from lower.test_lower import graph

from ondevice.bundle.in_memory import weight_sources
from ondevice.bundle.weights import stored
from ondevice.errors import BundleError, UsageError
from ondevice.lower import lower
from ondevice.lower.int8 import ELEMENTS, rounded, scales_of
from ondevice.target import load_target

PRODUCT = "(float[3,{k}] x, float[{k},{n}] w) => (float[3,{n}] y) {{ y = MatMul(x, w) }}"


def product(weight, target="host", **options):
    k, n = weight.shape
    return lower(graph(PRODUCT.format(k=k, n=n), w=weight), "unet", target=load_target(target), **options)


def written(program, name):
    """A weight's bytes as a bundle has them, as an array."""
    source = weight_sources(program)[name if name.startswith("unet/") else f"unet/{name}"]
    data = b"".join(bytes(chunk) for chunk in stored(name, source))
    return np.frombuffer(data, {"i8": np.int8, "f32": np.float32, "f16": np.float16}[source.dtype]).reshape(
        source.shape
    )


def test_a_value_is_off_by_at_most_half_a_step():
    weight = np.random.default_rng(0).normal(size=(500, 40)).astype(np.float32) * np.logspace(
        -6, 3, 40, dtype=np.float32
    )
    scales = scales_of(weight)
    small = rounded(weight, scales)
    assert small.dtype == np.int8 and scales.dtype == np.float32
    # the largest of a column is at the end of the range
    np.testing.assert_array_equal(np.abs(small.astype(int)).max(axis=0), 127)
    assert (np.abs(small * scales.astype(np.float64) - weight) <= 0.5001 * scales).all()


def test_a_column_of_zeros_has_scale_1():
    weight = np.array([[0, 127], [0, -1]], np.float32)
    np.testing.assert_array_equal(scales_of(weight), [1, 1])
    np.testing.assert_array_equal(rounded(weight, scales_of(weight)), [[0, 127], [0, -1]])


def test_halves_go_to_the_even_neighbour():
    weight = np.array([[127], [0.5], [1.5], [2.5], [-0.5], [-1.5], [-127]], np.float32)
    np.testing.assert_array_equal(rounded(weight, scales_of(weight))[:, 0], [127, 0, 2, 2, 0, -2, -127])


@pytest.mark.parametrize("storage, target", [("f32", "host"), ("f16", "host"), ("f16", "gpu")])
def test_a_product_reads_int8_and_scales(storage, target):
    weight = np.random.default_rng(1).normal(size=(100, 70)).astype(np.float32)
    program = product(weight, target, storage=storage, weights="i8")
    call = next(call for call in program.calls if call.kernel == "matmul")
    defines, tensors = dict(call.defines), program.tensors
    width = defines["V"] * defines["NV"]
    assert (defines["W8"], defines["PANELS"]) == (1, 1)
    assert (tensors[call.inputs[2]].dtype, tensors[call.inputs[-1]].dtype) == ("i8", "f32")
    scales = scales_of(weight)
    np.testing.assert_array_equal(written(program, call.inputs[2]), in_panels(rounded(weight, scales), width))
    np.testing.assert_array_equal(written(program, call.inputs[-1]), in_panels(scales[None], width))
    assert tensors[call.inputs[2]].nbytes == tensors[call.inputs[2]].size


@pytest.mark.parametrize("k, n", [(36, 320), (2880, 4), (100, ELEMENTS // 100)])
def test_small_weights_stay_as_they_are(k, n):
    program = product(np.ones((k, n), np.float32), storage="f16", weights="i8")
    assert {program.tensors[name].dtype for name in program.weights} == {"f16"}
    assert not any("W8" in dict(call.defines) for call in program.calls)


def test_weights_are_made_when_they_are_written():
    """Lowering reads no values: a checkpoint larger than memory converts."""
    model = graph(PRODUCT.format(k=100, n=70), w=np.ones((100, 70), np.float32))
    value = model.graph.initializers["w"]
    values, read = value.const_value, []
    value.const_value = ir.LazyTensor(
        lambda: read.append(1) or values, dtype=values.dtype, shape=values.shape, name="w"
    )
    program = lower(model, "unet", target=load_target("host"), weights="i8")
    assert not read
    written(program, next(name for name in program.weights if name.endswith("i8")))
    assert read


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad):
    weight = np.ones((100, 70), np.float32)
    weight[3, 5] = bad
    program = product(weight, weights="i8")
    with pytest.raises(BundleError, match="NaN"):
        for name in program.weights:
            written(program, name)


def test_an_unknown_way_of_storing_weights_is_refused():
    model = graph(PRODUCT.format(k=100, n=70), w=np.ones((100, 70), np.float32))
    with pytest.raises(UsageError, match="weights 'i4' are unknown"):
        lower(model, "unet", weights="i4")
