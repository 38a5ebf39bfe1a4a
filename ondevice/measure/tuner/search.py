"""The search over closed sets: one tunable at a time, the best so far against each other value, then two that make up
for each other. Knows neither kernels nor devices.

Times are the least of some runs that took turns: what others do on the machine only adds to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol

from ondevice.run.timing import in_turns

MARGIN = 0.02  # what is not faster by this share is not faster
AGREE = 0.7  # share of the rounds in which the winner must have been faster
EARLY, EARLY_LONG = 1.5, 1.2  # a candidate this much slower at its first run is dropped; long runs tell more
LONG = 0.02  # seconds
SWEEPS = 2
WON, LOST, FAR, NONE = "won", "lost", "far", "none"
# a value that was far off at two shapes, or lost at four, is given up
COSTS, GIVE_UP = {LOST: 1, FAR: 2, WON: 0, NONE: 0}, 4
ROUNDS = (4, 15)
FIRST = 2  # of them, after which what is slower by the margin has lost
SPENT = 0.04  # seconds that the rounds of a short call may take
Choice = dict[str, int]
Run = Callable[[], float]  # seconds


class Trial(Protocol):
    """What a search asks of the thing it tunes."""

    def run(self, choice: Mapping[str, int]) -> Run | None:
        """What runs once with these tunables; None where it cannot, or where it would be what some others gave."""
        ...

    def known(self, choice: Mapping[str, int]) -> float | None:
        """Its least seconds so far; None where it has not run."""
        ...

    def right(self, choice: Mapping[str, int]) -> bool:
        """Whether its result is that of the kernel's defaults."""
        ...


def leasts(first: Run, second: Run) -> tuple[float, float]:
    """Least seconds of two calls that took turns."""
    a, b = in_turns([first, second], runs=2 * _rounds(first()), warmup=0, budget_s=2 * SPENT)
    return min(a), min(b)


def duel(champion: Run, challenger: Run, usual: float | None = None) -> str:
    """WON where the challenger is faster by more than the margin, and not by luck: they take turns, and most rounds
    must agree. Else LOST, or FAR where its first run was enough to see that.

    Args:
        usual: seconds of the champion, where they are known.
    """
    usual = champion() if usual is None else usual
    first = challenger()
    if usual < LONG:
        first = min(first, challenger())
    if first > usual * (EARLY_LONG if usual >= LONG else EARLY):
        return FAR
    before: list[float] = []
    after: list[float] = []
    # the longer they go on, the less a loser may hope for
    for rounds, most in ((FIRST, 1 + MARGIN), (ROUNDS[0] - FIRST, 1 - MARGIN / 2), (_rounds(usual), 1 - MARGIN)):
        more = in_turns([champion, challenger], runs=rounds, warmup=0, budget_s=float("inf"))
        before, after = before + more[0], after + more[1]
        if min(after) > min(before) * most:
            return LOST
    agree = sum(b < a for a, b in zip(before, after, strict=True)) >= AGREE * len(before)
    return WON if agree else LOST


@dataclass(slots=True)
class Lessons:
    """Values of one kernel's tunables that lost at other shapes, and nowhere were good: they are not tried for ever."""

    lost: Counter[tuple[str, int]] = field(default_factory=Counter)
    good: set[tuple[str, int]] = field(default_factory=set)

    def hopeless(self, name: str, value: int) -> bool:
        """Whether it need not be tried again."""
        return self.lost[name, value] >= GIVE_UP and (name, value) not in self.good


def descend(
    space: Mapping[str, Sequence[int]],
    starts: Sequence[Choice],
    trial: Trial,
    late: Callable[[], bool],
    lessons: Lessons | None = None,
) -> Choice:
    """The best choice found: the first of `starts` against the others, then one tunable after another,
    until a sweep changes nothing.

    Args:
        space: values of each tunable to try; those that are not in it stay as in the first of `starts`.
        late: whether time is up; asked before each candidate.
        lessons: of other shapes; what is seen here is added.
    """
    best, learned = dict(starts[0]), lessons or Lessons()
    champion = trial.run(best)
    if champion is None:
        return best
    seen = [best]

    def meet(candidate: Choice) -> str:
        nonlocal best, champion
        if candidate in seen or late():
            return NONE
        seen.append(candidate)
        challenger = trial.run(candidate)
        assert champion is not None
        outcome = NONE if challenger is None else duel(champion, challenger, trial.known(best))
        if outcome == WON and trial.right(candidate):
            best, champion = candidate, challenger
        return outcome

    for start in starts[1:]:
        meet(dict(start))
    for _ in range(SWEEPS):
        before = best
        for name, values in space.items():
            for value in values:
                if not learned.hopeless(name, value):
                    learned.lost[name, value] += COSTS[meet(best | {name: value})]
        # A tile of as many registers, or a block of as many bytes, in another form: halfway it would be too large.
        for one, other in combinations(space, 2):
            for value in space[one]:
                area, rest = best[one] * best[other], best[one] * best[other] // value
                known = rest * value == area and rest in space[other]
                if known and not learned.hopeless(f"{one} for {other}", value):
                    outcome = meet(best | {one: value, other: rest})
                    learned.lost[f"{one} for {other}", value] += COSTS[outcome]
        if best == before:
            break
    learned.good.update(best.items())
    return best


def _rounds(seconds: float) -> int:
    low, high = ROUNDS
    return max(low, min(high, int(SPENT / max(seconds, 1e-6))))
