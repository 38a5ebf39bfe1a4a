"""Products and convolutions in bf16 against NumPy in float64, in every spelling of the words of matrix.h.

References multiply what the kernels do, operands rounded to bf16 (or split in two), so bounds are those of float32
sums: a value that is rounded another way is off by a hundred times more.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.bench import Bench, assert_same_in_place, exact, half, values
from kernels.epilogues import ACTIVATIONS, FEW_BITS, defines, finished, in_panels, packed
from kernels.matrix_units import MATHS, as_bf16, multiplied
from tolerance import assert_close

from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.linear import DENSE

pytestmark = pytest.mark.device
PRODUCT, CONVOLUTION = (load_all()[name] for name in ("matmul_bf16", "conv2d_bf16"))
WIDE, SLACK = 32, 32


def depths(kernel: KernelFile) -> list:
    """The listed values of its DEPTH; all but one, each of which is built, in the sweep."""
    listed = kernel.header["tune"]["DEPTH"]
    return [pytest.param(depth, marks=[pytest.mark.sweep] * (depth != listed[1])) for depth in listed]


def product_of(math: str, left: np.ndarray, meant: np.ndarray, bits: str) -> tuple[np.ndarray, np.ndarray]:
    if bits != "i8":
        return multiplied(math, left, meant)
    scales = np.abs(meant).max(0, keepdims=True) / 127
    scales[scales == 0] = 1
    product, size = multiplied(math, left, np.round(meant / scales))
    return product * scales, size * scales


def check(
    bench: Bench,
    size: tuple[int, int, int],
    stored: str,
    math: str,
    activation: str = "",
    *,
    bias: bool = True,
    add: bool = False,
    k1: int | None = None,
    bits: str = "",
    strip: int = 96,
    share: int = 1,
    groups: int = 2,
    depth: int | None = None,
    in_place: bool = False,
) -> None:
    """x [m, k] in one part, or in two with k1 columns in the first; weight [k, n or 2 n]."""
    m, n, k = size
    columns, halves = (2 * n, 2) if activation == "Geglu" else (n, 1)
    x, weight, shift, residual = (
        values("normal", shape, stored, seed) for seed, shape in enumerate(((m, k), (k, columns), (columns,), (m, n)))
    )
    x1, x2 = np.ascontiguousarray(x[:, :k1]), np.ascontiguousarray(x[:, k1:] if k1 else x)
    right, scales, meant, built = packed(weight, WIDE, halves, bits)
    built = {name: on for name, on in built.items() if name != "PANELS"} | {f"MATH_{math}": 1, "F16": half(stored)}
    built |= {"SPLIT": 1} if k1 else {}
    tuning = {} if depth is None else {"DEPTH": depth}
    row, parts = (-(-k // 32) + 1) * 16, 1 + (math == "bf16x3")
    slot = (strip + SLACK) * (WIDE + parts * row) + parts * PRODUCT.tuning(**tuning)["DEPTH"] // 2 * WIDE
    dims = {"batch": 1, "m": m, "n": n, "k": k, "k1": k1 or k, "ldb": right.shape[0] * WIDE, "a_batch": 0, "b_batch": 0}
    dims |= {"strip": strip, "share": share, "groups": groups, "slot": slot, "constant": 1} | DENSE
    inputs = [x1, x2, right, in_panels(shift[None], WIDE, halves), x, residual, x if scales is None else scales]
    built |= defines(activation, bias, False, add)
    if in_place:
        assert assert_same_in_place(bench, PRODUCT, inputs, ((m, n), x.dtype), dims, tuning, groups * slot, **built)
        return
    got = bench.run(PRODUCT, inputs, ((m, n), x.dtype), dims, tuning, groups * slot, **built)
    left, add_, rest = exact(x, shift, residual)
    product, size_ = product_of(math, left, meant, bits)
    extra = {"bias": add_ if bias else None, "residual": rest if add else None}
    want, wrong = finished(product, size_, parts * k + bool(bits), stored, activation, **extra)
    assert_close(got, want, wrong, f"{size} {math} {activation}")


# Blocks have 12 or 32 rows and 32 columns, strips 96 rows, and DEPTH is 256: one under, one over, and several of each.
SIZES = [(1, 1, 1), (3, 15, 7), (12, 32, 2), (13, 33, 31), (33, 65, 257), (100, 70, 300), (193, 20, 64)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("math, stored", [("bf16", "f32"), ("bf16x3", "f16")])
def test_awkward_sizes(spelled: Bench, math: str, stored: str, size: tuple[int, int, int]) -> None:
    check(spelled, size, stored, math, add=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("math, stored", [("bf16", "f16"), ("bf16x3", "f32")])
def test_epilogues(bench: Bench, math: str, stored: str, activation: str) -> None:
    check(bench, (35, 45, 70), stored, math, activation, bias=activation != "Silu", add=activation != "Gelu")


@pytest.mark.parametrize("k1", [1, 16, 40, 299])
def test_two_parts(bench: Bench, k1: int) -> None:
    check(bench, (15, 70, 300), "f16", "bf16", k1=k1)
    check(bench, (15, 70, 300), "f32", "bf16x3", "Geglu", k1=k1, add=True)


@pytest.mark.parametrize("bits", FEW_BITS)
@pytest.mark.parametrize("math", MATHS)
def test_weights_in_few_bits(bench: Bench, math: str, bits: str) -> None:
    check(bench, (14, 83, 150), "f16", math, "Geglu", add=True, bits=bits)


@pytest.mark.parametrize("depth", depths(PRODUCT))
def test_however_it_is_shared(bench: Bench, depth: int) -> None:
    """Strips, panels and blocks of the weight that do not come out even."""
    check(bench, (61, 170, 300), "f32", "bf16", depth=depth, strip=13, share=2, groups=3)


@pytest.mark.parametrize("activation", ["", "Geglu"])
def test_over_the_residual(bench: Bench, activation: str) -> None:
    check(bench, (50, 45, 40), "f32", "bf16", activation, add=True, in_place=True)


@pytest.mark.parametrize("math", MATHS)
def test_accuracy(bench: Bench, math: str) -> None:
    """Of sums of many terms, what a mode promises: one rounding of 8 bits of each operand, or of 16."""
    m, n, k = 40, 64, 1280
    x, weight = values("normal", (m, k), "f32"), values("normal", (k, n), "f32", 1)
    row, parts = (-(-k // 32) + 1) * 16, 1 + (math == "bf16x3")
    slot = (96 + SLACK) * (WIDE + parts * row) + parts * PRODUCT.tuning()["DEPTH"] // 2 * WIDE
    dims = {"batch": 1, "m": m, "n": n, "k": k, "k1": k, "ldb": n, "a_batch": 0, "b_batch": 0}
    dims |= {"strip": 96, "share": 2, "groups": 1, "slot": slot, "constant": 1} | DENSE
    inputs = [x, x, in_panels(weight, WIDE), x, x, x, x]
    got = bench.run(PRODUCT, inputs, ((m, n), x.dtype), dims, None, slot, **{f"MATH_{math}": 1, "F16": 0})
    want = x.astype(np.float64) @ weight
    relative = np.sqrt(((got - want) ** 2).mean() / (want**2).mean())
    # Two operands are off by at most 2^-8 of them each, evenly within that: 1 / sqrt 3 in the root of the mean square.
    assert relative < (2**-8 * (2 / 3) ** 0.5 if math == "bf16" else 2e-5)


# Convolution ----------------------------------------------------------------------------------------------------------

SAME = (1, 1, 1, 1)
# n, ic, h, w, oc, k, stride, pads (top, left, bottom, right), rows and columns of a rectangle
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, (0, 0, 0, 0), 1, 1),
    (1, 17, 16, 16, 25, 3, 1, SAME, 4, 16),
    (2, 19, 9, 33, 70, 3, 1, SAME, 4, 11),
    (1, 150, 4, 5, 16, 3, 1, SAME, 3, 3),
    (1, 16, 3, 3, 5, 3, 2, SAME, 2, 1),
    (2, 3, 17, 35, 5, 3, 2, (0, 0, 1, 1), 3, 5),
    (1, 33, 12, 25, 33, 5, 3, (2, 2, 2, 2), 2, 9),
    (1, 40, 9, 10, 64, 1, 2, (0, 0, 0, 0), 2, 4),
    (1, 8, 9, 9, 6, 2, 3, (0, 1, 1, 0), 2, 2),
]


def convolve(math: str, image: np.ndarray, taps: np.ndarray, stride: int, pads: tuple[int, ...], bits: str = ""):
    """(result, the same of magnitudes) [n, oh, ow, oc], by the patches of every pixel."""
    top, left, bottom, right = pads
    ic, (kh, kw, _, oc) = image.shape[-1], taps.shape
    padded = np.pad(image, [(0, 0), (top, bottom), (left, right), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), (1, 2))[:, ::stride, ::stride]
    patches = windows.transpose(0, 1, 2, 4, 5, 3)
    found = product_of(math, patches.reshape(-1, kh * kw * ic), taps.reshape(-1, oc), bits)
    return [part.reshape(*patches.shape[:3], oc) for part in found]


def check_conv(
    bench: Bench,
    shape: tuple,
    stored: str,
    math: str,
    activation: str = "",
    *,
    up: tuple[int, int] | None = None,
    shift: bool = False,
    add: bool = False,
    bits: str = "",
    depth: int | None = None,
    in_place: bool = False,
) -> None:
    n, ic, h, w, oc, k, stride, (top, left, bottom, right), rows, cols = shape
    up_h, up_w = up or (h, w)
    oh, ow = (up_h + top + bottom - k) // stride + 1, (up_w + left + right - k) // stride + 1
    x, weight = values("normal", (n, h, w, ic), stored), values("normal", (k, k, ic, oc), stored, 1)
    bias, shifts = values("normal", (oc,), stored, 2), values("normal", (n, 3 + oc), stored, 3)
    residual = values("normal", (n, oh, ow, oc), stored, 4)
    wide, scales, meant, built = packed(weight.reshape(-1, oc), WIDE, bits=bits)
    built = {name: on for name, on in built.items() if name != "PANELS"} | {f"MATH_{math}": 1, "F16": half(stored)}
    tuning, groups = {} if depth is None else {"DEPTH": depth}, 2
    depth, parts = CONVOLUTION.tuning(**tuning)["DEPTH"], 1 + (math == "bf16x3")
    lines = k * min(stride, k) * (rows + (k - 1) // stride) * cols + SLACK
    slot = (rows * cols + SLACK) * WIDE + parts * depth // 2 * (k * k * WIDE + -(-ic // depth) * lines)
    dims = {"n": n, "ic": ic, "h": h, "w": w, "oc": oc, "ldb": wide.shape[0] * WIDE, "oh": oh, "ow": ow}
    dims |= {"kh": k, "kw": k, "stride": stride, "pad_top": top, "pad_left": left, "up_h": up_h, "up_w": up_w}
    dims |= {"shift_from": 3, "shift_row": 3 + oc, "rows": rows, "cols": cols, "share": 1}
    dims |= {"groups": groups, "slot": slot}
    inputs = [x, wide, in_panels(bias[None], WIDE), shifts, residual, x if scales is None else scales]
    built |= defines(activation, True, shift, add)
    output = ((n, oh, ow, oc), x.dtype)
    if in_place:
        assert assert_same_in_place(bench, CONVOLUTION, inputs, output, dims, tuning, groups * slot, **built)
        return
    got = bench.run(CONVOLUTION, inputs, output, dims, tuning, groups * slot, **built)
    image, base, extra, rest = exact(x, bias, shifts, residual)
    large = image[:, np.arange(up_h) * h // up_h][:, :, np.arange(up_w) * w // up_w]
    product, size = convolve(math, large, meant.reshape(k, k, ic, oc), stride, (top, left, bottom, right), bits)
    more = {"bias": base, "shift": extra[:, None, None, 3:] if shift else None, "residual": rest if add else None}
    want, wrong = finished(product, size, parts * ic * k * k + bool(bits), stored, activation, **more)
    assert_close(got, want, wrong, f"{shape} {math}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("math, stored", [("bf16", "f16"), ("bf16x3", "f32")])
def test_convolution(spelled: Bench, math: str, stored: str, shape: tuple) -> None:
    check_conv(spelled, shape, stored, math)


@pytest.mark.parametrize("activation", ["", "Silu", "ThenRelu"])
@pytest.mark.parametrize("math, stored", [("bf16", "f32"), ("bf16x3", "f16")])
def test_convolution_epilogues(bench: Bench, math: str, stored: str, activation: str) -> None:
    check_conv(bench, SHAPES[2], stored, math, activation, shift=True, add=True)


@pytest.mark.parametrize("up", [(10, 10), (9, 11), (5, 5)], ids=str)
def test_convolution_of_a_larger_picture(bench: Bench, up: tuple[int, int]) -> None:
    check_conv(bench, (2, 18, 5, 5, 20, 3, 1, SAME, 3, 4), "f32", "bf16", up=up)


@pytest.mark.parametrize("bits", FEW_BITS)
def test_convolution_in_few_bits(bench: Bench, bits: str) -> None:
    check_conv(bench, (1, 24, 6, 7, 40, 3, 1, SAME, 4, 7), "f16", "bf16", "Silu", add=True, bits=bits)


@pytest.mark.parametrize("depth", depths(CONVOLUTION))
def test_channels_at_a_time(bench: Bench, depth: int) -> None:
    check_conv(bench, (1, 150, 4, 5, 16, 3, 1, SAME, 3, 3), "f32", "bf16", depth=depth)


def test_convolution_over_the_residual(bench: Bench) -> None:
    check_conv(bench, SHAPES[2], "f32", "bf16", add=True, in_place=True)


# Words ----------------------------------------------------------------------------------------------------------------

ROUNDED = """\
//: op    = "Identity"
//: class = "cpu"
//: caps  = ["matrix_unit"]
//: math  = ["bf16", "bf16x3"]
//: why   = "What words make of floats: pairs of neighbours, pairs of two rows, and one by one."
//: in    = ["x: f32[2, n]"]
//: out   = ["y: i32[3, n, 2]"]
//: args  = ["n: int"]
//: grid  = ["1", "1", "1"]
//: group = ["1", "1", "1"]
//: tune  = {V = [16, 4, 8]}
//: needs.n = {multiple = 32}

