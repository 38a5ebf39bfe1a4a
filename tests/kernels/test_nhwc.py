"""Kernels that work with the channels last, against NumPy in float64."""

import math

import numpy as np
import pytest
from kernels.bench import STORED, Bench, assert_same_in_place, exact, half, tunings, values
from kernels.epilogues import FEW_BITS, defines, finished, in_panels, packed
from kernels.test_conv2d import convolve_nhwc
from tolerance import EPS, assert_close

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNELS = load_all()
SAME = (1, 1, 1, 1)


# Convolution ----------------------------------------------------------------------------------------------------------

# n, ic, h, w, oc, k, stride, pads (top, left, bottom, right)
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, (0, 0, 0, 0)),
    (1, 1, 1, 1, 1, 3, 1, SAME),
    (2, 3, 5, 7, 4, 3, 1, SAME),
    (1, 17, 16, 16, 25, 3, 1, SAME),
    (2, 19, 9, 33, 70, 3, 1, SAME),
    (1, 150, 4, 5, 16, 3, 1, SAME),
    (2, 48, 5, 6, 20, 3, 1, SAME),
    (1, 16, 3, 3, 5, 3, 2, SAME),
    (1, 5, 4, 18, 6, 3, 1, (0, 0, 0, 0)),
    (2, 3, 17, 35, 5, 3, 2, (0, 0, 1, 1)),
    (1, 2, 9, 20, 3, 2, 1, (0, 1, 1, 0)),
    (1, 2, 12, 25, 33, 5, 3, (2, 2, 2, 2)),
]


def check_conv(
    bench,
    shape,
    stored,
    activation="",
    *,
    up=None,
    shift=False,
    add=False,
    tuning=None,
    kind="normal",
    panels=False,
    bits="",
):
    n, ic, h, w, oc, k, stride, pads = shape
    top, left, bottom, right = pads
    up_h, up_w = up or (h, w)
    oh, ow = (up_h + top + bottom - k) // stride + 1, (up_w + left + right - k) // stride + 1
    lanes = KERNELS["conv2d_nhwc"].tuning(**(tuning or {}))["V"]
    ldb = max(oc, lanes)
    x, weight, bias = (
        values(kind, (n, h, w, ic), stored),
        values("normal", (k, k, ic, oc), stored, 1),
        values("normal", (oc,), stored, 2),
    )
    if kind == "largest":
        weight = (weight * STORED[stored](2**-9)).astype(STORED[stored])
    shifts, residual = values("normal", (n, 3 + oc), stored, 3), values("normal", (n, oh, ow, oc), stored, 4)
    wide, wide_bias = np.pad(weight, [(0, 0)] * 3 + [(0, ldb - oc)]), np.pad(bias, (0, ldb - oc))
    scales, meant, built = None, weight, {}
    if panels:
        tile = KERNELS["conv2d_nhwc"].tuning(**(tuning or {}))
        width = tile["V"] * tile["NV"]
        wide, scales, meant, built = packed(weight.reshape(-1, oc), width, bits=bits)
        meant, wide_bias = meant.reshape(k, k, ic, oc), in_panels(bias[None], width)
        ldb = wide.shape[0] * width
    sizes = {
        "n": n,
        "ic": ic,
        "h": h,
        "w": w,
        "oc": oc,
        "ldb": ldb,
        "oh": oh,
        "ow": ow,
        "kh": k,
        "kw": k,
        "stride": stride,
    }
    steps = {"pad_top": top, "pad_left": left, "up_h": up_h, "up_w": up_w, "shift_from": 3, "shift_row": 3 + oc}
    settings = {"F16": half(stored), "RAGGED": int(ic % lanes > 0), **built}
    settings |= defines(activation, True, shift, add)
    inputs = [x, wide, wide_bias, shifts, residual, x if scales is None else scales]
    got = bench.run(KERNELS["conv2d_nhwc"], inputs, ((n, oh, ow, oc), x.dtype), sizes | steps, tuning, **settings)
    image, taps, base, extra, rest = exact(x, meant, bias, shifts, residual)
    large = image[:, np.arange(up_h) * h // up_h][:, :, np.arange(up_w) * w // up_w]

    parts = {"bias": base, "shift": extra[:, None, None, 3:] if shift else None, "residual": rest if add else None}
    want, wrong = finished(
        convolve_nhwc(large, taps, stride, pads),
        convolve_nhwc(np.abs(large), np.abs(taps), stride, pads),
        ic * k * k + bool(bits),
        stored,
        activation,
        **parts,
    )
    assert_close(got, want, wrong, f"{shape}")


@pytest.mark.parametrize("oc", [3, 64, 70])
@pytest.mark.parametrize("panels", [0, 1])
def test_convolution_over_the_residual(bench: Bench, panels, oc):
    stored = "f32"  # half takes a minute to compile, and changes nothing here
    x, weight, bias = (values("normal", s, stored, i) for i, s in enumerate(((2, 9, 33, 16), (144, oc), (1, oc))))
    shifts, residual, tile = (
        values("normal", (2, oc), stored, 3),
        values("normal", (2, 9, 33, oc), stored, 4),
        KERNELS["conv2d_nhwc"].tuning(),
    )
    wide, wide_bias = (np.pad(part, [(0, 0), (0, max(16 - oc, 0))]) for part in (weight, bias))
    if panels:
        wide, wide_bias = (in_panels(part, tile["V"] * tile["NV"]) for part in (weight, bias))
    ldb = wide.shape[0] * tile["V"] * tile["NV"] if panels else wide.shape[-1]
    dims = {"n": 2, "ic": 16, "h": 9, "w": 33, "oc": oc, "ldb": ldb, "oh": 9, "ow": 33, "kh": 3, "kw": 3, "stride": 1}
    dims |= {"pad_top": 1, "pad_left": 1, "up_h": 9, "up_w": 33, "shift_from": 0, "shift_row": oc}
    built = {"F16": half(stored), "PANELS": panels, "RAGGED": 0} | defines("Silu", True, True, True)
    inputs = [x, wide, wide_bias, shifts, residual, x]
    done = assert_same_in_place(bench, KERNELS["conv2d_nhwc"], inputs, ((2, 9, 33, oc), x.dtype), dims, **built)
    assert done == (panels == 1 or oc == 64)  # else some channels are computed twice


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_convolution(bench: Bench, shape, stored):
    check_conv(bench, shape, stored)
    check_conv(bench, shape, stored, "Silu", shift=True, add=True)
    check_conv(bench, shape, stored, "Silu", shift=True, add=True, panels=True)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7, 4, 3, 1, SAME), (1, 16, 3, 3, 5, 3, 2, SAME)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_convolutions_of_tiny_autoencoders(bench: Bench, shape, stored):
    check_conv(bench, shape, stored, "Relu", panels=True)
    check_conv(bench, shape, stored, "ThenRelu", add=True, panels=True)


