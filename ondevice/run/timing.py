"""One way to time anything, so two numbers of this project can be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ondevice.plan.plan import Plan
from ondevice.run.check import NUMPY
from ondevice.run.session import Session

STEADY = 0.1  # a spread above it: the machine was busy or hot


@dataclass(frozen=True, slots=True)
class Timing:
    """`spread` is as of `spread_of`; above STEADY the row does not count."""

    name: str
    median_ms: float
    spread: float
    gflop_per_s: float
    gb_per_s: float
    runs: int

    @property
    def counts(self) -> bool:
        return self.spread <= STEADY

    def row(self) -> dict[str, object]:
        return {**asdict(self), "counts": self.counts}


def measure(
    name: str,
    call: Callable[[], float | None],
    *,
    flops: int = 0,
    moved_bytes: int = 0,
    runs: int = 30,
    warmup: int = 3,
    budget_s: float = 2.0,
) -> Timing:
    """Median and spread of `call`, which must return only when the work is finished.

    Args:
        call: returns seconds if it measured itself (a device's own clock), else None and the wall clock counts.
        flops: floating-point operations of one call; a fused multiply-add is two.
        moved_bytes: the least one call could move.
        runs: calls to time; fewer when `budget_s` is used up, never under 3.
        warmup: calls before the first that counts.
        budget_s: seconds to spend on timed calls.
    """
    (times,) = in_turns([call], runs=runs, warmup=warmup, budget_s=budget_s)
    return summary(name, times, flops=flops, moved_bytes=moved_bytes)


def summary(name: str, times: Sequence[float], *, flops: int = 0, moved_bytes: int = 0) -> Timing:
    """Median, spread and rates of at least two times in seconds, however they were taken."""
    median = statistics.median(times)
    return Timing(name, median * 1e3, spread_of(times), flops / median / 1e9, moved_bytes / median / 1e9, len(times))


def spread_of(values: Sequence[float]) -> float:
    """(p90 - p10) / median of at least two values over 0: how far they lie apart."""
    tenths = statistics.quantiles(values, n=10)
    return (tenths[8] - tenths[0]) / statistics.median(values)


def in_turns(
    calls: Sequence[Callable[[], float | None]], *, runs: int, warmup: int, budget_s: float
) -> list[list[float]]:
    """Seconds of each of `calls`, one list per call.
    They take turns, so that a machine that slows down meanwhile does so for all of them.

    Args:
        calls, warmup: as `measure` takes them.
        runs: rounds to time; fewer when `budget_s` is used up, never under 3.
    """
    for _ in range(warmup):
        for call in calls:
            call()
    times: list[list[float]] = [[] for _ in calls]
    rounds = 0
    while rounds < runs and (rounds < 3 or sum(map(sum, times)) < budget_s):
        for call, row in zip(calls, times, strict=True):
            start = time.perf_counter()
            own = call()
            row.append(time.perf_counter() - start if own is None else own)
        rounds += 1
    return times


def time_plan(session: Session, plan: Plan, runs: int) -> Timing:
    """Time whole runs of a plan by the wall clock, inputs and outputs included, on made-up inputs;
    one run before warms up.

    With a session that profiles, its profile then holds the times of the runs that count, by the device's own clock.
    """
    inputs = made_up(plan)

    def call() -> None:
        session.run(plan.component, inputs, **plan.sizes)

    with session.profile.ignored():
        call()
    name = f"{plan.component} {' '.join(f'{name}={size}' for name, size in plan.sizes.items())} {plan.dtype}"
    flops, moved = sum(d.flops for d in plan.dispatches), sum(d.reads + d.writes for d in plan.dispatches)
    return measure(name, call, flops=flops, moved_bytes=moved, runs=runs, warmup=0, budget_s=float("inf"))


def made_up(plan: Plan) -> dict[str, np.ndarray]:
    """Inputs that a plan takes: normal noise, the same every time; integers are indices, and 0 is one everywhere."""
    rng, inputs = np.random.default_rng(0), {}
    for x in (plan.operands[index] for index in plan.inputs):
        inputs[x.name] = (
            np.zeros(x.shape, np.int32) if x.dtype == "i32" else rng.standard_normal(x.shape).astype(NUMPY[x.dtype])
        )
    return inputs
