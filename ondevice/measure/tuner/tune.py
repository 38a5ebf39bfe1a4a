"""The whole of a tuning run: units in the order of what they cost per picture,
each with its share of the time that is left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ondevice.measure import Say
from ondevice.measure.tuner.cases import Case
from ondevice.measure.tuner.measured import Measured
from ondevice.measure.tuner.runner import CaseRunner, Ready, same
from ondevice.measure.tuner.search import MARGIN, Choice, Lessons, Run, descend, leasts

SLACK = 1.5  # of its share that a unit may take: most need less
LEAST = 0.0005  # share of a picture under which a unit is not worth a measurement
EARLIER = 3  # winners of other units to begin from
QUICK = 0.005  # seconds
FEW = 4  # runs for a least time


class _Trial:
    """One case, as the search sees it.
    Two choices may come to one call (a tile is never wider than its result): it runs once."""

    def __init__(self, case: Case, runner: CaseRunner) -> None:
        self.case, self.runner = case, runner
        self._ready: dict[tuple[tuple[str, int], ...], Ready | None] = {}
        self._met: set[tuple[object, ...]] = set()
        self._times: dict[tuple[tuple[str, int], ...], list[float]] = {}
        self._want: list[np.ndarray] | None = None
        self.wrong: list[Choice] = []

    def ready(self, choice: Mapping[str, int]) -> Ready | None:
        key = tuple(sorted(choice.items()))
        if key not in self._ready:
            self._ready[key] = self.runner.ready(self.case, choice)
        return self._ready[key]

    def run(self, choice: Mapping[str, int]) -> Run | None:
        ready = self.ready(choice)
        if (
            ready is None
            or (same_call := (ready.made.call.defines, ready.made.call.grid, ready.made.call.group)) in self._met
        ):
            return None
        self._met.add(same_call)
        times = self._times.setdefault(tuple(sorted(choice.items())), [])

        def run() -> float:
            times.append(ready.run())
            return times[-1]

        return run

    def known(self, choice: Mapping[str, int]) -> float | None:
        return min(self._times.get(tuple(sorted(choice.items())), []), default=None)

    def usual(self, choice: Mapping[str, int]) -> float:
        """Least seconds of all its runs so far; some are made where there were few."""
        times, ready = self._times.get(tuple(sorted(choice.items())), []), self.ready(choice)
        assert ready is not None, "asked of choices that run"
        while len(times) < FEW:
            times.append(ready.run())
        return min(times)

    def right(self, choice: Mapping[str, int]) -> bool:
        safe, ready = self.ready(self.case.kernel.tuning()), self.ready(choice)
        assert ready is not None, "it ran"
        if safe is None:
            return False  # nothing to compare with
        if self._want is None:
            self._want = self.runner.result(safe)
        good = same(ready.made, self._want, self.runner.result(ready))
        self.wrong += [] if good else [dict(choice)]
        return good


def tune(
    cases: Sequence[Case], runner: CaseRunner, budget_s: float, say: Say, clock: Callable[[], float] = time.monotonic
) -> Iterator[Measured]:
    """Measure the cases, those that cost most per picture first, until time is up; yields each as soon as it is known.

    Args:
        budget_s: seconds for all of it, builds included. A case begun is ended, so it may take a little more.
        say: gets a line for each case.
    """
    units = _units(cases)
    left, end = sum(map(_weight, units)), clock() + budget_s
    total, done = left or 1.0, 0.0
    earlier: dict[str, list[Choice]] = {}
    lessons: defaultdict[str, Lessons] = defaultdict(Lessons)
    for number, unit in enumerate(units):
        weight = _weight(unit)
        if weight < LEAST * total or clock() >= end:
            say(
                f"{len(units) - number} units, {left / total:.1%} of a picture's time, "
                "are left at their kernels' defaults"
            )
            return
        until = min(end, clock() + SLACK * (end - clock()) * weight / left)
        name = unit[0].kernel.name

        def is_late(until: float = until) -> bool:
            return clock() >= until

        rows = _unit(unit, runner, earlier.get(name, []), lessons[name], is_late, say)
        runner.forget()
        left, done = left - weight, done + weight
        for row in rows:
            gain = f"{row.was_us:,.0f} -> {row.us:,.0f} us ({row.was_us / max(row.us, 1e-9):.2f}x)"
            at = " ".join(f"{key}={value}" for key, value in row.at.items())
            say(
                f"[{done / total:4.0%}] {name} {at}: "
                f"{gain}  {' '.join(f'{key}={value}' for key, value in row.choice.items())}"
            )
            yield row
        won = {tuple(sorted(row.choice.items())): dict(row.choice) for row in rows}
        known = [*won.values(), *(choice for choice in earlier.get(name, []) if choice not in won.values())]
        earlier[name] = known[:EARLIER]


def _units(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases that read the same weight belong together: how it is stored is chosen once.
    Those that cost most per picture first."""
    units: dict[tuple[object, ...], list[Case]] = {}
    for case in cases:
        key = case.weight_at if case.kernel.stored_by else case.at
        units.setdefault((case.kernel.name, *sorted(key.items())), []).append(case)
    return sorted((_led(unit) for unit in units.values()), key=lambda unit: (-_weight(unit), str(unit[0])))


