"""The fit finds the constants that made the figures; README's table of errors is what is written beside them."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fit_predict
from ondevice.measure.predict.constants import REDUCTION, Efficiencies, Published, constants

ROOT = Path(__file__).parents[3]
TIME = Published("t", "s", "sd14", "adreno_740", "picture", 0.0, True, 0.0)


def work(seed):
    """Of launches some of which are bound by arithmetic and some by bytes."""
    rng = np.random.default_rng(seed)
    return fit_predict.Work(np.ones(50), rng.uniform(0, 1, 50), rng.uniform(0, 1, 50), 0.1)


@pytest.mark.parametrize("made_by", [Efficiencies(0.61, 0.47), Efficiencies(0.4, 0.8), Efficiencies(0.55, 0.4)])
def test_the_fit_finds_what_made_the_figures(made_by):
    before, after, known = work(0), work(1), constants()
    figures = [
        (replace(TIME, value=fit_predict.predicted([after], made_by)), [after]),
        (replace(TIME, kind=REDUCTION, value=fit_predict.predicted([before, after], made_by)), [before, after]),
    ]
    found = fit_predict.fit(figures, known.low, known.high)
    assert (found.arithmetic, found.memory) == pytest.approx((made_by.arithmetic, made_by.memory), abs=5e-3)


def test_the_fit_stays_within_what_is_plausible():
    known = constants()
    fast = [(replace(TIME, value=1.0), [work(0)])]
    assert fit_predict.fit(fast, known.low, known.high) == known.high


def test_what_is_written_is_plausible_and_what_the_pages_show():
    known = constants()
    for name in ("arithmetic", "memory"):
        assert getattr(known.low, name) < getattr(known.efficiencies, name) < getattr(known.high, name)
    assert [figure.fitted for figure in known.published].count(True) == 2
    page = (ROOT / "docs" / "prediction.md").read_text()
    assert f"-->\n{fit_predict.to_markdown(known)}\n<!--" in page
    ends = [figure for figure in known.published if figure.kind == REDUCTION]
    last = re.findall(r"^\| \+ Winograd .* \| (-[0-9.]+ %) \| (-[0-9.]+ %) \|$", page, re.MULTILINE)
    assert last == [(f"-{figure.predicted:.1f} %", figure.text) for figure in ends]


@pytest.mark.sweep
@pytest.mark.parametrize("number", range(3))
def test_todays_plans_still_give_what_is_written(number):
    """Of the paper's figures: what changes a prediction by more asks for another fit."""
    known = constants()
    figure = known.published[number]
    now = replace(figure, predicted=fit_predict.predicted(fit_predict.works(figure), known.efficiencies))
    command = "python -m benchmarks.fit_predict --write"
    assert abs(now.error - figure.error) < 3, f"percent or points; `{command}` fits again"


def test_errors_are_what_the_pages_say_at_most():
    times, reductions = (
        [abs(figure.error) for figure in constants().published if (figure.kind == REDUCTION) == is_reduction]
        for is_reduction in (False, True)
    )
    assert max(times) < 20 and max(reductions) < 10, "percent, and points"
