"""Products and convolutions of class mobile, against NumPy in float64: tiles of half4, and what is done to a result."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, assert_same_in_place, exact, tunings, values
from kernels.epilogues import ACTIVATIONS, FEW_BITS, defines, finished, in_panels, packed
from kernels.test_conv2d import convolve_nhwc
from tolerance import assert_close

from ondevice.lower.kernel_file import load_all
from ondevice.lower.linear import DENSE

pytestmark = pytest.mark.device
KERNELS = load_all()
WIDTH = 16  # columns of a panel
# Storage, and whether products are multiplied in half.
WAYS = [("f32", 0), pytest.param(("f16", 0), marks=pytest.mark.phones), ("f16", 1)]


def staged(name, stored):
    """The operand `stage` of a kernel that has one: a place without values."""
    return [np.zeros(3072, STORED[stored])] if "stage" in KERNELS[name].inputs else []


def check_product(
    bench: Bench,
    size,
    way,
    activation="",
    *,
    bias=True,
    add=False,
    k1=None,
    bits="",
    tuning=None,
    name="matmul_tiles",
    **more,
):
    """x [m, k] in one part, or in two with k1 columns in the first; weight [k, n or 2 n]."""
    (m, n, k), (stored, half) = size, way
    columns, halves = (2 * n, 2) if activation == "Geglu" else (n, 1)
    x, weight, shift, residual = (
        values("normal", shape, stored, seed) for seed, shape in enumerate(((m, k), (k, columns), (columns,), (m, n)))
    )
    x1, x2 = np.ascontiguousarray(x[:, :k1]), np.ascontiguousarray(x[:, k1:] if k1 else x)
    panels, units, meant, quantized = packed(weight, WIDTH, halves, bits)
    meant, bias_panels = meant.astype(np.float64), in_panels(shift[None], WIDTH, halves)
    dims = {"batch": 1, "m": m, "n": n, "k": k, "k1": k1 or k, "a_batch": 0, "b_batch": 0, "constant": 1}
    dims |= DENSE | {"ldb": panels.shape[0] * WIDTH}
    built = {"F16": int(stored == "f16"), "HALF": half, "SPLIT": int(k1 is not None)}
    inputs = [x1, x2, panels, *staged(name, stored), bias_panels, x, residual, x if units is None else units]
    built |= KERNELS[name].asked(quantized) | defines(activation, bias, False, add) | more
    got = bench.run(KERNELS[name], inputs, ((m, n), x.dtype), dims, tuning, **built)
    left, add_, rest = exact(x, shift, residual)
    extra = {"bias": add_ if bias else None, "residual": rest if add else None}
    size_of = np.abs(left) @ np.abs(meant)
    sums = KERNELS[name].tuning(**(tuning or {})).get("KB", 0)
    terms = sums + 3 * bool(bits) if half else 0  # a scale is rounded, and its product
    want, wrong = finished(left @ meant, size_of, k + bool(bits), stored, activation, half_terms=terms, **extra)
    assert_close(got, want, wrong, f"{size} {activation}")


PRODUCTS = [(1, 1, 4), (3, 15, 8), (5, 16, 20), (13, 65, 132), (50, 101, 300)]


@pytest.mark.parametrize("size", PRODUCTS, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_epilogues(bench: Bench, way, activation, size):
    """What is added after an activation does not depend on which it is: with each in half alone."""
    for add in {way[0] == "f16", *([False, True] if activation in ("", "Geglu") else [])}:
        check_product(bench, size, way, activation, add=add, bias=not add or size[0] != 5 or activation == "Silu")


@pytest.mark.parametrize("size", PRODUCTS, ids=str)
@pytest.mark.parametrize("activation", ["", "Geglu"])
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("bits", FEW_BITS)
def test_weights_in_few_bits(bench: Bench, bits, way, activation, size):
    check_product(bench, size, way, activation, add=True, bits=bits)


@pytest.mark.parametrize("k1", [4, 40, 128, 296])
def test_blocks_of_scales_in_two_parts(bench: Bench, k1):
    check_product(bench, (15, 70, 300), ("f16", 1), k1=k1, bits="i4")


@pytest.mark.parametrize("k1", [4, 40, 128, 296])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_two_parts(bench: Bench, way, k1):
    check_product(bench, (15, 70, 300), way, k1=k1)
    check_product(bench, (15, 5, 300), way, "Geglu", k1=k1, add=True)


@pytest.mark.parametrize("size", [(1, 1, 16), (5, 16, 32), (67, 65, 144), (130, 101, 304)], ids=str)
@pytest.mark.parametrize("activation", ["", "Geglu"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_shared_constants(bench: Bench, way, activation, size):
    check_product(bench, size, way, activation, add=True, name="matmul_waves")
    for bits in FEW_BITS:
        check_product(bench, size, way, activation, bits=bits, k1=16 if size[2] > 16 else None, name="matmul_waves")


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["matmul_waves"]))
def test_tunings_of_shared_constants(bench: Bench, stored, tuning):
    check_product(
        bench, (150, 83, 160), (stored, int(stored == "f16")), "Geglu", k1=80, tuning=tuning, name="matmul_waves"
    )


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["matmul_tiles"]))
def test_tunings_of_products(bench: Bench, stored, tuning):
    way = (stored, int(stored == "f16"))
    check_product(bench, (61, 83, 152), way, "Geglu", add=True, k1=72, tuning=tuning)
    check_product(bench, (9, 3, 152), way, bits=("i8", "i4")[way[1]], tuning=tuning)


@pytest.mark.parametrize("shared", [False, True])
def test_a_batch(bench: Bench, shared):
    """36 products, as Winograd's: each with a weight of its own, of a left side of its own or of the same."""
    batch, m, n, k = 5, 7, 21, 12
    left = values("normal", (1 if shared else batch, m, k), "f32")
    weight = values("normal", (batch, k, n), "f32", 1)
    panels = in_panels(weight, WIDTH)
    dims = {"batch": batch, "m": m, "n": n, "k": k, "k1": k, "ldb": panels.shape[1] * WIDTH, "constant": 1}
    dims |= DENSE | {"a_batch": 0 if shared else m * k, "b_batch": panels[0].size, "y_batch": m * n}
    inputs = [left, left, panels, left, left, left, left]
    got = bench.run(KERNELS["matmul_tiles"], inputs, ((batch, m, n), left.dtype), dims, F16=0)
    a, b = exact(left, weight)
    want, wrong = finished(a @ b, np.abs(a) @ np.abs(b), k, "f32", "")
    assert_close(got, want, wrong)