@pytest.mark.parametrize("up", [(10, 14), (9, 13), (11, 7)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_convolution_of_a_larger_picture_that_is_not_there(bench: Bench, up, stored):
    check_conv(bench, (2, 18, 5, 7, 20, 3, 1, SAME), stored, up=up)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["conv2d_nhwc"]))
def test_convolution_tunings(bench: Bench, stored, tuning):
    check_conv(bench, (2, 21, 7, 9, 83, 3, 1, SAME), stored, shift=True, add=True, tuning=tuning)
    check_conv(bench, (1, 5, 7, 9, 3, 3, 2, SAME), stored, "Silu", shift=True, add=True, tuning=tuning)
    check_conv(bench, (1, 5, 7, 9, 83, 3, 1, SAME), stored, shift=True, add=True, tuning=tuning, panels=True)


@pytest.mark.parametrize("shape", SHAPES[::2], ids=str)
@pytest.mark.parametrize("bits", FEW_BITS)
@pytest.mark.parametrize("stored", STORED)
def test_convolution_of_weights_in_few_bits(bench: Bench, shape, bits, stored):
    check_conv(bench, shape, stored, "Silu", shift=True, add=True, panels=True, bits=bits)


@pytest.mark.parametrize("kind", ["equal", "largest"])
def test_convolution_of_extreme_values(bench: Bench, kind):
    check_conv(bench, (1, 20, 6, 18, 9, 3, 1, SAME), "f16", kind=kind)


def test_padding_is_zero_even_beside_infinity(bench: Bench):
    """A masked tap must not multiply: 0 * inf is NaN."""
    x, weight, bias = (
        np.full((1, 4, 20, 2), np.inf, np.float32),
        np.ones((3, 3, 2, 16), np.float32),
        np.zeros(16, np.float32),
    )
    sizes = {"n": 1, "ic": 2, "h": 4, "w": 20, "oc": 16, "ldb": 16, "oh": 4, "ow": 20, "kh": 3, "kw": 3, "stride": 1}
    dims = sizes | {"pad_top": 1, "pad_left": 1, "up_h": 4, "up_w": 20, "shift_from": 0, "shift_row": 0}
    got = bench.run(
        KERNELS["conv2d_nhwc"], [x, weight, bias, x, x, x], ((1, 4, 20, 16), x.dtype), dims, F16=0, HAS_BIAS=1
    )
    assert np.isposinf(got).all()


# The rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [(1, 1, 1, 1, 2, 2), (2, 5, 3, 17, 10, 6), (1, 7, 4, 33, 13, 9), (2, 3, 5, 16, 3, 5)], ids=str
)
@pytest.mark.parametrize("stored", STORED)
def test_resize(bench: Bench, size, stored):
    n, h, w, c, oh, ow = size
    x = values("normal", (n, h, w, c), stored)
    dims = dict(zip(("n", "h", "w", "c", "oh", "ow"), size, strict=True))
    got = bench.run(KERNELS["resize_nearest_nhwc"], [x], ((n, oh, ow, c), x.dtype), dims, F16=half(stored))
    np.testing.assert_array_equal(got, x[:, np.arange(oh) * h // oh][:, :, np.arange(ow) * w // ow])


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["resize_nearest_nhwc"]))
def test_resize_tunings(bench: Bench, stored, tuning):
    x = values("normal", (1, 3, 5, 19), stored)
    dims = {"n": 1, "h": 3, "w": 5, "c": 19, "oh": 6, "ow": 10}
    got = bench.run(KERNELS["resize_nearest_nhwc"], [x], ((1, 6, 10, 19), x.dtype), dims, tuning, F16=half(stored))
    np.testing.assert_array_equal(got, x.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("order", ["SinCos", "CosSin"])
@pytest.mark.parametrize("rows, width", [(1, 1), (3, 33), (2, 160)])
def test_sines_and_cosines(bench: Bench, order, rows, width):
    t = np.array([981.0, 0.0, 501.0], np.float32)[:rows]
    rates = np.exp(-np.arange(width) / width * math.log(10000)).astype(np.float32)
    for tuning in ({}, {"X": 64}):
        dims = {"rows": rows, "half_width": width}
        got = bench.run(
            KERNELS["sin_cos"], [t, rates], ((rows, 2 * width), np.float32), dims, tuning, F16=0, **{f"OP_{order}": 1}
        )
        angle = (t[:, None] * rates).astype(np.float64)  # the product is rounded once, as the reference's is
        halves = [np.sin(angle), np.cos(angle)]
        want = np.concatenate(halves if order == "SinCos" else halves[::-1], 1)
        assert_close(got, want, 4 * EPS["f32"], order)
