"""Winograd's F(4x4, 3x3), in one command and in three, against a direct convolution in float64."""

import numpy as np
import pytest
from kernels.bench import Bench, assert_same_in_place, exact, tunings, values
from kernels.epilogues import FEW_BITS, defines, finished, in_panels, packed
from kernels.test_conv2d import convolve_nhwc
from tolerance import EPS, TINY, assert_close

from ondevice.lower.kernel_file import load_all
from ondevice.lower.linear import DENSE
from ondevice.lower.stored import G

pytestmark = pytest.mark.device
KERNELS = load_all()
P, Q = 0.5**0.5, 2**0.5
BT = np.array(
    [
        [1, 0, -2.5, 0, 1, 0],
        [0, -Q, -2, P, 1, 0],
        [0, Q, -2, -P, 1, 0],
        [0, -P, -0.5, Q, 1, 0],
        [0, P, -0.5, -Q, 1, 0],
        [0, 1, 0, -2.5, 0, 1],
    ]
)
AT = np.array([[1, 1, 1, 1, 1, 0], [0, P, -P, Q, -Q, 0], [0, 0.5, 0.5, 2, 2, 0], [0, P / 2, -P / 2, 2 * Q, -2 * Q, 1]])


def test_the_matrices_make_a_convolution() -> None:
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal((6, 6)), rng.standard_normal((3, 3))
    direct = np.array([[(d[i : i + 3, j : j + 3] * g).sum() for j in range(4)] for i in range(4)])
    np.testing.assert_allclose(AT @ ((G @ g @ G.T) * (BT @ d @ BT.T)) @ AT.T, direct, rtol=1e-12, atol=1e-12)


def tiles_of(large: np.ndarray, oh: int, ow: int) -> np.ndarray:
    """[n, H, W, c] padded by one -> patches [tiles, 6, 6, c]."""
    n, high, wide, _ = large.shape
    th, tw = -(-oh // 4), -(-ow // 4)
    padded = np.pad(large, [(0, 0), (1, 4 * th + 5 - high), (1, 4 * tw + 5 - wide), (0, 0)])
    return np.stack(
        [padded[i, 4 * y : 4 * y + 6, 4 * x : 4 * x + 6] for i in range(n) for y in range(th) for x in range(tw)]
    )


def check_input(bench: Bench, kernel: str, size, up, stored, tuning, **defines):
    """The patches of x [n, h, w, ic], or of x `up` times as large, of all tiles but the first and the last."""
    n, h, w, ic = size
    oh, ow = up * h, up * w
    x = values("normal", (n, h, w, ic), stored)
    th, tw = -(-oh // 4), -(-ow // 4)
    tiles = n * th * tw
    first, count = (0, tiles) if tiles < 3 else (1, tiles - 2)  # a band
    sizes = {"h": h, "w": w, "ic": ic, "tiles_h": th, "tiles_w": tw, "first": first, "count": count}
    dims = sizes | {"pad_top": 1, "pad_left": 1, "up_h": oh, "up_w": ow}
    output = ((36, count, ic), x.dtype)
    got = bench.run(KERNELS[kernel], [x], output, dims, tuning, F16=int(stored == "f16"), **defines)
    patches = tiles_of(x.astype(np.float64).repeat(up, 1).repeat(up, 2), oh, ow)[first : first + count]

    def turned(matrix, data):
        return np.einsum("ay,bx,tyxc->abtc", matrix, matrix, data).reshape(36, count, ic)

    want, size_ = turned(BT, patches), turned(np.abs(BT), np.abs(patches))
    assert_close(got, want, EPS[stored] * np.abs(want) + TINY[stored] + 12 * EPS["f32"] * size_, str(size))


def check_output(bench: Bench, kernel: str, size, activation, parts, stored, tuning, inplace):
    """y [n, oh, ow, oc] of normal products, with shift and residual if `parts`; `inplace`: if it can be over it."""
    n, oh, ow, oc = size
    th, tw = -(-oh // 4), -(-ow // 4)
    count = n * th * tw
    products = values("normal", (36, count, oc), stored)
    bias, shifts, residual = (
        values("normal", s, stored, i) for i, s in enumerate(((oc,), (n, 4 + oc), (n, oh, ow, oc)), 1)
    )
    sizes = {"oh": oh, "ow": ow, "oc": oc, "tiles_h": th, "tiles_w": tw, "first": 0, "count": count}
    sizes |= {"shift_from": 4, "shift_row": 4 + oc}
    settings = {"F16": int(stored == "f16"), **defines(activation, True, parts, parts)}
    inputs = [products, bias, shifts, residual]
    call = (KERNELS[kernel], inputs, ((n, oh, ow, oc), products.dtype), sizes, tuning)
    assert not parts or assert_same_in_place(bench, *call, **settings) == inplace
    got = bench.run(*call, **settings)
    data, base, extra, rest = exact(*inputs)

    def back(matrix, square):
        tiles = np.einsum("ia,jb,abtc->tijc", matrix, matrix, square.reshape(6, 6, count, oc))
        whole = tiles.reshape(n, th, tw, 4, 4, oc).transpose(0, 1, 3, 2, 4, 5).reshape(n, 4 * th, 4 * tw, oc)
        return whole[:, :oh, :ow]

    added = {"bias": base, "shift": extra[:, None, None, 4:] if parts else None, "residual": rest if parts else None}
    want, wrong = finished(back(AT, data), back(np.abs(AT), np.abs(data)) * 2, 36, stored, activation, **added)
    assert_close(got, want, wrong, str(size))


def check_band(bench: Bench, kernel: str):
    """The second and the third of four tiles: their pixels are written, and no others."""
    products, bias = values("normal", (36, 2, 16), "f32"), np.zeros(16, np.float32)
    sizes = {"oh": 8, "ow": 8, "oc": 16, "tiles_h": 2, "tiles_w": 2, "first": 1, "count": 2}
    sizes |= {"shift_from": 0, "shift_row": 0}
    output = ((1, 8, 8, 16), np.float32)
    got = bench.run(KERNELS[kernel], [products, bias, bias, bias], output, sizes, F16=0, HAS_BIAS=1)
    written = np.isfinite(got[0, ..., 0])
    assert written[:4, 4:].all() and written[4:, :4].all() and not written[:4, :4].any() and not written[4:, 4:].any()


@pytest.mark.parametrize("size", [(1, 1, 1, 16), (2, 5, 7, 17), (1, 12, 9, 40)], ids=str)
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["winograd_input"]))
def test_input(bench: Bench, size, up, stored, tuning):
    check_input(bench, "winograd_input", size, up, stored, tuning)


@pytest.mark.parametrize("size", [(1, 1, 1, 16), (2, 5, 7, 17), (1, 12, 9, 40)], ids=str)
@pytest.mark.parametrize("activation, parts", [("", False), ("Silu", True)])
@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["winograd_output"]))
def test_output(bench: Bench, size, activation, parts, stored, tuning):
    inplace = size[-1] % 16 == 0 or size[-1] % tuning.get("V", 16) == 0
    check_output(bench, "winograd_output", size, activation, parts, stored, tuning, inplace)


