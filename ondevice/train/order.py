"""Which samples a step takes, and what is drawn at random for each: functions of the seed and of a position alone.

A run's samples are one endless sequence: every epoch is a permutation of its own. A step of one process and of several
takes the same ones, and a run that goes on takes those that an unbroken one would have taken, so that nothing about
random numbers has to be kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


def mixed(*numbers: int) -> int:
    """A seed of 63 bits made of several numbers: equal for equal ones, and otherwise as if drawn at random."""
    digest = hashlib.blake2b(b",".join(str(one).encode() for one in numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True, slots=True)
class Order:
    """The endless sequence of `count` samples' indices under a seed."""

    count: int
    seed: int

    def at(self, position: int) -> int:
        """The index of the sample at a position, from 0 on."""
        epoch, place = divmod(position, self.count)
        return int(self.epoch(epoch)[place])

    def epoch(self, number: int) -> np.ndarray:
        """int64 [count]: the order of an epoch."""
        if (kept := _KEPT.get((self, number))) is None:
            _KEPT.clear()
            kept = _KEPT[self, number] = np.random.default_rng(mixed(self.seed, number)).permutation(self.count)
        return kept


_KEPT: dict[tuple[Order, int], np.ndarray] = {}  # of the epoch that was asked for last


@dataclass(frozen=True, slots=True)
class Share:
    """Which positions one of several processes takes.

    Args:
        batch: samples of a process at a time.
        micro: how often a process takes a batch in a step.
    """

    batch: int
    micro: int = 1
    rank: int = 0
    processes: int = 1

    @property
    def of_step(self) -> int:
        """Samples of a step, of all processes."""
        return self.batch * self.micro * self.processes

    def batches(self, step: int) -> Iterator[list[int]]:
        """The positions of each batch from a step on, without an end."""
        start = step * self.of_step
        while True:
            first = start + self.rank * self.batch
            yield list(range(first, first + self.batch))
            start += self.batch * self.processes

    def steps_of_epoch(self, count: int) -> int:
        """Steps until `count` samples are taken."""
        return -(-count // self.of_step)