def test_a_product_over_the_residual(bench: Bench):
    x, weight, residual = (values("normal", s, "f16", i) for i, s in enumerate(((13, 20), (20, 65), (13, 65))))
    panels = in_panels(weight, WIDTH)
    dims = {"batch": 1, "m": 13, "n": 65, "k": 20, "k1": 20, "a_batch": 0, "b_batch": 0, "constant": 1}
    dims |= DENSE | {"ldb": panels.shape[0] * WIDTH}
    built = {"F16": 1, "HALF": 1} | defines("Silu", False, False, True)
    inputs = [x, x, panels, x, x, residual, x]
    assert assert_same_in_place(bench, KERNELS["matmul_tiles"], inputs, ((13, 65), x.dtype), dims, **built)


@pytest.mark.parametrize("stored", STORED)
def test_products_on_phones(phone_bench: Bench, stored):
    way = (stored, int(stored == "f16" and "half" in phone_bench.target.caps))
    check_product(phone_bench, (5, 21, 20), way, "Geglu", add=True, k1=8)
    check_product(phone_bench, (9, 33, 36), way, "Silu", bits="i8")
    check_product(phone_bench, (9, 33, 68), way, "Geglu", bits="i4", k1=8)
    check_product(phone_bench, (67, 18, 48), way, "Geglu", add=True, k1=16, name="matmul_waves")
    check_product(phone_bench, (3, 17, 32), way, bits="i8", name="matmul_waves")
    check_product(phone_bench, (3, 17, 80), way, "Geglu", bits="i4", k1=16, name="matmul_waves")


