"""What a dispatch takes: the bound that decides, the peak that counts, the class that it is of."""

import dataclasses

import pytest

from ondevice.measure.predict.constants import Efficiencies
from ondevice.measure.predict.cost import ATTENTION, CONVOLUTIONS, NORMALIZATION, PRODUCTS, REST, costs
from ondevice.measure.predict.prediction import Total
from ondevice.plan.plan import Dispatch, Kernel, Operand, Plan, image_of
from ondevice.target import Roofline

PEAKS = Roofline(fp32_tflops=2.0, fp16_tflops=4.0, gb_per_s=50.0, launch_us=10.0, source="a test")
HALVES = Efficiencies(arithmetic=0.5, memory=0.4)  # 1 and 2 TFLOP/s, 20 GB/s
KERNELS = (Kernel("plain", (("F16", 1),)), Kernel("halved", (("F16", 1), ("HALF", 1))))
OPERANDS = (
    Operand("x", "f16", (8,), 16, offset=0),
    Operand("w", "f16", (500_000,), 1_000_000, weight="w"),
    image_of(1, Operand("w", "f16", (500_000,), 1_000_000, weight="w"), 64, 1_000),
)


def call(op, flops=0, moved=0, *, kernel=0, operands=(0, 0), node="n"):
    return Dispatch(kernel, operands, 1, (), (1, 1, 1), (1, 1, 1), node, op, flops, moved // 2, moved - moved // 2)


def plan(*calls):
    return Plan("unet", {"batch": 2}, "f16", 16, OPERANDS, (0,), (0,), KERNELS, calls)


def cost(*calls, peaks=PEAKS, efficiencies=HALVES):
    return list(costs(plan(*calls), peaks, efficiencies))


@pytest.mark.parametrize(
    "one, seconds, for_bytes",
    [
        (call("MatMul", 4_000_000_000, 20_000_000), 4e-3 + 1e-5, 0.0),  # at 1 TFLOP/s; 20 GB/s take 1 ms
        (call("MatMul", 4_000_000_000, 20_000_000, kernel=1), 2e-3 + 1e-5, 0.0),  # in half
        (call("MatMul", 4_000_000_000, 200_000_000), 1e-2 + 1e-5, 1e-2),
        (call("Add"), 1e-5, 0.0),  # a launch alone
    ],
)
def test_the_longer_of_arithmetic_and_bytes_decides_and_a_launch_is_added(one, seconds, for_bytes):
    (found,) = cost(one)
    assert found.seconds == pytest.approx(seconds) and found.for_bytes == pytest.approx(for_bytes)


@pytest.mark.parametrize(
    "op, op_class, in_half",
    [
        ("LinearBiasGeglu", PRODUCTS, True),
        ("MatMul", PRODUCTS, True),
        ("UpConvNhwcBias", CONVOLUTIONS, True),
        ("ConvNhwc", CONVOLUTIONS, True),
        ("MaskedAttention", ATTENTION, True),
        ("GroupNormNhwcSilu", NORMALIZATION, False),
        ("LayerNormalization", NORMALIZATION, False),
        ("Transpose", REST, False),
        ("of another", REST, False),
    ],
)
def test_only_what_multiplies_is_faster_in_half(op, op_class, in_half):
    plain, half = cost(call(op, 1_000_000), call(op, 1_000_000, kernel=1, node="m"))
    assert plain.op_class == half.op_class == op_class
    assert plain.arithmetic / half.arithmetic == (2 if in_half else 1)


def test_a_convolution_that_is_made_of_products_is_winograds():
    nodes = {"a": ("ConvNhwc", "MatMul", "ConvNhwc"), "b": ("ConvNhwc",), "c": ("MatMul",)}
    found = cost(*(call(op, node=node) for node, ops in nodes.items() for op in ops))
    assert [one.op_class for one in found] == [
        "Winograd's transforms", "Winograd's products", "Winograd's transforms", CONVOLUTIONS, PRODUCTS,
    ]  # fmt: skip


def test_weights_are_told_from_what_else_is_read_also_where_they_are_images():
    found = cost(call("MatMul", operands=(0, 1, 0)), call("MatMul", operands=(0, 2, 2, 0)), call("MatMul"))
    assert [one.weights for one in found] == [1_000_000, 1_000_000, 0]


@pytest.mark.parametrize("rate", ["fp32_tflops", "fp16_tflops", "gb_per_s"])
def test_nothing_takes_longer_on_a_device_that_has_more(rate):
    calls = [
        call("MatMul", flops, moved, kernel=kernel)
        for flops in (0, 10**6, 10**10)
        for moved in (0, 10**4, 10**9)
        for kernel in (0, 1)
    ]
    more = dataclasses.replace(PEAKS, **{rate: 2 * getattr(PEAKS, rate)})
    slow, fast = cost(*calls), cost(*calls, peaks=more)
    assert all(f.seconds <= s.seconds for f, s in zip(fast, slow, strict=True))
    assert sum(f.seconds for f in fast) < sum(s.seconds for s in slow)


def test_a_total_is_the_sum_of_its_parts():
    found = cost(
        call("MatMul", 4_000_000_000, 20_000_000),
        call("MatMul", 10, 1_500_000, operands=(0, 1, 0)),
        call("MatMul", 10, 10_000_000, operands=(0, 1, 0)),  # reads more of something else
    )
    total = Total.of(found)
    assert (total.launches, total.flops, total.moved) == (3, 4_000_000_020, 31_500_000)
    assert total.for_arithmetic == pytest.approx(4e-3) and total.for_bytes == pytest.approx(11_500_000 / 20e9)
    assert total.for_weights == pytest.approx(1_500_000 / 20e9) and total.launching == pytest.approx(3e-5)
    assert total.seconds == pytest.approx(sum(one.seconds for one in found))
