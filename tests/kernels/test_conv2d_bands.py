"""Direct convolution over bands of pixels (conv2d_bands), as lowering calls it, against NumPy in float64."""

import numpy as np
import pytest
from kernels.bench import Bench, assert_same_in_place, exact, half, tunings, values
from kernels.epilogues import FEW_BITS, defines, finished, in_panels, packed
from kernels.test_conv2d import convolve_nhwc
from tolerance import assert_close

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNEL = load_all()["conv2d_bands"]
SAME = (1, 1, 1, 1)


def banded(bench, x, taps, stride, pads, up, stored, parts=None, activation="", split=None, bits="", **tuning):
    """(its result, the weight that is meant); `split` replaces sizes of the work."""
    (n, h, w, ic), (k, _, _, oc), tile = x.shape, taps.shape, KERNEL.tuning(**tuning)
    top, left, bottom, right = pads
    up_h, up_w = up
    oh, ow = (up_h + top + bottom - k) // stride + 1, (up_w + left + right - k) // stride + 1
    v, wide = tile["V"], tile["V"] * tile["NV"]
    weight, scales, meant, built = packed(taps.reshape(-1, oc), wide, bits=bits)
    panels = weight.shape[0]
    work = {"band_h": oh, "band_w": ow, "depth": ic, "chunk": panels, "groups": 1} | (split or {})
    high, across, depth = work["band_h"], work["band_w"], work["depth"]
    window = ((high - 1) * stride + k) * ((across - 1) * stride + k) * (depth + v)
    widened = k * k * depth * wide if bits or stored == "f16" else 0
    slot = window + widened + work["chunk"] * (high * across + tile["MR"]) * wide
    sizes = {"n": n, "ic": ic, "h": h, "w": w, "oc": oc, "oh": oh, "ow": ow, "kh": k, "kw": k, "stride": stride}
    sizes |= {"bands_h": -(-oh // high), "bands_w": -(-ow // across), "panels": panels, **work}
    sizes |= {"window": window, "widened": widened, "slot": slot, "pad_top": top, "pad_left": left}
    sizes |= {"up_h": up_h, "up_w": up_w, "shift_from": 2, "shift_row": 2 + oc}
    bias, shifts, residual = parts or (np.zeros(oc, x.dtype), x, x)
    settings = {name: on for name, on in built.items() if name != "PANELS"} | {"RAGGED": int(oc % v > 0)}
    settings |= {"F16": half(stored)} | defines(activation, True, bool(parts), bool(parts))
    inputs = [x, weight, in_panels(bias[None], wide), shifts, residual, x if scales is None else scales]
    call = (KERNEL, inputs, ((n, oh, ow, oc), x.dtype), sizes, tuning, slot * work["groups"])
    assert not parts or assert_same_in_place(bench, *call, **settings)
    return bench.run(*call, **settings), meant.reshape(taps.shape)


def check(bench, shape, stored, *, up=None, activation="", split=None, bits="", kind="normal", **tuning):
    n, ic, h, w, oc, k, stride, pads = shape
    up = up or (h, w)
    x, taps = values(kind, (n, h, w, ic), stored), values("normal", (k, k, ic, oc), stored, 1)
    oh, ow = ((size + pads[i] + pads[i + 2] - k) // stride + 1 for i, size in enumerate(up))
    shapes = ((oc,), (n, 2 + oc), (n, oh, ow, oc))
    parts = tuple(values("normal", s, stored, i) for i, s in enumerate(shapes, 2)) if activation else None
    got, meant = banded(bench, x, taps, stride, pads, up, stored, parts, activation, split, bits, **tuning)
    image, weight = exact(x, meant)
    large = image[:, np.arange(up[0]) * h // up[0]][:, :, np.arange(up[1]) * w // up[1]]
    want, size = (convolve_nhwc(a, b, stride, pads) for a, b in ((large, weight), (np.abs(large), np.abs(weight))))
    base, extra, rest = exact(*parts) if parts else (np.zeros(oc), None, None)
    shift = None if extra is None else extra[:, None, None, 2:]
    terms = ic * k * k + bool(bits)
    want, wrong = finished(want, size, terms, stored, activation, bias=base, shift=shift, residual=rest)
    assert_close(got, want, wrong, f"{shape} {split} {tuning}")


# n, ic, h, w, oc, k, stride, pads (top, left, bottom, right)
SHAPES = [
    (1, 16, 1, 1, 1, 1, 1, (0, 0, 0, 0)),
    (2, 19, 9, 13, 70, 3, 1, SAME),
    (1, 16, 3, 3, 5, 3, 2, SAME),
    (2, 17, 10, 7, 64, 3, 2, (0, 0, 1, 1)),
    (1, 18, 9, 10, 3, 2, 1, (0, 1, 1, 0)),
    (1, 16, 12, 11, 33, 5, 3, (2, 2, 2, 2)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("stored", ["f32", "f16"])
def test_bands(bench: Bench, shape, stored):
    check(bench, shape, stored, activation="Silu")


SPLITS = [
    {"band_h": 2, "band_w": 5},  # bands that are not full at either end
    {"band_h": 4, "depth": 16, "chunk": 1, "groups": 3},  # channels in three parts, the last of them short
    {"band_w": 3, "depth": 32, "groups": 20},  # work-items without a task
]


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("stored", ["f32", "f16"])
def test_bands_however_the_work_is_split(bench: Bench, split, stored):
    check(bench, (2, 48, 9, 13, 70, 3, 1, SAME), stored, split=split, activation="Silu")


@pytest.mark.parametrize("up", [(10, 14), (9, 13)], ids=str)
def test_bands_of_a_larger_picture_that_is_not_there(bench: Bench, up):
    check(bench, (2, 18, 5, 7, 20, 3, 1, SAME), "f32", up=up, activation="Silu", split={"band_h": 3})


@pytest.mark.parametrize("bits", FEW_BITS)
@pytest.mark.parametrize("stored", ["f32", "f16"])
def test_bands_of_weights_in_few_bits(bench: Bench, bits, stored):
    """A tap's channels share scales with the next one's."""
    check(bench, (2, 48, 5, 7, 70, 3, 1, SAME), stored, bits=bits, activation="Silu", split={"depth": 16, "chunk": 1})


@pytest.mark.parametrize("stored, tuning", tunings(KERNEL))
def test_bands_tunings(bench: Bench, stored, tuning):
    check(bench, (1, 21, 7, 9, 83, 3, 1, SAME), stored, **tuning)


def test_padding_of_bands_is_zero_even_beside_infinity(bench: Bench):
    """A masked tap must not multiply: 0 * inf is NaN."""
    x, taps = np.full((1, 4, 20, 16), np.inf, np.float32), np.ones((3, 3, 16, 16), np.float32)
    assert np.isposinf(banded(bench, x, taps, 1, SAME, (4, 20), "f32")[0]).all()