SAME = (1, 1, 1, 1)
# n, ic, h, w, oc, k, stride, pads (top, left, bottom, right)
SHAPES = [
    (1, 4, 1, 1, 1, 1, 1, (0, 0, 0, 0)),
    (1, 4, 1, 1, 1, 3, 1, SAME),
    (2, 4, 5, 7, 4, 3, 1, SAME),
    (2, 20, 9, 33, 70, 3, 1, SAME),
    (1, 148, 4, 5, 17, 3, 1, SAME),
    (1, 16, 3, 3, 5, 3, 2, SAME),
    (1, 12, 4, 18, 6, 3, 1, (0, 0, 0, 0)),
    (2, 4, 17, 35, 5, 3, 2, (0, 0, 1, 1)),
    (1, 4, 9, 20, 3, 2, 1, (0, 1, 1, 0)),
    (1, 4, 12, 25, 33, 5, 3, (2, 2, 2, 2)),
]


def check_conv(
    bench: Bench,
    shape,
    way,
    activation="",
    *,
    up=None,
    shift=False,
    add=False,
    bits="",
    tuning=None,
    name="conv2d_tiles",
):
    (n, ic, h, w, oc, k, stride, pads), (stored, half) = shape, way
    top, left, bottom, right = pads
    up_h, up_w = up or (h, w)
    oh, ow = (up_h + top + bottom - k) // stride + 1, (up_w + left + right - k) // stride + 1
    shapes = ((n, h, w, ic), (k * k * ic, oc), (oc,), (n, 3 + oc), (n, oh, ow, oc))
    x, weight, bias, shifts, residual = (values("normal", s, stored, seed) for seed, s in enumerate(shapes))
    panels, units, meant, quantized = packed(weight, WIDTH, bits=bits)
    dims = {"n": n, "ic": ic, "h": h, "w": w, "oc": oc, "oh": oh, "ow": ow, "kh": k, "kw": k, "stride": stride}
    dims |= {"pad_top": top, "pad_left": left, "up_h": up_h, "up_w": up_w, "shift_from": 3, "shift_row": 3 + oc}
    dims |= DENSE | {"ldb": panels.shape[0] * WIDTH}
    built = {"F16": int(stored == "f16"), "HALF": half} | defines(activation, True, shift, add)
    built |= KERNELS[name].asked(quantized)
    inputs = [
        x,
        panels,
        *staged(name, stored),
        in_panels(bias[None], WIDTH),
        shifts,
        residual,
        x if units is None else units,
    ]
    got = bench.run(KERNELS[name], inputs, ((n, oh, ow, oc), x.dtype), dims, tuning, **built)
    image, base, extra, rest = exact(x, bias, shifts, residual)
    large, taps = (
        image[:, np.arange(up_h) * h // up_h][:, :, np.arange(up_w) * w // up_w],
        meant.reshape(k, k, ic, oc).astype(np.float64),
    )

    parts = {"bias": base, "shift": extra[:, None, None, 3:] if shift else None, "residual": rest if add else None}
    terms = KERNELS[name].tuning(**(tuning or {}))["KB"] + 3 * bool(bits) if half else 0
    size = convolve_nhwc(np.abs(large), np.abs(taps), stride, pads)
    want, wrong = finished(
        convolve_nhwc(large, taps, stride, pads),
        size,
        ic * k * k + bool(bits),
        stored,
        activation,
        half_terms=terms,
        **parts,
    )
    assert_close(got, want, wrong, f"{shape}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_convolutions(bench: Bench, way, shape):
    check_conv(bench, shape, way)
    check_conv(bench, shape, way, "Silu", shift=True, add=True)
    check_conv(bench, shape, way, bits="i8")
    check_conv(bench, shape, way, bits="i4")


@pytest.mark.parametrize("shape", [(2, 16, 9, 13, 70, 3, 1, SAME), (1, 144, 4, 5, 17, 3, 2, SAME)], ids=str)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_convolutions_with_shared_constants(bench: Bench, way, shape):
    check_conv(bench, shape, way, "Silu", shift=True, add=True, name="conv2d_waves")
    for bits in FEW_BITS:
        check_conv(bench, shape, way, bits=bits, up=(10, 14), name="conv2d_waves")


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["conv2d_waves"]))
def test_tunings_of_convolutions_with_shared_constants(bench: Bench, stored, tuning):
    check_conv(
        bench, (2, 48, 7, 19, 37, 3, 1, SAME), (stored, int(stored == "f16")), tuning=tuning, name="conv2d_waves"
    )


