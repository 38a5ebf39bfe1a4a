"""Edges of a picture as OpenCV's Canny finds them (docs/pipeline.md, "Edges"), in whole numbers.

Reference: OpenCV, modules/imgproc/src/canny.cpp (3 x 3 Sobel, L1 norm, no aperture of its own).
"""

from __future__ import annotations

import numpy as np

LOW, HIGH = 100, 200  # of the word `edges`
_TANGENT = 13573  # of 22.5 degrees, times 2**15


def edges(pixels: np.ndarray, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """bool[h, w] of uint8[h, w, channels]: where there is an edge. The smaller threshold is the lower one, whichever
    comes first."""
    low, high = sorted((low, high))
    across, down = _strongest_gradient(pixels)
    strength = np.abs(across) + np.abs(down)
    peak = _peaks(across, down, strength)
    return _joined(peak & (strength > high), peak & (strength > low))


def edge_picture(pixels: np.ndarray, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """uint8[h, w, 3] of uint8[h, w, channels]: edges in white, all else black."""
    return np.repeat(edges(pixels, low, high)[..., np.newaxis] * np.uint8(255), 3, 2)


def _strongest_gradient(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int32[h, w] each, across and down: of the channel in which they are largest together, the first of equal ones."""
    best: tuple[np.ndarray, np.ndarray] | None = None
    for channel in range(pixels.shape[2]):
        x = np.pad(pixels[..., channel].astype(np.int32), 1, mode="edge")
        smooth_rows = x[:-2] + 2 * x[1:-1] + x[2:]
        smooth_columns = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
        across, down = smooth_rows[:, 2:] - smooth_rows[:, :-2], smooth_columns[2:] - smooth_columns[:-2]
        if best is None:
            best = across, down
        else:
            stronger = np.abs(across) + np.abs(down) > np.abs(best[0]) + np.abs(best[1])
            best = np.where(stronger, across, best[0]), np.where(stronger, down, best[1])
    assert best is not None
    return best


def _peaks(across: np.ndarray, down: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """bool[h, w]: larger than both neighbours along the gradient, which goes one of four ways."""
    height, width = strength.shape
    around = np.pad(strength, 1)  # nothing outside of the picture

    def beside(y: int, x: int) -> np.ndarray:
        return around[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    x, y = np.abs(across).astype(np.int64), np.abs(down).astype(np.int64) << 15
    flat, steep = y < x * _TANGENT, y > x * _TANGENT + (x << 16)
    along = (across ^ down) >= 0  # both negative, or neither
    falling = (strength > beside(-1, -1)) & (strength > beside(1, 1))
    rising = (strength > beside(-1, 1)) & (strength > beside(1, -1))
    return np.select(
        [flat, steep, along],
        [
            (strength > beside(0, -1)) & (strength >= beside(0, 1)),
            (strength > beside(-1, 0)) & (strength >= beside(1, 0)),
            falling,
        ],
        rising,
    )


def _joined(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """Strong pixels, and weak ones that are joined to them by others: each pixel is looked at once."""
    width = strong.shape[1]
    found = np.pad(strong, 1)
    left = np.pad(weak & ~strong, 1).reshape(-1)  # weak pixels that were not reached yet
    flat = found.reshape(-1)
    steps = [y * (width + 2) + x for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    front = np.flatnonzero(flat)
    while len(front):
        reached = np.concatenate([front + step for step in steps])
        front = np.unique(reached[left[reached]])
        left[front] = False
        flat[front] = True
    return found[1:-1, 1:-1]
