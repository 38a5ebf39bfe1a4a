"""The paper's ablation, predicted: a denoising step as its four optimizations are added one after another.

Its baseline is no plain graph but a fair GPU engine without those four: layouts, biases, activations and residuals are
fused, attention is two products and a softmax that reads and writes all scores, GroupNorm and GELU are chains of
commands, and every convolution is direct. So the baseline leaves out, of our rules and methods, those of the four and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ondevice.base.columns import columns, markdown
from ondevice.compiler.jobs import largest_jobs, only
from ondevice.compiler.picture import spec_of
from ondevice.compiler.programs import programs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.lower.kernel_file import load_all
from ondevice.measure.predict.constants import REDUCTION, constants
from ondevice.measure.predict.prediction import Total, part_of, roofline_of
from ondevice.measure.predict.runs import Run
from ondevice.plan.plan import Plan

BASELINE = "baseline"
OPTIMIZATIONS = {  # of the paper, in its order -> what `--without` calls them
    "partially fused softmax": ("attention",),
    "GroupNorm and GELU": ("group_norm", "group_norm_silu", "gelu", "geglu"),
    "FlashAttention": ("flash",),
    "Winograd": ("winograd",),
}
COUNTS = range(len(OPTIMIZATIONS) + 1)
HEAD = ("optimizations", "--without", "launches", "GFLOP", "MB moved", "ms", "reduction", "published")


@dataclass(frozen=True, slots=True)
class PaperStep:
    """A step of the denoiser with the first optimizations; `reduction` is by how much of the baseline it is shorter,
    in percent, and `published` what the paper says of it, where it does."""

    optimizations: str
    without: tuple[str, ...]
    total: Total
    reduction: float
    published: float | None


def paper_plans(
    checkpoint: Checkpoint, recipe: Recipe, size: tuple[int, int] | None = None, counts: Iterable[int] = COUNTS
) -> Iterator[Plan]:
    """The denoiser's plan as guidance runs it, with so many of the optimizations each: by default from none, which is
    the baseline, to all.

    Raises:
        UsageError: the size cannot be had.
    """
    model, kernels = build(checkpoint), load_all()
    denoiser = spec_of(model).denoise[0].roles[-1].component
    jobs = only(largest_jobs(model, size), denoiser)
    for count in counts:
        (compiled,) = programs(model, replace(recipe, without=left_out(count)), jobs, kernels)
        yield compiled.plan()


def left_out(count: int) -> tuple[str, ...]:
    """What stands after `--without` where the first `count` optimizations are on."""
    return tuple(word for words in list(OPTIMIZATIONS.values())[count:] for word in words)


def paper_ablation(checkpoint: Checkpoint, recipe: Recipe, size: tuple[int, int] | None = None) -> list[PaperStep]:
    """Every step, predicted for the recipe's target, a predictable one. Raises UsageError as `paper_plans`."""
    roofline, known = roofline_of(recipe.target), constants()
    totals = [
        part_of(Run(plan, 1), roofline, known.efficiencies).total for plan in paper_plans(checkpoint, recipe, size)
    ]
    figures = {figure.target: figure.value for figure in known.published if figure.kind == REDUCTION}
    published = [None] * len(OPTIMIZATIONS) + [figures.get(recipe.target.name)]
    names = [BASELINE, *(f"+ {name}" for name in OPTIMIZATIONS)]
    return [
        PaperStep(names[count], left_out(count), total, reduction(totals[0].seconds, total.seconds), published[count])
        for count, total in enumerate(totals)
    ]


def reduction(before: float, after: float) -> float:
    """Percent of the time before that is saved."""
    return (1 - after / before) * 100


def to_text(steps: Sequence[PaperStep]) -> str:
    """A table to read in a terminal."""
    return "\n".join([constants().about(), *columns([HEAD, *_rows(steps)], left=2)])


def to_markdown(steps: Sequence[PaperStep]) -> str:
    """A table for a page."""
    return markdown(HEAD, _rows(steps), left=2)


def to_json(steps: Sequence[PaperStep]) -> dict[str, Any]:
    """As plain data, with what the model says of itself."""
    return {"model": constants().about(), "steps": [asdict(step) for step in steps]}


def _rows(steps: Sequence[PaperStep]) -> Iterator[tuple[str, ...]]:
    for step in steps:
        yield (
            step.optimizations,
            " ".join(step.without),
            f"{step.total.launches:,}",
            f"{step.total.flops / 1e9:,.1f}",
            f"{step.total.moved / 1e6:,.1f}",
            f"{step.total.seconds * 1e3:,.1f}",
            "" if step is steps[0] else f"-{step.reduction:.1f} %",
            "" if step.published is None else f"-{step.published:.1f} %",
        )
