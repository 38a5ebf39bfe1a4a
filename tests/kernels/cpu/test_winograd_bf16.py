"""Winograd's F(4x4, 3x3) with products in bf16 against NumPy in float64, in every spelling of the words of matrix.h.

References round what the kernel does, transformed patches and taps, so bounds are those of float32 sums, and of a few
of the values between which the nearest changes with the last bit of a transform.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.bench import Bench, assert_same_in_place, exact, half, values
from kernels.epilogues import FEW_BITS, defines, finished, in_panels, packed
from kernels.matrix_units import as_bf16
from kernels.test_conv2d import convolve_nhwc
from kernels.test_winograd import AT, BT, tiles_of
from tolerance import assert_close

from ondevice.lower.kernel_file import load_all
from ondevice.lower.stored import G

pytestmark = pytest.mark.device
KERNEL = load_all()["winograd_bf16"]
WIDE = 32


def products(image: np.ndarray, taps: np.ndarray, oh: int, ow: int) -> list[np.ndarray]:
    """(pixels, the same of magnitudes) [n, oh, ow, oc] of what is multiplied for a picture [n, oh, ow, ic]."""
    patches = np.einsum("ay,bx,tyxc->abtc", BT, BT, tiles_of(image, oh, ow))
    turned = np.einsum("ay,bx,yxio->abio", G, G, taps)
    left, right = as_bf16(patches), as_bf16(turned)
    n, th, tw, oc = len(image), -(-oh // 4), -(-ow // 4), taps.shape[-1]
    found = []
    for matrix, a, b in ((AT, left, right), (np.abs(AT), np.abs(left), np.abs(right))):
        tiles = np.einsum("ia,jb,abto->tijo", matrix, matrix, a @ b)
        whole = tiles.reshape(n, th, tw, 4, 4, oc).transpose(0, 1, 3, 2, 4, 5).reshape(n, 4 * th, 4 * tw, oc)
        found.append(whole[:, :oh, :ow])
    return found


def run(bench: Bench, x, weight, scales, bias, shifts, residual, size, built, split=None, tuning=None, in_place=False):
    """As lowering calls it; `split` replaces sizes of the work."""
    n, h, w, ic, oc, up = size
    oh, ow = up * h, up * w
    th, tw, panels = -(-oh // 4), -(-ow // 4), -(-oc // WIDE)
    tiles = n * th * tw
    work = {"strip": min(tiles, 24), "depth": ic, "share": 1, "chunk": panels, "groups": 2} | (split or {})
    room = max(-(-work["strip"] // 12) * 12, -(-work["strip"] // 32) * 32)
    depth = KERNEL.tuning(**(tuning or {}))["DEPTH"]
    slot = 36 * (work["share"] * (room * WIDE + 16) + room * (work["depth"] // 2 + 16) + 16)
    slot += 12 * (depth // 2 * WIDE + 16)
    dims = {"n": n, "ic": ic, "h": h, "w": w, "oc": oc, "oh": oh, "ow": ow, "tiles_h": th, "tiles_w": tw}
    dims |= {"tiles": tiles, "room": room, "panels": panels, "slot": slot, "pad_top": 1, "pad_left": 1}
    dims |= {"up_h": oh, "up_w": ow, "shift_from": 2, "shift_row": 2 + oc, "kh": 3, "kw": 3, "stride": 1} | work
    inputs = [x, weight, in_panels(bias[None], WIDE), shifts, residual, x if scales is None else scales]
    call = (KERNEL, inputs, ((n, oh, ow, oc), x.dtype), dims, tuning, slot * work["groups"])
    assert not in_place or assert_same_in_place(bench, *call, **built)
    return bench.run(*call, **built)


def check(
    bench: Bench,
    size: tuple,
    stored: str,
    activation: str = "",
    *,
    more: bool = False,
    split: dict[str, int] | None = None,
    tuning: dict[str, int] | None = None,
    bits: str = "",
    in_place: bool = False,
) -> None:
    """x [n, h, w, ic] up times as large, to oc channels; `more`: with a shift and a residual."""
    n, h, w, ic, oc, up = size
    oh, ow = up * h, up * w
    x, taps = values("normal", (n, h, w, ic), stored), values("normal", (3, 3, ic, oc), stored, 1)
    bias, shifts = values("normal", (oc,), stored, 2), values("normal", (n, 2 + oc), stored, 3)
    residual = values("normal", (n, oh, ow, oc), stored, 4)
    weight, scales, meant, told = packed(taps.reshape(9 * ic, oc), WIDE, bits=bits)
    built = {name: on for name, on in told.items() if name != "PANELS"} | {"MATH_bf16": 1, "F16": half(stored)}
    built |= {"RAGGED": int(oc % 16 > 0)} | defines(activation, True, more, more)
    got = run(bench, x, weight, scales, bias, shifts, residual, size, built, split, tuning, in_place)

    image, meant, base, extra, rest = exact(x, meant, bias, shifts, residual)
    unit = np.abs(meant).max(0) / 127 if bits == "i8" else np.ones(oc)  # whole numbers are scaled after the sum
    numbers = meant / np.where(unit > 0, unit, 1)
    pixels, magnitude = products(image.repeat(up, 1).repeat(up, 2), numbers.reshape(3, 3, ic, oc), oh, ow)
    given = {"bias": base, "shift": extra[:, None, None, 2:] if more else None, "residual": rest if more else None}
    want, wrong = finished(pixels * unit, magnitude * unit, 36 * ic, stored, activation, **given)
    # one term of thousands is rounded the other way by 2^-8 of it, several times over
    assert_close(got, want, wrong + 2**-8 * 40 / (36 * ic) * magnitude * unit, f"{size} {stored} {split}")


# tiles cut off, channels out that fill no vector and no panel, channels in that are one whole part and several
SIZES = [(1, 13, 12, 32, 16, 1), (2, 11, 7, 64, 40, 1), (1, 5, 7, 96, 3, 2), (1, 17, 25, 32, 70, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stored", ["f32", "f16"])
def test_every_spelling(spelled: Bench, size: tuple, stored: str) -> None:
    check(spelled, size, stored)


@pytest.mark.parametrize("activation", ["", "Silu", "ThenRelu"])
@pytest.mark.parametrize("oc", [40, 64])
def test_epilogues(bench: Bench, oc: int, activation: str) -> None:
    check(bench, (2, 11, 7, 32, oc, 1), "f16", activation, more=True, in_place=True)


@pytest.mark.parametrize("bits", FEW_BITS)
def test_weights_in_few_bits(bench: Bench, bits: str) -> None:
    check(bench, (1, 9, 14, 64, 40, 1), "f16", "Silu", more=True, bits=bits)


@pytest.mark.parametrize(
    "split",
    [
        {"depth": 64, "share": 2},  # channels in two parts, the last of them short; panels in pairs
        {"depth": 32, "share": 1, "chunk": 1, "groups": 5},  # a task per panel, more tasks than work-items
        {"strip": 40, "chunk": 2, "groups": 9},  # all tiles at once; work-items without a task
        {"strip": 7, "depth": 32, "share": 3, "chunk": 2},
    ],
    ids=str,
)
def test_however_the_work_is_split(spelled: Bench, split: dict[str, int]) -> None:
    check(spelled, (2, 13, 17, 96, 70, 1), "f32", split=split)


def test_more_channels_than_are_summed_at_a_time(bench: Bench) -> None:
    size = (1, 13, 9, 160, 40, 1)
    check(bench, size, "f16", tuning={"DEPTH": 128})
    check(bench, size, "f16", tuning={"DEPTH": 128}, split={"depth": 96})


def test_accuracy(bench: Bench) -> None:
    """What docs/math.md says of noise: five times the error of a direct product."""
    size = n, h, w, ic, oc, _ = 1, 16, 16, 64, 32, 1
    x, taps = values("normal", (n, h, w, ic), "f32"), values("normal", (3, 3, ic, oc), "f32", 1)
    built = {"MATH_bf16": 1, "F16": 0, "RAGGED": 0}
    got = run(bench, x, in_panels(taps.reshape(-1, oc), WIDE), None, np.zeros(oc, np.float32), x, x, size, built)
    want = convolve_nhwc(*exact(x, taps), 1, (1, 1, 1, 1))
    assert 5e-3 < np.sqrt(((got - want) ** 2).mean() / (want**2).mean()) < 1.25e-2
