"""Pixels from the decoder's output, and back."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.diffusion.image import FITS, fitted, from_pixels, resize, rounded_down, to_pixels
from ondevice.errors import UsageError


def checkered(height: int = 4, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_clip_and_round_to_even() -> None:
    sample = np.array([-2.0, -1.0, 1 / 255 - 1, 0.0, 3 / 255, 1.0, 9.0], np.float32)
    got = to_pixels(np.broadcast_to(sample, (1, 3, 1, 7)))
    assert got.shape == (1, 1, 7, 3) and got.dtype == np.uint8
    # 0.5 and 127.5 and 129 of 255: halves go to the even number.
    assert got[0, 0, :, 0].tolist() == [0, 0, 0, 128, 129, 255, 255]


def test_pixels_and_back() -> None:
    pixels = checkered()
    assert np.array_equal(to_pixels(from_pixels(pixels))[0], pixels)
    assert from_pixels(pixels).shape == (1, 3, 4, 6)
    assert from_pixels(np.array([[[0, 255, 51]]], np.uint8)).ravel() == pytest.approx([-1, 1, -0.6])


def test_resizing() -> None:
    assert resize(checkered(), 6, 4) is not None and np.array_equal(resize(checkered(), 6, 4), checkered())
    assert resize(checkered(), 8, 16).shape == (16, 8, 3)


@pytest.mark.parametrize(
    "fit, size, said",
    [
        ("crop", (512, 512), r"got 1 x 65536, to be 512 x 33554432"),
        ("resize", (16384, 8), r"got 1 x 65536, to be 16384 x 8"),
    ],
)
def test_a_picture_that_takes_gigabytes_on_its_way_is_refused(fit: str, size: tuple[int, int], said: str) -> None:
    """Its file has a few kilobytes."""
    with pytest.raises(
        UsageError, match=rf"^image: cannot be resized \({said}\)\. Fix: give a smaller picture, or cut"
    ):
        fitted(np.zeros((65536, 1, 3), np.uint8), *size, fit)


def test_a_picture_is_drawn_at_multiples_that_fit_into_it() -> None:
    assert [rounded_down(np.empty((h, w, 3)), 8) for w, h in ((192, 128), (199, 135), (3, 9))] == [
        (192, 128),
        (192, 128),
        (8, 8),
    ]


@pytest.mark.parametrize(
    "own, size, inner",
    [
        ((30, 20), (16, 16), (24, 16)),
        ((20, 30), (16, 16), (16, 24)),
        ((31, 20), (24, 16), (24, 16)),
        ((64, 1), (16, 16), (1024, 16)),
    ],
)
def test_cropping_keeps_the_middle(own: tuple[int, int], size: tuple[int, int], inner: tuple[int, int]) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (own[1], own[0], 3), dtype=np.uint8)
    left, top = (whole // 2 - side // 2 for whole, side in zip(inner, size, strict=True))
    cut = resize(pixels, *inner)[top : top + size[1], left : left + size[0]]
    assert np.array_equal(fitted(pixels, *size, "crop"), cut) and cut.shape == (size[1], size[0], 3)


@pytest.mark.parametrize(
    "own, size, inner", [((30, 20), (16, 16), (16, 10)), ((21, 30), (16, 16), (11, 16)), ((999, 1), (16, 8), (16, 1))]
)
def test_padding_goes_on_with_the_edges_or_a_colour(
    own: tuple[int, int], size: tuple[int, int], inner: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (own[1], own[0], 3), dtype=np.uint8)
    left, top = (side // 2 - whole // 2 for whole, side in zip(inner, size, strict=True))
    middle = np.s_[top : top + inner[1], left : left + inner[0]]
    edges, grey = fitted(pixels, *size, "pad"), fitted(pixels, *size, "pad", (9, 8, 7))
    for picture in (edges, grey):
        assert np.array_equal(picture[middle], resize(pixels, *inner)) and picture.shape == (size[1], size[0], 3)
    rows, columns = (
        np.clip(np.arange(side) - before, 0, whole - 1)
        for side, before, whole in ((size[1], top, inner[1]), (size[0], left, inner[0]))
    )
    assert np.array_equal(edges, resize(pixels, *inner)[rows][:, columns])
    grey[middle] = (9, 8, 7)
    assert (grey == np.array((9, 8, 7))).all()


def test_a_picture_of_the_size_stays_as_it_is() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    assert all(np.array_equal(fitted(pixels, 24, 16, fit), pixels) for fit in FITS)
    assert np.array_equal(fitted(pixels, 16, 16), resize(pixels, 16, 16))
