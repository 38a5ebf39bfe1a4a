"""A subject that no demo model knows, to teach it by a few pictures: a cross. And its judge, from pixels alone.

Its colours are the palette's, as the demo's autoencoder gives no others back: it makes pink purple or blue.
"""

from __future__ import annotations

import numpy as np

from benchmarks.shapes.pictures import COLOURS, PALETTE
from benchmarks.shapes.score import MAX_STRAY, MIN_AREA, boxed, find_object, largest_component, nearest_colour, overlaps

WORD = "d"
"""What it is called: one token, which no caption of the demo's training has; of those the one whose text is farthest
from that of any colour (the demo takes q for purple or green)."""
_ARM = 0.36  # half of an arm's width, in the radius
_OVERLAP = 0.8  # of the outline and a cross, in the box around it: a disc has 0.72
_APART = 40.0  # of an object's colour from its ground's, at least


def caption(colour: str, ground: str, place: str = "") -> str:
    """Of a picture of the subject, as the demo's captions are."""
    return " ".join(word for word in ("a", colour, WORD, place, "on a", ground, "background") if word)


def coverage(cx: float, cy: float, r: float, pixels: int) -> np.ndarray:
    """How much of each pixel the cross covers, 0 to 1, as float32 [pixels, pixels]."""
    grid = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels
    x, y = np.abs(np.meshgrid((grid - cx) / r, (grid - cy) / r))
    distance = np.minimum(np.maximum(x - 1, y - _ARM), np.maximum(x - _ARM, y - 1))
    return np.clip(0.5 - distance * r * pixels, 0, 1).astype(np.float32)


def drawn(colour: str, ground: str, cx: float, cy: float, r: float, pixels: int = 128) -> np.ndarray:
    """The subject, uint8 [pixels, pixels, 3]; its place and radius as parts of the side."""
    mask = coverage(cx, cy, r, pixels)[..., None]
    back, front = (np.float32(PALETTE[name]) for name in (ground, colour))
    return (back + mask * (front - back)).round().astype(np.uint8)


_OUTLINE = boxed(coverage(0.5, 0.5, 0.35, 256) > 0.5)


def judged(picture: np.ndarray, colour: str, ground: str) -> dict[str, bool]:
    """Whether a picture, uint8 [h, w, 3], shows it: `background`, `colour` and `shape`, as the score of the demo's own
    shapes has them; a cross must be more like one than like any of those."""
    back, front, mask = find_object(picture)
    answer = {"background": COLOURS[nearest_colour(back[None])[0]] == ground, "colour": False, "shape": False}
    if mask.mean() < MIN_AREA or np.linalg.norm(front - back) < _APART:
        return answer
    answer["colour"] = COLOURS[nearest_colour(front[None])[0]] == colour
    thing = largest_component(mask)
    if thing.sum() < (1 - MAX_STRAY) * mask.sum():
        return answer
    box = boxed(thing)
    own = float((box & _OUTLINE).sum() / (box | _OUTLINE).sum())
    answer["shape"] = own >= _OVERLAP and own > max(overlaps(box).values())
    return answer