def test_output_and_strips_of_tiny_autoencoders(bench: Bench):
    check_output(bench, "winograd_output", (2, 5, 7, 16), "ThenRelu", True, "f32", {}, inplace=True)
    for oc in (40, 32):  # vectors that end with the row, and that do not
        check_strips(bench, (1, 9, 7, 16, oc), "f32", activation="ThenRelu")


def test_a_band_writes_its_own_tiles_only(bench: Bench):
    check_band(bench, "winograd_output")


def test_the_whole_is_a_convolution(bench: Bench):
    """Transform, 36 products, transform back, as lowering chains them; the error that is left is float32's."""
    n, h, w, ic, oc = 1, 14, 10, 48, 32
    x, weight = values("normal", (n, h, w, ic), "f32"), values("normal", (3, 3, ic, oc), "f32", 1)
    th, tw = 4, 3
    sizes = {"h": h, "w": w, "ic": ic, "tiles_h": th, "tiles_w": tw, "first": 0, "count": 12}
    steps = {"pad_top": 1, "pad_left": 1, "up_h": h, "up_w": w}
    patches = bench.run(KERNELS["winograd_input"], [x], ((36, 12, ic), np.float32), sizes | steps, F16=0)
    turned = np.einsum("ay,bx,yxio->abio", G, G, weight.astype(np.float64)).reshape(36, ic, oc).astype(np.float32)
    dims = {"batch": 36, "m": 12, "n": oc, "k": ic, "k1": ic, "ldb": oc, "a_batch": 12 * ic, "b_batch": ic * oc}
    dims |= DENSE | {"y_batch": 12 * oc}
    products = bench.run(KERNELS["matmul"], [patches, patches, *[turned] * 5], ((36, 12, oc), np.float32), dims, F16=0)
    back = {
        "oh": h,
        "ow": w,
        "oc": oc,
        "tiles_h": th,
        "tiles_w": tw,
        "first": 0,
        "count": 12,
        "shift_from": 0,
        "shift_row": 0,
    }
    got = bench.run(KERNELS["winograd_output"], [products, x, x, x], ((n, h, w, oc), np.float32), back, F16=0)
    image, taps = exact(x, weight)
    want = convolve_nhwc(image, taps, 1, (1, 1, 1, 1))
    error = np.sqrt(((got - want) ** 2).mean() / (want**2).mean())
    assert error < 2e-6


