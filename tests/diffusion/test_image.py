"""Pixels from the decoder's output, and back."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.diffusion.image import from_pixels, resize, rounded_down, to_pixels


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


def test_a_picture_is_drawn_at_multiples_that_fit_into_it() -> None:
    assert [rounded_down(np.empty((h, w, 3)), 8) for w, h in ((192, 128), (199, 135), (3, 9))] == [
        (192, 128),
        (192, 128),
        (8, 8),
    ]
