"""Fit the constants of the model of time, and say how far it is off: `python -m benchmarks.fit_predict [--write]`.

It makes the plans of the published figures in ondevice/measure/predict/constants.toml (a minute; no device, no weight
is read), finds the efficiencies at which the figures with `fitted = true` come out best, within what is plausible, and
prints what the model says of all of them. `--write` puts constants and predictions into that file and the tables into
docs/prediction.md. Run it whenever plans for phones have changed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np

from ondevice import cli
from ondevice.base.columns import columns, markdown
from ondevice.compiler.recipe import Recipe
from ondevice.converters.source import Source
from ondevice.measure.predict.constants import (
    FILE,
    PICTURE,
    REDUCTION,
    Constants,
    Efficiencies,
    Published,
    constants,
    shown,
)
from ondevice.measure.predict.cost import costs
from ondevice.measure.predict.paper import COUNTS, paper_plans, reduction
from ondevice.measure.predict.prediction import model_runs, predictable, roofline_of
from ondevice.measure.predict.runs import Run

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "prediction.md"
OWN = re.compile(r"(<!-- python -m benchmarks\.fit_predict -->\n).*?(<!-- end of the table -->)", re.DOTALL)
COMMANDS = re.compile(r"(<!-- ondevice ([^\n]*) -->\n).*?(<!-- end of the table -->)", re.DOTALL)
HEAD = ("published", "by", "predicted", "off by", "used to")
PEAK = Efficiencies(1.0, 1.0)
POINTS, ROUNDS = 9, 7  # of a grid of efficiencies in each direction; times that it is drawn closer around the best


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of dispatches at the peaks of a device: of arithmetic and of memory, one number per dispatch; of all
    launches. Each dispatch counts as often as it runs."""

    times: np.ndarray
    arithmetic: np.ndarray
    memory: np.ndarray
    launches: float

    @classmethod
    def of(cls, runs: Iterable[Run], target: str) -> Work:
        """What these runs do on a target."""
        roofline = roofline_of(predictable(target))
        found = [(run.times, cost) for run in runs for cost in costs(run.plan, roofline, PEAK)]
        return cls(
            np.array([times for times, _ in found]),
            np.array([cost.arithmetic for _, cost in found]),
            np.array([cost.memory for _, cost in found]),
            sum(times * cost.launch for times, cost in found),
        )

    def seconds(self, efficiencies: Efficiencies) -> float:
        """What it takes where kernels reach these parts of the peaks."""
        slower = np.maximum(self.arithmetic / efficiencies.arithmetic, self.memory / efficiencies.memory)
        return float(self.times @ slower) + self.launches


def works(figure: Published) -> tuple[Work, ...]:
    """What a figure is of: a picture's runs, a step's, or the step before and after the paper's optimizations."""
    checkpoint = Source(figure.model, random_weights=0).open()
    recipe = Recipe(target=predictable(figure.target))
    if figure.kind == REDUCTION:
        ends = paper_plans(checkpoint, recipe, counts=(COUNTS[0], COUNTS[-1]))
        return tuple(Work.of([Run(plan, 1)], figure.target) for plan in ends)
    picture = model_runs(checkpoint, recipe, figure.steps)
    if figure.kind == PICTURE:
        return (Work.of(picture.runs, figure.target),)
    denoiser = max(picture.runs, key=lambda run: run.times)
    return (Work.of([Run(denoiser.plan, 1)], figure.target),)


def predicted(work: Sequence[Work], efficiencies: Efficiencies) -> float:
    """What the model says of a figure."""
    first, *others = (one.seconds(efficiencies) for one in work)
    return reduction(first, others[0]) if others else first


def fit(figures: Sequence[tuple[Published, Sequence[Work]]], low: Efficiencies, high: Efficiencies) -> Efficiencies:
    """The efficiencies from `low` to `high` with the least sum of squared errors, a percent of a time as a point of a
    reduction's percent; to three digits."""

    def loss(efficiencies: Sequence[float]) -> float:
        given = Efficiencies(*efficiencies)
        return sum(replace(figure, predicted=predicted(work, given)).error ** 2 for figure, work in figures)

    least, most = np.array(astuple(low)), np.array(astuple(high))
    best, reach = (least + most) / 2, (most - least) / 2
    for _ in range(ROUNDS):
        axes = (
            np.linspace(max(a, c - r), min(b, c + r), POINTS)
            for a, b, c, r in zip(least, most, best, reach, strict=True)
        )
        best = np.array(min(itertools.product(*axes), key=loss))
        reach = reach / 2
    return Efficiencies(*(round(float(value), 3) for value in best))


def fitted(known: Constants) -> Constants:
    """The same with efficiencies and predictions of today's plans."""
    pairs = [(figure, works(figure)) for figure in known.published]
    efficiencies = fit([pair for pair in pairs if pair[0].fitted], known.low, known.high)
    published = [replace(figure, predicted=round(predicted(work, efficiencies), 3)) for figure, work in pairs]
    return replace(known, efficiencies=efficiencies, published=published)


def rows(known: Constants) -> list[tuple[str, ...]]:
    """The table of errors."""
    return [
        (
            f"{figure.what}: {figure.text}",
            figure.source,
            shown(figure.kind, figure.predicted),
            figure.error_text,
            "fit" if figure.fitted else "check",
        )
        for figure in known.published
    ]


def to_markdown(known: Constants) -> str:
    """The table for a page."""
    return markdown(HEAD, rows(known), left=2)


def write(known: Constants) -> None:
    """Put constants and predictions where they belong."""
    text = FILE.read_text()
    for name, value in asdict(known.efficiencies).items():  # the first of each name is in [fitted]
        text = re.sub(rf"^{name} = [0-9.]+", f"{name} = {value}", text, count=1, flags=re.MULTILINE)
    values = iter(known.published)
    text = re.sub(r"^predicted = [0-9.]+", lambda _: f"predicted = {next(values).predicted}", text, flags=re.MULTILINE)
    FILE.write_text(text)
    constants.cache_clear()  # the tables of commands are by what was just written
    page = OWN.sub(lambda found: f"{found[1]}{to_markdown(known)}\n{found[2]}", PAGE.read_text())
    PAGE.write_text(COMMANDS.sub(lambda found: f"{found[1]}{_printed(found[2])}{found[3]}", page))


def _printed(command: str) -> str:
    """What `ondevice COMMAND` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.main(command.split())
    assert code == 0, command
    return out.getvalue()


def main(argv: list[str] | None = None) -> int:
    """Print the table of errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the constants and the pages' tables")
    args = parser.parse_args(argv)
    known = fitted(constants())
    print(", ".join(f"{name} {value}" for name, value in asdict(known.efficiencies).items()))
    print("\n".join(columns([HEAD, *rows(known)], left=2)))
    if args.write:
        write(known)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