KERNEL(rounded)(IN(float, x), OUT(int, y), ARG(int, n) GRID) {
  OUT_PTR(uint) to = (OUT_PTR(uint))y;
  for (int i = 0; i < 6 * n; i++) to[i] = 0;
  for (int i = 0; i < n; i += V) {
    STORE_PAIRS(to, n, i / 2, LOADP(x, i))
    STORE_PAIRED(to, n, 2 * n + i, LOADP(x, i), LOADP(x, n + i))
    for (int c = 0; c < V; c++) to[4 * n + i + c] = PAIR(x[i + c], x[n + i + c]);
  }
}
"""


def bits_of(pairs: np.ndarray) -> np.ndarray:
    """uint32 [...] pairs as the floats [..., 2] that they are of."""
    both = np.stack([pairs << 16, pairs & 0xFFFF0000], -1).astype(np.uint32)
    return both.view(np.float32)


@pytest.mark.parametrize("lanes", [16, 4])
@pytest.mark.parametrize("math", MATHS)
def test_rounding(spelled: Bench, math: str, lanes: int) -> None:
    """Ties, the ends of a binade, subnormals, what is too large, infinities, NaN of any payload; and the low parts."""
    awkward = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F7FFFFF, 0x80000001, 0x00007FFF, 0x7F7FFFFF], np.uint32)
    more = np.array([0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x80000000, 0x7FC00000, 0x3F8080FF], np.uint32)
    x = np.concatenate([awkward, more, values("normal", (50,), "f32").view(np.uint32)]).view(np.float32)
    x = np.stack([x, x[::-1]])
    kernel, n = KernelFile.parse("rounded", ROUNDED), x.shape[1]
    output = ((6, n), np.int32)
    got = bits_of(spelled.run(kernel, [x], output, {"n": n}, {"V": lanes}, **{f"MATH_{math}": 1}).view(np.uint32))
    if not spelled.device.before and lanes == 16:  # the unit's own instructions
        x = np.where(np.abs(x) < 2.0**-126, np.copysign(0, x), x).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        high = np.where(np.isnan(x), np.nan, as_bf16(np.where(np.isnan(x), 0, x))).astype(np.float32)
        low = np.where(np.isfinite(high), as_bf16(x - high), 0)
    np.testing.assert_array_equal(got[0, : n // 2], high[0].reshape(-1, 2))
    np.testing.assert_array_equal(got[2], high.T)
    np.testing.assert_array_equal(got[4], high.T)
    if math == "bf16x3":
        np.testing.assert_array_equal(got[1, : n // 2], low[0].reshape(-1, 2))
        np.testing.assert_array_equal(got[3], low.T)
    else:
        assert not got[3].any()