@pytest.mark.parametrize("up", [(10, 14), (9, 13), (5, 7)], ids=str)
def test_from_a_larger_picture(bench: Bench, up):
    check_conv(bench, (2, 4, 5, 7, 20, 3, 1, SAME), ("f16", 1), up=up)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["conv2d_tiles"]))
def test_tunings_of_convolutions(bench: Bench, stored, tuning):
    check_conv(bench, (2, 36, 7, 9, 37, 3, 1, SAME), (stored, int(stored == "f16")), "Silu", add=True, tuning=tuning)


@pytest.mark.parametrize("stored", STORED)
def test_convolutions_on_phones(phone_bench: Bench, stored):
    way = (stored, int(stored == "f16" and "half" in phone_bench.target.caps))
    check_conv(phone_bench, (2, 12, 3, 5, 18, 3, 1, SAME), way, "Silu", shift=True, add=True)
    check_conv(phone_bench, (2, 12, 3, 5, 18, 3, 1, SAME), way, "ThenRelu", add=True)
    check_conv(phone_bench, (1, 4, 5, 3, 5, 3, 2, (0, 0, 1, 1)), way, bits="i8")
    check_conv(phone_bench, (1, 12, 5, 3, 18, 3, 1, SAME), way, bits="i4")
    check_conv(phone_bench, (2, 16, 3, 5, 18, 3, 1, SAME), way, "Silu", shift=True, add=True, name="conv2d_waves")
    check_conv(phone_bench, (1, 32, 2, 2, 16, 3, 1, SAME), way, bits="i8", name="conv2d_waves")
    check_conv(phone_bench, (1, 16, 2, 2, 16, 3, 1, SAME), way, bits="i4", name="conv2d_waves")


def test_a_convolution_over_the_residual(bench: Bench):
    x, weight, residual = (
        values("normal", s, "f32", i) for i, s in enumerate(((2, 9, 5, 16), (144, 37), (2, 9, 5, 37)))
    )
    panels = in_panels(weight, WIDTH)
    dims = {"n": 2, "ic": 16, "h": 9, "w": 5, "oc": 37, "ldb": 48, "oh": 9, "ow": 5, "kh": 3, "kw": 3, "stride": 1}
    dims |= {"pad_top": 1, "pad_left": 1, "up_h": 9, "up_w": 5, "shift_from": 0, "shift_row": 0}
    built = {"F16": 0} | defines("Silu", False, False, True)
    inputs = [x, panels, x, x, residual, x]
    assert assert_same_in_place(bench, KERNELS["conv2d_tiles"], inputs, ((2, 9, 5, 37), x.dtype), dims, **built)


# What Qualcomm's compiler brings, in name only: nobody else has it, so that its spelling is compiled and never run.
QUALCOMM = """
#define cl_qcom_subgroup_constant_load 1
#define QCOM_CLK_CONST_LOAD_SYNC 1
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
static inline uint qcom_get_physical_sub_group_id(void) { return 0; }
static inline void qcom_sub_group_sync(int flags) {}
static inline void qcom_sub_group_constant_load8(__constant half8* to, __constant half8* from, int at, int i, int n) {}
"""


@pytest.mark.parametrize("name", ["matmul_waves", "conv2d_waves"])
def test_qualcomms_spelling_compiles(bench: Bench, name):
    kernel = KERNELS[name]
    images = {f"IMAGE_{operand}": 0 for operand in kernel.textures}
    built = images | {"F16": 1, "HALF": 1, "WAVE_CONSTANTS": 1} | kernel.tuning()
    source = QUALCOMM + kernel.source("opencl", **built)
    if "half" not in bench.device.facts()["caps"]:
        pytest.skip("the device has no half arithmetic")
    bench.device.build(source, name, name)
