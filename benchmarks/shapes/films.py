"""Short films of one plain shape that moves to the right as far as its motion number says, made from a seed, and the
judge of such films.

A film has 6 frames of 96 x 48 pixels. In frame k of n the shape is `TRAVEL * motion / 255 * k / (n - 1)` pixels to the
right of where it was in the first: motion 0 is a still picture, 255 crosses it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.shapes.pictures import SHAPES, Spec, held_out_prompts, render, sample
from benchmarks.shapes.score import COLOURS, MIN_AREA, boxed, find_object, largest_component, nearest_colour, overlaps

FRAMES, WIDTH, HEIGHT = 6, 96, 48
TRAVEL = 44  # pixels that motion 255 goes
MOST = 255  # the largest motion number
MOTIONS = (0, 64, 128, 192, 255)  # that are judged
NEAR = 8  # pixels by which a shape may be elsewhere than it should: one latent
_RADIUS = (0.208, 0.22)  # of the width: as many pixels as the captions' small shapes have
_START = (0.25, 0.27)
_MIDDLE = (0.495, 0.505)


@dataclass(frozen=True)
class Film:
    """What is seen in the first frame (places are fractions of a square picture, of which the middle half is shown),
    and how far it moves."""

    first: Spec
    motion: int

    def at(self, frame: int) -> Spec:
        """What a frame shows."""
        moved = TRAVEL * self.motion / MOST * frame / (FRAMES - 1)
        return replace(self.first, cx=self.first.cx + moved / WIDTH)

    def frames(self) -> np.ndarray:
        """uint8 [frames, height, width, 3]."""
        top = (WIDTH - HEIGHT) // 2
        return np.stack([render(self.at(k), WIDTH)[top : top + HEIGHT] for k in range(FRAMES)])


def random_film(rng: random.Random, first: Spec | None = None, motion: int | None = None) -> Film:
    """A film of the training split, or of a picture's shape and colours."""
    spec = sample(rng) if first is None else first
    r, cx, cy = (rng.uniform(*between) for between in (_RADIUS, _START, _MIDDLE))
    return Film(replace(spec, r=r, cx=cx, cy=cy), rng.randint(0, MOST) if motion is None else motion)


def tasks(count: int, split: str = "test") -> list[Film]:
    """Films whose shape, colour and background are never together in training; the motion numbers take turns."""
    rng = random.Random(f"films-{split}")
    # five shapes and five motions, both in turns: all pairs
    turns = [MOTIONS[(k + k // len(SHAPES)) % len(MOTIONS)] for k in range(count)]
    return [random_film(rng, *one) for one in zip(held_out_prompts(count, split=split), turns, strict=True)]


def judge(drawn: np.ndarray, film: Film) -> dict[str, bool]:
    """Whether uint8 [frames, height, width, 3] show what they should: `background` and `colour` in all frames, `shape`
    in the first and the last, `motion`: in every frame the shape is where it should be."""
    right = {"background": True, "colour": True, "shape": True, "motion": True}
    for k, pixels in enumerate(drawn):
        wanted = film.at(k)
        back, front, mask = find_object(pixels)
        right["background"] &= bool(COLOURS[nearest_colour(back[None])[0]] == wanted.background)
        right["colour"] &= bool(COLOURS[nearest_colour(front[None])[0]] == wanted.colour)
        if mask.mean() < MIN_AREA:
            return right | {"colour": False, "shape": False, "motion": False}
        thing = largest_component(mask)
        if k in (0, len(drawn) - 1):
            found = overlaps(boxed(thing))
            right["shape"] &= max(found, key=found.__getitem__) == wanted.shape
        # of the box and not of the pixels: a triangle's middle is not that of its circle, and a ring has none
        columns = np.flatnonzero(thing.any(0))
        right["motion"] &= bool(abs((columns[0] + columns[-1] + 1) / 2 - wanted.cx * WIDTH) <= NEAR)
    return right


def tally(scores: list[dict[str, bool]]) -> dict[str, int]:
    """Counts of what was right, and of films with all of it right."""
    counts = {name: sum(one[name] for one in scores) for name in ("background", "colour", "shape", "motion")}
    return counts | {"all": sum(all(one.values()) for one in scores), "of": len(scores)}


if __name__ == "__main__":
    films = tasks(100)
    print(tally([judge(film.frames(), film) for film in films]))
