"""Is the picture what the caption asked for? Judged from pixels alone, with NumPy.

Three independent answers: the background's colour, the object's colour and the object's outline. The outline
is compared with ideal masks of all five shapes after both are stretched to the same box, so size and place do
not matter here.
"""

from __future__ import annotations

import numpy as np

from benchmarks.shapes.pictures import COLOURS, PALETTE, SHAPES, Spec, coverage, held_out_prompts, render

GRID = 32  # side of the box in which outlines are compared
MIN_OVERLAP = 0.70  # intersection over union a shape must reach, besides being the best match
MIN_AREA = 0.015  # smallest object, as a fraction of the picture
MAX_STRAY = 0.15  # most of the foreground that may lie apart from the object

_RGB = np.array([PALETTE[name] for name in COLOURS], np.float32)


def nearest_colour(pixels: np.ndarray) -> np.ndarray:
    """Index into COLOURS of the palette entry closest to each RGB row."""
    return ((pixels[:, None, :] - _RGB[None]) ** 2).sum(-1).argmin(-1)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The biggest 4-connected part of a mask, by repeated flood fill."""
    rest, best = mask.copy(), np.zeros_like(mask)
    while rest.sum() > best.sum():
        part = np.zeros_like(mask)
        part[np.unravel_index(rest.argmax(), mask.shape)] = True
        size = 0
        while part.sum() > size:
            size = part.sum()
            grown = part.copy()
            grown[1:] |= part[:-1]
            grown[:-1] |= part[1:]
            grown[:, 1:] |= part[:, :-1]
            grown[:, :-1] |= part[:, 1:]
            part = grown & rest
        rest &= ~part
        if part.sum() > best.sum():
            best = part
    return best


def boxed(mask: np.ndarray) -> np.ndarray:
    """The mask's bounding box stretched to GRID x GRID."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    steps = (np.arange(GRID) + 0.5) / GRID
    y = (rows[0] + steps * (rows[-1] + 1 - rows[0])).astype(int)
    x = (columns[0] + steps * (columns[-1] + 1 - columns[0])).astype(int)
    return mask[np.ix_(y, x)]


_TEMPLATES = {name: boxed(coverage(name, 0.5, 0.5, 0.35, 256) > 0.5) for name in SHAPES}


def overlaps(box: np.ndarray) -> dict[str, float]:
    """How much a mask that is GRID x GRID is like each shape, 0 to 1."""
    return {name: float((box & ideal).sum() / (box | ideal).sum()) for name, ideal in _TEMPLATES.items()}


def find_object(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split a picture into (background RGB, object RGB, object mask) without knowing what it should show."""
    pixels = image.astype(np.float32)
    band = max(1, image.shape[0] // 32)
    border = np.concatenate(
        [part.reshape(-1, 3) for part in (pixels[:band], pixels[-band:], pixels[:, :band], pixels[:, -band:])]
    )
    back = np.median(border, axis=0)
    distance = np.linalg.norm(pixels - back, axis=-1)
    far = distance > 0.5 * max(distance.max(), 1.0)
    front = np.median(pixels[far], axis=0) if far.any() else back
    # A pixel is foreground when it is past the midpoint between the two colours.
    axis = front - back
    mask = (pixels - back) @ axis > 0.5 * max(float(axis @ axis), 1.0)
    return back, front, mask


def score(image: np.ndarray, spec: Spec) -> dict[str, bool]:
    """Judge a uint8 [H, W, 3] picture against what it should show:
    `background`, `colour` and `shape`, each right or not."""
    back, front, mask = find_object(image)
    answer = {"background": COLOURS[nearest_colour(back[None])[0]] == spec.background, "colour": False, "shape": False}
    if mask.mean() < MIN_AREA or np.linalg.norm(front - back) < 40:
        return answer
    answer["colour"] = COLOURS[nearest_colour(front[None])[0]] == spec.colour
    thing = largest_component(mask)
    if thing.sum() < (1 - MAX_STRAY) * mask.sum():
        return answer
    overlap = overlaps(boxed(thing))
    answer["shape"] = max(overlap, key=overlap.get) == spec.shape and overlap[spec.shape] >= MIN_OVERLAP
    return {name: bool(value) for name, value in answer.items()}


def tally(scores: list[dict[str, bool]]) -> dict[str, int]:
    """Counts of right answers by attribute, and of pictures with all of them right."""
    counts = {name: sum(one[name] for one in scores) for name in ("background", "colour", "shape")}
    return counts | {"all": sum(all(one.values()) for one in scores), "of": len(scores)}


if __name__ == "__main__":
    specs = held_out_prompts(500)
    for side in (64, 96, 128, 256):
        print(side, "px:", tally([score(render(spec, side), spec) for spec in specs]))
