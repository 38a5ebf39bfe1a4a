"""A picture is resized as docs/pipeline.md says, and a golden for players that have no Pillow."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from ondevice.diffusion.image import from_pixels, resize

GOLDEN = [(7, 4, 8, 4), (33, 4, 8, 4), (4, 9, 4, 16), (1, 3, 8, 3), (4, 70, 4, 64), (9, 7, 5, 8), (5, 24, 8, 3)]
SIZES = [*GOLDEN, (7, 5, 8, 16), (70, 90, 64, 72), (129, 64, 64, 48), (13, 67, 52, 8)]


def columns(pixels: np.ndarray, size: int) -> np.ndarray:
    """u8 [h, w, 3] -> u8 [h, size, 3], as the page says."""
    if size == pixels.shape[1]:
        return pixels
    step = pixels.shape[1] / size
    stretch = max(step, 1.0)
    found = np.empty((len(pixels), size, 3), np.uint8)
    for x in range(size):
        middle, reach = (x + 0.5) * step, 3 * stretch
        first, last = max(int(middle - reach + 0.5), 0), min(int(middle + reach + 0.5), pixels.shape[1])
        weights = [lanczos((i - middle + 0.5) / stretch) for i in range(first, last)]
        total = sum(weights)
        whole = [math.floor(abs(weight / total) * 2**22 + 0.5) * (1 if weight > 0 else -1) for weight in weights]
        sums = 2**21 + np.tensordot(pixels[:, first:last].astype(np.int64), whole, (1, 0))
        found[:, x] = np.clip(sums >> 22, 0, 255)
    return found


def rows(pixels: np.ndarray, size: int) -> np.ndarray:
    """The same of u8 [h, w, 3]'s rows."""
    return columns(pixels.swapaxes(0, 1), size).swapaxes(0, 1)


def lanczos(x: float) -> float:
    return sinc(x) * sinc(x / 3) if -3 <= x < 3 else 0.0


def sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("width", "height", "to_width", "to_height"), SIZES)
def test_the_page_is_what_is_done(width: int, height: int, to_width: int, to_height: int) -> None:
    pixels = picture(width, height)
    assert np.array_equal(resize(pixels, to_width, to_height), rows(columns(pixels, to_width), to_height))


def test_pictures_to_fit(golden: Callable[[str, str], None]) -> None:
    cases = []
    for width, height, to_width, to_height in GOLDEN:
        pixels = picture(width, height)
        fitted = resize(pixels, to_width, to_height)
        first = [float(value) for value in from_pixels(fitted)[0, :, 0, 0]]
        cases.append(
            {
                "pixels": pixels.tolist(),
                "width": to_width,
                "height": to_height,
                "resized": fitted.tolist(),
                "first": first,
            }
        )
    golden("pictures/fit.json", "[\n" + ",\n".join(json.dumps(row) for row in cases) + "\n]\n")
