"""Arena offsets: greedy by size, with a check of every placement that is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ondevice.errors import PlanError
from ondevice.plan.plan import ALIGN

TRIES = 32  # placements of one plan, 10 ms each for a UNet


@dataclass(frozen=True, slots=True)
class Life:
    """A tensor's bytes and the steps from its first write to its last read, both included."""

    name: str
    size: int
    first: int
    last: int


def round_up(size: int, to: int = ALIGN) -> int:
    return -(-size // to) * to


def place(lives: Sequence[Life]) -> dict[str, int]:
    """Offsets: one tensor after the other, each in the lowest gap that is free for its whole life.

    The order decides how well they fit. Tried are biggest first, and longest life first, which stacks a UNet's skip
    connections; in each, tensors that reach the arena's end then go first, and so on. The smallest arena of all
    tries is taken.
    """
    least, best, needs = peak(lives), dict[str, int](), -1
    for key in (
        lambda life: (-life.size,),
        lambda life: (life.first - life.last,),
        lambda life: ((life.first - life.last) * life.size,),
    ):
        order = sorted(lives, key=lambda life: (*key(life), -life.size, life.first, life.name))
        for _ in range(TRIES):
            tried = _fitted(order)
            now = arena_size(lives, tried)
            if needs < 0 or now < needs:
                best, needs = tried, now
            top = [life for life in order if round_up(tried[life.name] + life.size) == now]
            if needs <= least or order[: len(top)] == top:
                break
            order = [*top, *(life for life in order if life not in top)]
    return best


def peak(lives: Sequence[Life]) -> int:
    """The most bytes that are alive at one step: no arena is smaller. Each tensor takes whole units of ALIGN."""
    steps = max((life.last for life in lives), default=-1) + 2
    change = [0] * (steps + 1)
    for life in lives:
        change[life.first] += round_up(life.size)
        change[life.last + 1] -= round_up(life.size)
    return max(accumulate(change), default=0)


def _fitted(order: Sequence[Life]) -> dict[str, int]:
    """Each tensor, in this order, in the lowest gap that is free for its whole life."""
    first, last, start, end = (np.zeros(len(order), np.int64) for _ in range(4))
    offsets: dict[str, int] = {}
    for count, life in enumerate(order):
        meets = (first[:count] <= life.last) & (last[:count] >= life.first)
        begins, ends = start[:count][meets], end[:count][meets]
        by = begins.argsort(kind="stable")
        offset = 0
        for begin, stop in zip(begins[by].tolist(), ends[by].tolist(), strict=True):
            if offset + life.size <= begin:
                break
            if stop > offset:
                offset = stop
        behind = round_up(offset + life.size)
        first[count], last[count], start[count], end[count] = life.first, life.last, offset, behind
        offsets[life.name] = offset
    return offsets


def check(lives: Sequence[Life], offsets: Mapping[str, int]) -> None:
    """Raise unless the placement is safe.
    Runs on every plan we make; plans that are read go through `bundle.plan_file.check_memory`.

    Raises:
        PlanError: two tensors that are alive together share bytes, or an offset is negative or misaligned.
    """
    if not lives:
        return
    first = np.array([life.first for life in lives])
    last = np.array([life.last for life in lives])
    start = np.array([offsets[life.name] for life in lives])
    end = start + np.array([life.size for life in lives])
    for index in np.flatnonzero((start < 0) | (start % ALIGN != 0)).tolist():
        raise PlanError(
            f"offset {start[index]} is negative or not a multiple of {ALIGN}.",
            where=f"memory plan: {lives[index].name}",
        )
    for index, life in enumerate(lives):
        clash = (first <= life.last) & (last >= life.first) & (start < end[index]) & (end > start[index])
        clash[index] = False
        for other in np.flatnonzero(clash).tolist():
            raise PlanError(
                f"{life.name} and {lives[other].name} overlap in the arena while both are alive.",
                where="memory plan",
                fix="report this; a plan that we write must never do so",
            )


def arena_size(lives: Sequence[Life], offsets: Mapping[str, int]) -> int:
    """Bytes the arena needs, rounded up to the alignment."""
    return round_up(max((offsets[life.name] + life.size for life in lives), default=0))
