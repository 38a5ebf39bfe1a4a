"""What each family of fusion rules saves, added one after another in the rules' order.
From plans alone: exact, no device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ondevice.base.columns import columns, markdown
from ondevice.compiler.jobs import largest_jobs, only
from ondevice.compiler.programs import Compiled, programs
from ondevice.compiler.recipe import Recipe
from ondevice.compiler.report import of_plan
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.lower.kernel_file import load_all
from ondevice.plan.plan import Plan
from ondevice.rewrite import FUSIONS

PLAIN = "plain graph"
ADDED = (*FUSIONS, "flash", "winograd")  # the fusions in their order, then the paper's methods
HEAD = ("component", "rules", "nodes", "dispatches", "MB moved", "GFLOP", "arena MB")


@dataclass(frozen=True, slots=True)
class Step:
    """A component with the first families of rules."""

    component: str
    rules: str  # PLAIN, or the family that was added last
    nodes: int
    dispatches: int
    moved: int  # bytes
    flops: int
    arena: int  # bytes

    @property
    def numbers(self) -> tuple[int, ...]:
        return self.nodes, self.dispatches, self.moved, self.flops, self.arena


def ablation(
    checkpoint: Checkpoint, recipe: Recipe, *, size: tuple[int, int] | None = None, component: str | None = None
) -> Iterator[Step]:
    """Each component without any rule, then with one family more at a time until all are on;
    arguments as `report.of_model`'s.

    Args:
        recipe: its `without` is replaced step by step.
    """
    model, kernels = build(checkpoint), load_all()
    for job in only(largest_jobs(model, size), component):
        for count in range(len(ADDED) + 1):
            (compiled,) = programs(model, replace(recipe, without=ADDED[count:]), [job], kernels)
            yield step_of(ADDED[count - 1] if count else PLAIN, compiled, compiled.plan())


def step_of(rules: str, compiled: Compiled, plan: Plan) -> Step:
    """A step's numbers, out of its plan."""
    nodes, report = compiled.fused.rewrite["nodes"][1], of_plan(plan)
    return Step(plan.component, rules, nodes, len(report.rows), report.moved, report.total("flops"), report.arena or 0)


def to_json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Every step, those that change nothing, too."""
    return [asdict(step) for step in steps]


def to_text(steps: Sequence[Step]) -> str:
    """A table to read in a terminal."""
    return "\n".join(columns([HEAD, *_rows(steps)], left=2))


def to_markdown(steps: Sequence[Step]) -> str:
    """A table for a page."""
    return markdown(HEAD, _rows(steps), left=2)


def _rows(steps: Sequence[Step]) -> Iterator[tuple[str, ...]]:
    """The steps that change something, and the last one as the sum of all."""
    shown: Step | None = None
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        starts = shown is None or shown.component != step.component
        if starts or (shown is not None and step.numbers != shown.numbers):
            yield _row(step, step.rules if step.rules == PLAIN else f"+ {step.rules}")
            shown = step
        if after is None or after.component != step.component:
            yield _row(step, "all rules")


def _row(step: Step, rules: str) -> tuple[str, ...]:
    sums = (f"{step.moved / 1e6:,.1f}", f"{step.flops / 1e9:,.1f}", f"{step.arena / 1e6:,.1f}")
    return step.component, rules, f"{step.nodes:,}", f"{step.dispatches:,}", *sums
