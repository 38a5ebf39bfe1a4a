"""Weights in few bits: what is quantized, how it is rounded, and what a plan then reads."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from kernels.epilogues import FEW_BITS, packed
from lower.test_lower import graph
from rewrite.graphs import feed, on_device
from rewrite.test_pictures import Net

from ondevice.bundle.in_memory import weight_sources
from ondevice.bundle.weights import stored
from ondevice.errors import BundleError, UsageError
from ondevice.lower import convolution, lower
from ondevice.lower.kernel_file import load_all
from ondevice.lower.quantize import ELEMENTS, SCHEMES, int4_scales, int4_values, int8_scales, int8_values
from ondevice.rewrite import rewrite
from ondevice.run.check import NUMPY
from ondevice.target import load_target

KERNELS = load_all()
PRODUCT = "(float[3,{k}] x, float[{k},{n}] w) => (float[3,{n}] y) {{ y = MatMul(x, w) }}"


def product(weight, target="host", **options):
    k, n = weight.shape
    return lower(graph(PRODUCT.format(k=k, n=n), w=weight), "unet", target=load_target(target), **options)


def written(program, name):
    """A weight's bytes as a bundle has them, as an array."""
    source = weight_sources(program)[name if name.startswith("unet/") else f"unet/{name}"]
    data = b"".join(bytes(chunk) for chunk in stored(name, source))
    return np.frombuffer(data, NUMPY[source.dtype]).reshape(source.shape)


def normal(k, n, spread=3):
    columns = np.logspace(-spread, spread, n, dtype=np.float32)
    return np.random.default_rng(0).normal(size=(k, n)).astype(np.float32) * columns


def test_int8_is_off_by_at_most_half_a_step():
    weight = normal(500, 40, spread=4)
    scales, small = int8_scales(weight), int8_values(weight)
    assert small.dtype == np.int8 and scales.dtype == np.float32 and scales.shape == (1, 40)
    # the largest of a column is at the end of the range
    np.testing.assert_array_equal(np.abs(small.astype(int)).max(axis=0), 127)
    assert (np.abs(small * scales.astype(np.float64) - weight) <= 0.5001 * scales).all()


