"""The three convolution kernels against a direct sum in float64."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, exact, tunings, values
from tolerance import assert_close, bound

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNELS = {name: kernel for name, kernel in load_all().items() if kernel.ops == ("Conv",)}
# n, ic, h, w, oc, k, stride, pads (top, left, bottom, right)
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, (0, 0, 0, 0)),
    (1, 1, 1, 1, 1, 3, 1, (1, 1, 1, 1)),
    (2, 3, 5, 7, 4, 3, 1, (1, 1, 1, 1)),
    (1, 4, 8, 8, 7, 3, 1, (1, 1, 1, 1)),
    (1, 17, 16, 16, 25, 3, 1, (1, 1, 1, 1)),
    (2, 19, 9, 33, 13, 3, 1, (1, 1, 1, 1)),
    (1, 5, 4, 18, 6, 3, 1, (0, 0, 0, 0)),
    (2, 3, 17, 35, 5, 3, 2, (0, 0, 1, 1)),
    (1, 18, 16, 34, 29, 3, 2, (1, 1, 1, 1)),
    (2, 5, 3, 5, 7, 1, 1, (0, 0, 0, 0)),
    (2, 131, 5, 13, 53, 1, 1, (0, 0, 0, 0)),
    (1, 260, 8, 16, 7, 1, 1, (0, 0, 0, 0)),
    (1, 3, 8, 9, 4, 1, 2, (0, 0, 0, 0)),
    (1, 2, 9, 20, 3, 2, 1, (0, 1, 1, 0)),
    (1, 2, 12, 25, 3, 5, 3, (2, 2, 2, 2)),
]
Shape = tuple[int, int, int, int, int, int, int, tuple[int, int, int, int]]


def convolve(x: np.ndarray, weight: np.ndarray, stride: int, pads: tuple[int, int, int, int]) -> np.ndarray:
    """x [n, ic, h, w], weight [oc, ic, k, k], pads top left bottom right -> [n, oc, oh, ow], float64."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwyx,ocyx->nohw", windows, weight, optimize=True)


def convolve_nhwc(x: np.ndarray, taps: np.ndarray, stride: int, pads: tuple[int, int, int, int]) -> np.ndarray:
    """`convolve` with the channels last: x [n, h, w, ic], taps [k, k, ic, oc] -> [n, oh, ow, oc]."""
    return convolve(x.transpose(0, 3, 1, 2), taps.transpose(3, 2, 0, 1), stride, pads).transpose(0, 2, 3, 1)


def dims_of(shape: Shape) -> dict[str, int]:
    n, ic, h, w, oc, k, stride, (top, left, bottom, right) = shape
    oh, ow = (h + top + bottom - k) // stride + 1, (w + left + right - k) // stride + 1
    sizes = {"n": n, "ic": ic, "h": h, "w": w, "oc": oc, "oh": oh, "ow": ow, "kh": k, "kw": k}
    return sizes | {"stride": stride, "pad_top": top, "pad_left": left}


def check(
    bench: Bench, name: str, shape: Shape, stored: str, tuning: dict[str, int] | None = None, kind: str = "normal"
) -> None:
    n, ic, h, w, oc, k, stride, pads = shape
    dims = dims_of(shape)
    x, weight, bias = (
        values(kind, (n, ic, h, w), stored),
        values("normal", (oc, ic, k, k), stored, 1),
        values("normal", (oc,), stored, 2),
    )
    if kind == "largest":
        weight = (weight * STORED[stored](2**-9)).astype(STORED[stored])
    got = bench.run(
        KERNELS[name],
        [x, weight, bias],
        ((n, oc, dims["oh"], dims["ow"]), x.dtype),
        dims,
        tuning,
        F16=int(stored == "f16"),
    )
    image, taps, shift = exact(x, weight, bias)
    want = convolve(image, taps, stride, pads) + shift[:, None, None]
    size = convolve(np.abs(image), np.abs(taps), stride, pads) + np.abs(shift)[:, None, None]
    assert_close(got, want, bound(stored, want, size, ic * k * k + 1), f"{name} {shape}")


@pytest.mark.parametrize(
    "name, shape", [(name, s) for name, k in KERNELS.items() for s in SHAPES if k.misfit(dims_of(s)) is None], ids=str
)
@pytest.mark.parametrize("stored", STORED)
def test_shapes(bench: Bench, name: str, shape: Shape, stored: str) -> None:
    check(bench, name, shape, stored)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["conv2d"]))
def test_general_tunings(bench: Bench, stored: str, tuning: dict[str, int]) -> None:
    check(bench, "conv2d", (2, 5, 11, 21, 13, 3, 2, (0, 0, 1, 1)), stored, tuning)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["conv2d_tile"]))
def test_tile_tunings(bench: Bench, stored: str, tuning: dict[str, int]) -> None:
    check(bench, "conv2d_tile", (2, 21, 11, 21, 53, 3, 2, (0, 0, 1, 1)), stored, tuning)
    check(bench, "conv2d_tile", (1, 18, 7, 19, 10, 3, 1, (1, 1, 1, 1)), stored, tuning)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["conv2d_1x1"]))
def test_1x1_tunings(bench: Bench, stored: str, tuning: dict[str, int]) -> None:
    check(bench, "conv2d_1x1", (2, 150, 5, 13, 53, 1, 1, (0, 0, 0, 0)), stored, tuning)
    check(bench, "conv2d_1x1", (1, 3, 3, 3, 5, 1, 1, (0, 0, 0, 0)), stored, tuning)


@pytest.mark.parametrize("kind", ["equal", "largest"])
@pytest.mark.parametrize("name", KERNELS)
def test_values(bench: Bench, name: str, kind: str) -> None:
    check(bench, name, (1, 20, 6, 18, 9, 1, 1, (0, 0, 0, 0)), "f16", kind=kind)


def test_padding_is_zero_even_beside_infinity(bench: Bench) -> None:
    """A masked tap must not multiply: 0 * inf is NaN."""
    x = np.full((1, 2, 4, 20), np.inf, np.float32)
    weight, bias = np.ones((3, 2, 3, 3), np.float32), np.zeros(3, np.float32)
    shape: Shape = (1, 2, 4, 20, 3, 3, 1, (1, 1, 1, 1))
    for name in ("conv2d", "conv2d_tile"):
        assert np.isposinf(
            bench.run(KERNELS[name], [x, weight, bias], ((1, 3, 4, 20), x.dtype), dims_of(shape), F16=0)
        ).all()
