"""Arrays between two: along a line, and along a sphere."""

from __future__ import annotations

import numpy as np

CLAMP = 1e-7  # of a cosine, so that the angle's sine is not zero


def lerp(one: np.ndarray, other: np.ndarray, part: float) -> np.ndarray:
    """float32: `one` at a `part` of 0, `other` at 1, and exactly these there and where both are equal.

    Reference: `torch.lerp`, which counts from the nearer end.
    """
    low, high = one.astype(np.float32), other.astype(np.float32)
    step = np.float32(part)
    if part < 0.5:
        return np.asarray(low + step * (high - low), np.float32)
    return np.asarray(high - (high - low) * (np.float32(1) - step), np.float32)


def slerp(one: np.ndarray, other: np.ndarray, part: float) -> np.ndarray:
    """float32: from `one` at a `part` of 0 towards `other` at 1 along the great circle through both, each a vector of
    all its values. In double, rounded once; each is itself at its end.

    Of vectors of one direction it is the line between them, and so it is where one of the two is zero and has none.
    Opposite ones have no circle of their own: the way between them leads through zero.

    Reference: `slerp` of SingleZombie/DiffusersExample's LoRA/morph.py, whose cosine is clamped alike.
    """
    low, high = one.astype(np.float64), other.astype(np.float64)
    norm = float(np.linalg.norm(low) * np.linalg.norm(high))
    if not norm:
        return lerp(one, other, part)
    cosine = float((low * high).sum()) / norm
    angle = float(np.arccos(min(max(cosine, -1 + CLAMP), 1 - CLAMP)))
    turned = angle * part
    weights = np.sin(angle - turned) / np.sin(angle), np.sin(turned) / np.sin(angle)
    return np.asarray(weights[0] * low + weights[1] * high, np.float32)