@pytest.mark.parametrize("k", [500, 512, 31, 1])
def test_4_bits_are_off_by_at_most_half_a_step_but_at_one_end(k):
    """8 steps fit on the side of the largest value of a group, 7 on the other."""
    weight = normal(k, 40)
    scales, numbers = int4_scales(weight), int4_values(weight)
    assert numbers.dtype == np.uint8 and scales.dtype == np.float32 and scales.shape == (-(-k // 32), 40)
    step = scales.astype(np.float16).astype(np.float64).repeat(32, axis=0)[:k]
    values = (numbers - 8.0) * step
    inner = weight / step <= 7.5
    assert (np.abs(values - weight) <= 0.5001 * np.abs(step))[inner].all() and numbers.min() == 0
    assert numbers.max() <= 15 and (np.abs(values - weight) <= np.abs(step) * (1 + 2**-8)).all()


@pytest.mark.parametrize("low, high", [(0, 16), (3, 16), (2, 12), (8, 10)])
def test_blocks_of_q4_0_stay_what_they_are(low, high):
    """32 numbers of 4 bits and a scale in half, of which one is the lowest or highest. The plain quantizer's lowest is
    0; one that weighs errors has any."""
    rng = np.random.default_rng(3)
    numbers = rng.integers(low, high, (96, 50)).astype(np.uint8)
    ends = [0, 0, 0] if low == 0 else [low, high - 1, high - 1]
    for group, end in enumerate(ends):
        numbers[rng.integers(0, 32, 50) + 32 * group, np.arange(50)] = end
    scales = (rng.normal(size=(3, 50)) * 0.01).astype(np.float16)
    weight = (numbers - np.float32(8)) * scales.astype(np.float32).repeat(32, axis=0)
    found = int4_scales(weight).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal((int4_values(weight) - np.float32(8)) * found.repeat(32, axis=0), weight)
    if low == 0:
        np.testing.assert_array_equal(int4_scales(weight), scales)
        np.testing.assert_array_equal(int4_values(weight), numbers)


def test_zeros():
    weight = np.array([[0, 127], [0, -1]], np.float32)
    np.testing.assert_array_equal(int8_scales(weight), [[1, 1]])
    np.testing.assert_array_equal(int8_values(weight), [[0, 127], [0, -1]])
    np.testing.assert_array_equal(int4_scales(weight)[:, 0], 0)
    np.testing.assert_array_equal(int4_values(weight)[:, 0], 8)
    assert (int4_values(np.full((32, 1), 1e-9, np.float32)) == 8).all(), "its scale is 0 in half"


def test_halves_go_to_the_even_neighbour():
    weight = np.array([[127], [0.5], [1.5], [2.5], [-0.5], [-1.5], [-127]], np.float32)
    np.testing.assert_array_equal(int8_values(weight)[:, 0], [127, 0, 2, 2, 0, -2, -127])
    weight = np.array([[-8], [0.5], [1.5], [-0.5], [-1.5], [7.9]], np.float32)
    np.testing.assert_array_equal(int4_values(weight)[:, 0] - 8.0, [-8, 0, 2, 0, -2, 7])


@pytest.mark.parametrize("storage, target", [("f32", "host"), ("f16", "host"), ("f16", "gpu"), ("f16", "adreno_740")])
@pytest.mark.parametrize("weights", SCHEMES)
def test_a_product_reads_numbers_and_scales(storage, target, weights):
    weight = np.random.default_rng(1).normal(size=(100, 70)).astype(np.float32) * (np.arange(70) > 0)
    program = product(weight, target, storage=storage, weights=weights)
    call = next(call for call in program.calls if call.op == "MatMul")
    defines, tensors = dict(call.defines), program.tensors
    numbers, scales, _, built = packed(weight, defines["V"] * defines["NV"], bits=weights)
    assert KERNELS[call.kernel].asked(built).items() <= defines.items()
    np.testing.assert_array_equal(written(program, call.inputs[2]), numbers)
    np.testing.assert_array_equal(written(program, call.inputs[-1]), scales)
    assert [tensors[name].dtype for name in (call.inputs[2], call.inputs[-1])] == (
        ["i8", "f32"] if weights == "i8" else ["u4x2", "f16"]
    )
    assert tensors[call.inputs[2]].nbytes == numbers.nbytes


@pytest.mark.parametrize("k, n", [(36, 320), (2880, 4), (100, ELEMENTS // 100)])
@pytest.mark.parametrize("weights", SCHEMES)
def test_small_weights_stay_as_they_are(k, n, weights):
    program = product(np.ones((k, n), np.float32), storage="f16", weights=weights)
    assert {program.tensors[name].dtype for name in program.weights} == {"f16"}
    assert not any({"W8", "W4"} & dict(call.defines).keys() for call in program.calls)


@pytest.mark.parametrize("weights", SCHEMES)
def test_weights_are_made_when_they_are_written(weights):
    """Lowering reads no values: a checkpoint larger than memory converts."""
    model = graph(PRODUCT.format(k=100, n=70), w=np.ones((100, 70), np.float32))
    value = model.graph.initializers["w"]
    values, read = value.const_value, []
    value.const_value = ir.LazyTensor(
        lambda: read.append(1) or values, dtype=values.dtype, shape=values.shape, name="w"
    )
    program = lower(model, "unet", target=load_target("host"), weights=weights)
    assert not read
    written(program, next(name for name in program.weights if program.tensors[name].dtype == SCHEMES[weights].dtype))
    assert read


@pytest.mark.parametrize("weights", SCHEMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad, weights):
    weight = np.ones((100, 70), np.float32)
    weight[3, 5] = bad
    program = product(weight, weights=weights)
    with pytest.raises(BundleError, match="NaN"):
        for name in program.weights:
            written(program, name)


def test_a_scale_that_half_cannot_hold_is_refused():
    program = product(np.full((100, 70), 6e5, np.float32), weights="i4")
    with pytest.raises(BundleError, match=r"holds -?75000.* too large for f16.*convert without `--weights int4`"):
        for name in program.weights:
            written(program, name)


def test_an_unknown_way_of_storing_weights_is_refused():
    model = graph(PRODUCT.format(k=100, n=70), w=np.ones((100, 70), np.float32))
    with pytest.raises(UsageError, match="weights 'i2' are unknown"):
        lower(model, "unet", weights="i2")


@pytest.mark.device
@pytest.mark.parametrize("weights", SCHEMES)
@pytest.mark.parametrize("target", ["gpu", "mali_g715", "host"])
def test_winograd_of_taps_in_few_bits(weights, target, monkeypatch):
    """They are transformed before each use where there is room for that, or as they are read; else not at all."""
    net = Net()
    model = net.finish(out=net.conv("c", net.input("x", (2, 40, 9, 7)), 37))
    rewrite(model)
    chosen = replace(load_target(target), winograd={})

    def kernels(without=()):
        return [call.kernel for call in lower(model, "net", target=chosen, weights=weights, without=without).calls]

    assert ("winograd_taps" in kernels()) == (target != "host") == ("winograd_strips" not in kernels())
    assert not any(name.startswith("winograd") for name in kernels(("winograd",)))
    ways = ((), ("winograd",))
    got, want = (on_device(model, feed(model), chosen, weights=weights, without=without) for without in ways)
    assert np.sqrt(((got - want) ** 2).mean() / (want**2).mean()) < 4e-6, "Winograd's own error in float32"
    monkeypatch.setattr(convolution, "TAPS_ROOM", 36 * 40 * 37 * 4 - 1)
    assert any(name.startswith("winograd") for name in kernels()) == (target == "host")


def test_the_tests_know_every_way():
    assert FEW_BITS.keys() == SCHEMES.keys()
    assert {name: scheme.define for name, scheme in SCHEMES.items()} == {
        name: define for name, (_, define) in FEW_BITS.items()
    }
