"""The one timer: medians, spreads and rates come out as written."""

import itertools

import pytest
from run.small_plans import three_steps

from ondevice.run import timing
from ondevice.run.profile import Profile


def test_rates_come_from_the_median() -> None:
    own = itertools.cycle([0.002, 0.002, 0.002, 0.002, 0.01])
    got = timing.measure("x", lambda: next(own), flops=4_000_000, moved_bytes=2_000_000, runs=10, warmup=0)
    assert (got.median_ms, got.runs) == (2.0, 10)
    assert (got.gflop_per_s, got.gb_per_s) == (pytest.approx(2.0), pytest.approx(1.0))
    assert not got.counts
    assert timing.measure("x", lambda: 0.002, runs=5).counts


def test_budget_ends_it_but_not_before_three() -> None:
    assert timing.measure("x", lambda: 1.0, runs=10, budget_s=0.5).runs == 3
    assert timing.measure("x", lambda: 1.0, runs=10, budget_s=5.0).runs == 5


class Clock:
    """A session that runs nothing and remembers what it was given."""

    def __init__(self) -> None:
        self.profile, self.seen = Profile({}), []

    def run(self, component, inputs, **sizes):
        self.seen.append((component, inputs, sizes))
        self.profile.add(three_steps(1000), [(0.0, 1e-3), (1e-3, 3e-3), (3e-3, 6e-3)])


def test_a_plan_is_timed_after_one_run_that_does_not_count() -> None:
    session = Clock()
    for _ in range(2):
        got = timing.time_plan(session, three_steps(1000), runs=4)
    assert (got.name, got.runs, len(session.seen)) == ("net width=1000 f32", 4, 10)
    assert {row.runs for row in session.profile.rows.values()} == {8}  # of ten
    component, inputs, sizes = session.seen[0]
    assert (component, sizes) == ("net", {"width": 1000})
    plan = three_steps(1000)
    assert {name: values.shape for name, values in inputs.items()} == {
        plan.operands[i].name: plan.operands[i].shape for i in plan.inputs
    }
    assert got.gflop_per_s == pytest.approx(sum(d.flops for d in plan.dispatches) / got.median_ms / 1e6)
