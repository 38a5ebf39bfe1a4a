"""Captioned pictures of one plain shape, made from a seed.

A picture is one anti-aliased shape in one palette colour on a flat background of another. Everything about it is in a
`Spec`; `render(spec)` draws it and `spec.caption` describes it. Some (shape, colour, background) triples are never
trained on: one part is for tuning (the validation split), another for the final figure (the test split).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring")

# Far apart in RGB (the closest pair is over 100 steps apart), so "which colour is this" has one answer.
PALETTE = {
    "red": (225, 35, 35),
    "green": (30, 160, 60),
    "blue": (35, 75, 225),
    "yellow": (250, 225, 40),
    "cyan": (45, 205, 225),
    "purple": (150, 40, 180),
    "white": (248, 248, 248),
    "black": (16, 16, 16),
}
COLOURS = tuple(PALETTE)

# Radius as a fraction of the picture. No word means the middle range.
SIZES = {"small": (0.16, 0.20), "": (0.22, 0.31), "large": (0.33, 0.38)}

# Direction from the middle of the picture, x to the right and y down.
PLACES = {
    "": (0, 0),
    "in the center": (0, 0),
    "on the left": (-1, 0),
    "on the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
    "in the top left": (-1, -1),
    "in the top right": (1, -1),
    "in the bottom left": (-1, 1),
    "in the bottom right": (1, 1),
}
ATTRIBUTES = ("shape", "colour", "background", "size", "place")
"""What a caption says."""
MARGIN = 0.04  # a placed shape keeps this far from the edge
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Spec:
    """One picture: what is in it and exactly where (cx, cy and r are fractions of the picture)."""

    shape: str
    colour: str
    background: str
    size: str = ""
    place: str = ""
    cx: float = 0.5
    cy: float = 0.5
    r: float = 0.27

    @property
    def caption(self) -> str:
        """For example "a small green star in the top left on a white background"."""
        thing = " ".join(word for word in ("a", self.size, self.colour, self.shape, self.place) if word)
        return f"{thing} on a {self.background} background"


def split_of(shape: str, colour: str, background: str) -> str:
    """Which split a triple belongs to.
    Each held-out split has about one triple in eleven, spread over all attributes."""
    key = SHAPES.index(shape) * 7 + COLOURS.index(colour) * 3 + COLOURS.index(background) * 5
    return {0: "test", 1: "validation"}.get(key % 11, "train")


def sample(rng: random.Random, split: str = "train") -> Spec:
    """Draw one picture description of the given split."""
    while True:
        shape = rng.choice(SHAPES)
        colour, background = rng.sample(COLOURS, 2)
        if split_of(shape, colour, background) == split:
            break
    size = rng.choice(("", "", "small", "large"))
    place = "" if size == "large" or rng.random() < 0.4 else rng.choice(list(PLACES)[1:])
    r = rng.uniform(*SIZES[size])
    jitter = 0.02 if place or size == "large" else 0.05
    dx, dy = PLACES[place]
    reach = 0.5 - MARGIN - 1.05 * r
    cx, cy = (0.5 + d * reach + rng.uniform(-jitter, jitter) for d in (dx, dy))
    return Spec(shape, colour, background, size, place, cx, cy, r)


def held_out_prompts(n: int, seed: int = 2024, split: str = "test") -> list[Spec]:
    """`n` descriptions whose (shape, colour, background) never occurs in training; shapes take turns."""
    rng = random.Random(f"{split}-{seed}")
    specs: list[Spec] = []
    while len(specs) < n:
        spec = sample(rng, split)
        if spec.shape == SHAPES[len(specs) % len(SHAPES)]:
            specs.append(spec)
    return specs


def _polygon(corners: int, inner: float | None = None, scale: float = 1.0, drop: float = 0.0) -> np.ndarray:
    """Corner points of a regular polygon with one corner up, or of a star when `inner` is its inner radius."""
    count = corners * (2 if inner else 1)
    angles = -math.pi / 2 + np.arange(count) * 2 * math.pi / count
    radii = np.where((np.arange(count) % 2 == 1) & bool(inner), inner or 1.0, 1.0)
    return scale * np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1) + (0.0, drop)


TRIANGLE = _polygon(3, scale=1.15, drop=0.17)
STAR = _polygon(5, inner=0.42, scale=1.1, drop=0.05)


def _polygon_distance(x: np.ndarray, y: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Signed distance to a polygon, negative inside (even-odd crossing rule)."""
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, 1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - ex * along, y - ay - ey * along))
        if ey:
            inside ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / ey + ax)
    return np.where(inside, -nearest, nearest)


def coverage(shape: str, cx: float, cy: float, r: float, pixels: int) -> np.ndarray:
    """How much of each pixel the shape covers, 0 to 1, as float32 [pixels, pixels]."""
    grid = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels
    x, y = np.meshgrid((grid - cx) / r, (grid - cy) / r)
    if shape == "circle":
        distance = np.hypot(x, y) - 1
    elif shape == "square":
        distance = np.maximum(abs(x), abs(y)) - 0.88
    elif shape == "triangle":
        distance = _polygon_distance(x, y, TRIANGLE)
    elif shape == "star":
        distance = _polygon_distance(x, y, STAR)
    elif shape == "ring":
        distance = abs(np.hypot(x, y) - 0.75) - 0.25
    else:
        raise ValueError(f"unknown shape {shape!r}, expected one of {SHAPES}")
    return np.clip(0.5 - distance * r * pixels, 0, 1).astype(np.float32)


def render(spec: Spec, pixels: int = 128) -> np.ndarray:
    """Draw a description as uint8 [pixels, pixels, 3]."""
    mask = coverage(spec.shape, spec.cx, spec.cy, spec.r, pixels)[..., None]
    back, front = (np.float32(PALETTE[name]) for name in (spec.background, spec.colour))
    return (back + mask * (front - back)).round().astype(np.uint8)


def word_list() -> list[str]:
    """Every word a caption can contain."""
    words = {"a", "on", "background", *SHAPES, *COLOURS}
    for phrase in (*SIZES, *PLACES):
        words.update(phrase.split())
    return sorted(words)
