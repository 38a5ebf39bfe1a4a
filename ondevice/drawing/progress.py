"""A bar of steps for each picture, on stderr, and its previews."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ondevice.base.bars import tqdm
from ondevice.diffusion.request import Picture
from ondevice.drawing.previews import Previews


class Progress:
    """The bar of the picture that is drawn now.

    Args:
        count: pictures in all.
        steps: of each, where it is known.
        previews: are told of every picture and step; None: there are none.
    """

    def __init__(self, count: int, steps: int | None, previews: Previews | None = None) -> None:
        self._count, self._steps, self._previews = count, steps, previews or Previews()
        self._bar: tqdm | None = None

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """While picture `number` is drawn, from 0 on."""
        self._previews.begin(number)
        with self.named("steps" if self._count == 1 else f"{number + 1} of {self._count}"):
            yield

    @contextmanager
    def named(self, name: str) -> Iterator[None]:
        """While something else takes as many steps."""
        hidden = True if sys.stderr is None else None
        with tqdm(total=self._steps, desc=name, file=sys.stderr, disable=hidden) as self._bar:
            yield

    def each(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        """All of them, each drawn under its own bar."""
        for number in range(self._count):
            with self.of(number):
                picture = next(pictures)
            yield picture

    def show(self, done: int, calls: int, timestep: float, latents: np.ndarray) -> None:
        """Move the bar, and show the latents. Some samplers call the network more often than once per step,
        so the total is set from what they report."""
        assert self._bar is not None
        self._bar.total = calls
        self._bar.update(done - self._bar.n)
        self._previews.step(done, calls, latents)
