"""Runs of plans that take turns on one thread, so that the devices of several sessions have work at the same time.

A run gives its turn away where it would wait for its device, which works on what it was given meanwhile. So there are
no threads to stop where a device fails or somebody presses Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Made = TypeVar("Made")


@dataclass(slots=True)
class Part:
    """What a run has of a sum over several runs, and what the others have, in their order, once all have come to it:
    then it gets its turn again."""

    values: np.ndarray
    others: Sequence[np.ndarray] | None = None


@dataclass(slots=True)
class Moved:
    """Bytes that went between devices: of arrays, with each run; of parts of sums, there and back; and of values that
    were made on one before and went over once."""

    arrays: int = 0
    sums: int = 0
    once: int = 0
    runs: int = 0  # that gave arrays: of the last component of a step


Turns = Generator[Part | None, None, Made]
"""What is run in turns, and what comes of it."""


def finished(run: Turns[Made]) -> Made:
    """All turns of one run, one after another. Raises what it raises; then it has given up by itself."""
    try:
        while True:
            try:
                next(run)
            except StopIteration as end:
                made: Made = end.value
                return made
    finally:
        run.close()


def meanwhile(end: Callable[[], Made]) -> Turns[Made]:
    """What was begun, ended after the others' turns."""
    yield None
    return end()


def together(runs: Sequence[Turns[Made]]) -> Turns[list[Made]]:
    """Several runs, a turn of each at a time. Where one raises something, the others are given up."""
    made: dict[int, Made] = {}
    try:
        while len(made) < len(runs):
            for number, run in enumerate(runs):
                if number not in made:
                    try:
                        next(run)
                    except StopIteration as end:
                        made[number] = end.value
            yield None
        return [made[number] for number in range(len(runs))]
    finally:
        for run in runs:
            run.close()
