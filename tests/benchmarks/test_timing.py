"""The one timer: medians, spreads and rates come out as written."""

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "timing.py"


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_timing", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_rates_come_from_the_median(timing: ModuleType) -> None:
    own = itertools.cycle([0.002, 0.002, 0.002, 0.002, 0.01])
    got = timing.measure("x", lambda: next(own), flops=4_000_000, moved_bytes=2_000_000, runs=10, warmup=0)
    assert (got.median_ms, got.runs) == (2.0, 10)
    assert (got.gflop_per_s, got.gb_per_s) == (pytest.approx(2.0), pytest.approx(1.0))
    assert not got.counts
    assert timing.measure("x", lambda: 0.002, runs=5).counts


def test_budget_ends_it_but_not_before_three(timing: ModuleType) -> None:
    assert timing.measure("x", lambda: 1.0, runs=10, budget_s=0.5).runs == 3
    assert timing.measure("x", lambda: 1.0, runs=10, budget_s=5.0).runs == 5
