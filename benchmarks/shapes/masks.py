"""Masks for the inpainting sibling: the held-out task it is scored by.

A mask is bool [pixels, pixels], true where the picture is drawn anew.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from benchmarks.shapes.pictures import Spec, held_out_prompts, render, sample
from benchmarks.shapes.score import score

MARGIN = 0.05  # around the object, as a fraction of the picture
UNTOUCHED = 3  # mean difference of the pixels outside, of 255, that the autoencoder's round trip may leave


def box(pixels: int, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """A rectangle; sides are fractions of the picture and are cut off at its edges."""
    mask = np.zeros((pixels, pixels), bool)
    x0, y0, x1, y1 = (round(min(max(side, 0), 1) * pixels) for side in (left, top, right, bottom))
    mask[y0:y1, x0:x1] = True
    return mask


def over(spec: Spec, pixels: int) -> np.ndarray:
    """A box over a picture's object, with a margin."""
    reach = 1.15 * spec.r + MARGIN
    return box(pixels, spec.cx - reach, spec.cy - reach, spec.cx + reach, spec.cy + reach)


def tasks(count: int, split: str = "test", pixels: int = 128) -> list[tuple[np.ndarray, np.ndarray, Spec]]:
    """(picture, mask, what is asked for): each picture's object is to become another, of a held-out combination.

    The picture shows any other shape and colour on the background that is asked for, where the new object is to come;
    the mask covers it.
    """
    rng = random.Random(f"masks-{split}")
    found = []
    for wanted in held_out_prompts(count, split=split):
        before = sample(rng)
        while before.shape == wanted.shape or wanted.background in (before.background, before.colour):
            before = sample(rng)
        before = replace(before, background=wanted.background, cx=wanted.cx, cy=wanted.cy, r=wanted.r)
        found.append((render(before, pixels), over(wanted, pixels), wanted))
    return found


def judge(drawn: np.ndarray, picture: np.ndarray, mask: np.ndarray, wanted: Spec) -> dict[str, bool]:
    """`score` of what was drawn, and `outside`: whether the pixels outside the mask are the picture's own."""
    difference = np.abs(drawn.astype(int) - picture.astype(int))[~mask]
    return score(drawn, wanted) | {"outside": difference.size == 0 or bool(difference.mean() <= UNTOUCHED)}