@pytest.mark.parametrize("bits", ["", *FEW_BITS])
@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["winograd_taps"]))
def test_taps(bench: Bench, stored, tuning, bits):
    check_taps(bench, stored, bits, tuning)


def test_taps_on_phones(phone_bench: Bench):
    check_taps(phone_bench, "f16", "i4", {"V": 4, "X": 64})


def check_taps(bench: Bench, stored, bits, tuning):
    """Channels in that share scales across taps, and a last panel that is not full."""
    ic, oc, wide = 21, 37, 16
    given, scales, meant, built = packed(values("normal", (9 * ic, oc), stored), wide, bits=bits)
    sizes = {"panels": given.shape[0], "ic": ic, "wide": wide}
    inputs = [given, given if scales is None else scales]
    built = KERNELS["winograd_taps"].asked(built) | {"F16": int(stored == "f16")}
    output = ((36, given.shape[0], ic, wide), values("equal", (1,), stored).dtype)
    got = bench.run(KERNELS["winograd_taps"], inputs, output, sizes, tuning, **built)
    (taps,) = exact(meant.reshape(3, 3, ic, oc))
    want, size = (
        in_panels(np.einsum("ay,bx,yxio->abio", matrix, matrix, data).reshape(36, ic, oc), wide)
        for matrix, data in ((G, taps), (np.abs(G), np.abs(taps)))
    )
    assert_close(got, want, EPS[stored] * np.abs(want) + TINY[stored] + 12 * EPS["f32"] * size, bits)


# In one command -------------------------------------------------------------------------------------------------------


