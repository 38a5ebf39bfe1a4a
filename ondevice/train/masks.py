"""Random masks to train inpainting with: boxes, strokes, and everything (one in four, as for the published models)."""

from __future__ import annotations

import numpy as np

ALL, BOXES = 0.25, 0.4  # of all masks; the others are strokes
SIDES = (0.2, 0.8)  # of a box, as parts of the picture's
WIDTHS = (0.05, 0.15)  # of a stroke, on either side of its line
MOST_LINES = 4


def random_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """bool [height, width], true where the picture is drawn anew."""
    kind = rng.random()
    if kind < ALL:
        return np.ones((height, width), bool)
    if kind < ALL + BOXES:
        return _box(rng, height, width)
    return _strokes(rng, height, width)


def _box(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    spans = []
    for side in (height, width):
        part = rng.uniform(*SIDES)
        first = rng.uniform(0, 1 - part)
        spans.append(slice(round(first * side), max(round((first + part) * side), round(first * side) + 1)))
    mask[tuple(spans)] = True
    return mask


def _strokes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One to four thick lines, each from where the last one ended."""
    x, y = np.meshgrid(*((np.arange(side) + 0.5) / side for side in (width, height)))
    mask = np.zeros((height, width), bool)
    thick, (ax, ay) = rng.uniform(*WIDTHS), rng.random(2)
    for _ in range(rng.integers(1, MOST_LINES + 1)):
        bx, by = rng.random(2)
        length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-6)
        along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1)
        mask |= np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)) < thick
        ax, ay = bx, by
    return mask