def _led(unit: list[Case]) -> list[Case]:
    """First the case that is searched, the quickest that a clock sees well;
    then the others, which choose among what was found."""
    order = sorted(unit, key=lambda case: (-case.weight, str(case)))
    lead = min(order, key=lambda case: (case.guess < QUICK, abs(case.guess - QUICK)))
    return [lead, *(case for case in order if case is not lead)]


def _weight(unit: Sequence[Case]) -> float:
    return sum(case.weight for case in unit)


def _unit(
    unit: Sequence[Case],
    runner: CaseRunner,
    earlier: Sequence[Choice],
    lessons: Lessons,
    late: Callable[[], bool],
    say: Say,
) -> list[Measured]:
    """The first case is searched, and says how the weight is stored; the others choose among winners.
    All go back where that does not pay in sum."""
    kernel, default = unit[0].kernel, unit[0].default()
    stored: Choice = {}
    rows: list[Measured] = []
    for case in unit:
        trial = _Trial(case, runner)
        starts = [
            default | stored,
            *(choice | stored for choice in (*(dict(row.choice) for row in rows[:1]), *earlier)),
        ]
        best = descend({} if rows else kernel.header["tune"], starts, trial, late, lessons)
        for wrong in trial.wrong:
            say(f"{case}: refused for a wrong result: {wrong}")
        row = _measured(case, trial, default, best)
        runner.forget()
        if row is None:
            say(f"{case}: it does not run on this device by itself; left at its defaults")
            continue
        if not rows:
            stored = {name: row.choice[name] for name in kernel.stored_by}
        rows.append(row)
    before, after = sum(row.cost for row in rows), sum(row.us * row.runs for row in rows)
    if any(stored[name] != default[name] for name in stored) and after > before * (1 - MARGIN):
        say(f"{unit[0]}: its weight stored otherwise does not pay at all sizes; left at its defaults")
        return [Measured(row.kernel, row.at, default, row.was_us, row.was_us, row.runs) for row in rows]
    return rows


def _measured(case: Case, trial: _Trial, default: Choice, best: Choice) -> Measured | None:
    """Both once more, in turns: what only luck made the winner loses here."""
    was, now = trial.ready(default), trial.ready(best)
    if was is None or now is None:
        return None
    if best == default:
        before = after = trial.usual(default)
    else:
        before, after = leasts(was.run, now.run)
    # that is settled for all cases of the weight at once
    stays = any(best[name] != default[name] for name in case.kernel.stored_by)
    if not stays and after > before * (1 - MARGIN):
        best, after = default, before
    return Measured(case.kernel, case.at, best, after * 1e6, before * 1e6, case.runs)