def strips(
    bench: Bench, x, taps, oh, ow, stored, fly, activation="", parts=(), split=None, bits="", given=False, **tuning
):
    """winograd_strips as lowering calls it, with the plain taps (`fly`) or the transformed ones, and patches that it
    makes or that are `given`; `split` replaces sizes of the work."""
    kernel, (n, h, w, ic), oc = KERNELS["winograd_strips"], x.shape, taps.shape[-1]
    tuning = kernel.tuning(**tuning)
    th, tw, v, mr, wide = -(-oh // 4), -(-ow // 4), tuning["V"], tuning["MR"], tuning["V"] * tuning["NV"]
    tiles, panels = n * th * tw, -(-oc // wide)
    work = {"strip": mr, "block": ic, "chunk": panels, "groups": 2} | (split or {})
    row, blocks = work["block"] + (0 if fly else v), -(-ic // work["block"])
    patches = 0 if given else blocks * (work["strip"] * row + v)
    slot = 36 * (patches + work["strip"] * wide + v + fly * (work["block"] * wide + v))
    turned = taps if fly else np.einsum("ay,bx,yxio->abio", G, G, taps.astype(np.float64)).astype(taps.dtype)
    weight, scales, _, built = packed(turned.reshape(-1, oc), wide, bits=bits)
    bias, shifts, residual = parts or (np.zeros(oc, x.dtype), x, x)
    dims = {"n": n, "ic": ic, "h": h, "w": w, "oc": oc, "oh": oh, "ow": ow, "tiles_h": th, "tiles_w": tw}
    dims |= {"begun": 0, "tiles": tiles, "panels": panels, "slot": slot}
    dims |= {"pad_top": 1, "pad_left": 1, "up_h": oh, "up_w": ow, "shift_from": 2, "shift_row": 2 + oc} | work
    built = {name: 1 for name in built if name != "PANELS"} | {"FLY": int(fly), "RAGGED": int(oc % v > 0)}
    stg = {"F16": int(stored == "f16")}
    settings = built | stg | {"GIVEN": int(given)} | defines(activation, True, bool(parts), bool(parts))
    made = blocks_of(bench, x, dims, v, **stg) if given else x
    inputs = [x, weight, in_panels(bias[None], wide), shifts, residual, x if scales is None else scales, made]
    call = (kernel, inputs, ((n, oh, ow, oc), x.dtype), dims, tuning, slot * work["groups"])
    assert not parts or assert_same_in_place(bench, *call, **settings)
    return bench.run(*call, **settings)


def blocks_of(bench: Bench, x, dims, v, **stg):
    """What winograd_blocks makes of these tiles [strips, blocks, 36, strip * block + v]."""
    shape = (-(-dims["tiles"] // dims["strip"]), -(-dims["ic"] // dims["block"]), 36, dims["strip"] * dims["block"] + v)
    return bench.run(KERNELS["winograd_blocks"], [x], (shape, np.float32), dims, {"V": v}, **stg)


def check_strips(bench: Bench, size, stored, fly=True, up=1, activation="", split=None, bits="", given=False, **tuning):
    n, h, w, ic, oc = size
    x, taps = values("normal", (n, h, w, ic), stored), values("normal", (3, 3, ic, oc), stored, 1)
    oh, ow = up * h, up * w
    shapes = ((oc,), (n, 2 + oc), (n, oh, ow, oc))
    parts = tuple(values("normal", s, stored, i) for i, s in enumerate(shapes, 2)) if activation else ()
    got = strips(bench, x, taps, oh, ow, stored, fly, activation, parts, split, bits, given, **tuning)
    meant = packed(taps.reshape(9 * ic, oc), 16, bits=bits)[2].reshape(taps.shape)
    image, exact_taps = exact(x, meant)
    image = image.repeat(up, 1).repeat(up, 2)
    want, magnitude = (
        convolve_nhwc(a, b, 1, (1, 1, 1, 1)) for a, b in ((image, exact_taps), (np.abs(image), np.abs(exact_taps)))
    )
    base, extra, rest = exact(*parts) if parts else (np.zeros(oc), None, None)
    shift = None if extra is None else extra[:, None, None, 2:]
    # The transforms make numbers that are larger than the result's by about this much; stored transformed, weights are
    # rounded once more.
    larger = 12 * (1 + (not fly) * EPS[stored] / EPS["f32"])
    want, wrong = finished(want, larger * magnitude, 9 * ic, stored, activation, bias=base, shift=shift, residual=rest)
    assert_close(got, want, wrong, f"{size} {split} {tuning}")


# tiles cut off, channels that fill no vector
SIZES = [(1, 1, 1, 16, 16), (2, 5, 7, 17, 40), (1, 12, 9, 48, 3), (1, 13, 8, 40, 33)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("up, activation", [(1, ""), (2, "Silu")])
@pytest.mark.parametrize("stored, fly", [("f32", True), ("f16", True), ("f32", False), ("f16", False)])
def test_strips(bench: Bench, size, up, activation, stored, fly):
    check_strips(bench, size, stored, fly, up, activation)


@pytest.mark.parametrize("size", SIZES[1:], ids=str)
@pytest.mark.parametrize("bits", FEW_BITS)
@pytest.mark.parametrize("stored", ["f32", "f16"])
def test_strips_of_weights_in_few_bits(bench: Bench, size, stored, bits):
    check_strips(bench, size, stored, activation="Silu", bits=bits)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["winograd_strips"]))
def test_strips_tunings(bench: Bench, stored, tuning):
    check_strips(bench, (1, 9, 10, 32, 72), stored, **tuning)


@pytest.mark.parametrize(
    "split",
    [
        {"block": 32},  # channels in three parts, the last of them short
        {"block": 48, "chunk": 1, "groups": 5},  # a task per panel, more tasks than work-items
        {"strip": 24, "chunk": 2, "groups": 9},  # all tiles at once; work-items without a task
        {"block": 16, "chunk": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("fly", [True, False])
def test_strips_however_the_work_is_split(bench: Bench, split, fly):
    check_strips(bench, (2, 9, 10, 80, 70), "f32", fly, split=split)


@pytest.mark.parametrize(
    "size, split", [((2, 9, 10, 80, 70), {"block": 32, "chunk": 1, "groups": 5}), ((1, 5, 4, 17, 33), {})]
)
@pytest.mark.parametrize("up, activation", [(1, ""), (2, "Silu")])
@pytest.mark.parametrize("stored", ["f32", "f16"])
def test_strips_of_given_patches(bench: Bench, size, split, up, activation, stored):
    check_strips(bench, size, stored, True, up, activation, split, given=True)
