"""The paper's ablation, timed: each component with the paper's optimizations added one after another,
on one device in one run.

The steps are those of the paper's table (partially fused softmax, GroupNorm and GELU as one command, FlashAttention,
Winograd), each a few families of our rules, and what this project does beyond them. Channels last stands before
Winograd because Winograd's kernels work on it. `ablation` has the same numbers but the time for every single family,
and needs no device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.base.columns import columns, markdown
from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.compiler.jobs import Job, largest_jobs, only
from ondevice.compiler.programs import programs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import Model, build
from ondevice.converters.component import Checkpoint, Component
from ondevice.lower.kernel_file import load_all
from ondevice.measure import Say
from ondevice.measure.ablation import ADDED, PLAIN, Step, step_of
from ondevice.run.device import Device
from ondevice.run.session import Session
from ondevice.run.timing import Timing, made_up, time_plan

STEPS = (  # what is added -> families of rules
    (PLAIN, ()),
    ("partially fused softmax", ("attention",)),
    ("GroupNorm and GELU", ("group_norm", "group_norm_silu", "gelu", "silu", "geglu")),
    ("FlashAttention", ("flash",)),
    ("channels last", ("channels_last",)),
    ("Winograd", ("winograd",)),
    ("all rules", ADDED),
)
HEAD = (
    "component", "optimizations", "ms", "spread", "of plain", "dispatches", "MB moved", "GFLOP", "arena MB", "max diff",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TimedStep:
    """A step's plan, its time, and how far its output is from the plain graph's,
    as a part of that one's largest value."""

    step: Step
    timing: Timing
    difference: float

    def row(self, model: str, target: str) -> dict[str, Any]:
        """As plain data."""
        name = f"ablation: {model} {self.timing.name} for {target}, {self.step.rules}"
        return {
            "kind": "ablation",
            **asdict(self.step),
            **self.timing.row(),
            "name": name,
            "difference": self.difference,
        }


def timed_ablation(
    checkpoint: Checkpoint,
    device: Device,
    recipe: Recipe,
    *,
    size: tuple[int, int] | None = None,
    component: str | None = None,
    repeat: int = 5,
    say: Say = lambda text: None,
) -> Iterator[TimedStep]:
    """Time every step of each component; sizes and arguments as `ablation.ablation` takes them.

    A component's weights are made or read once and shared by its steps; what each step packs out of them is given
    back after it.

    Args:
        repeat: runs to time, at least 3.

    Raises:
        UsageError: the size or the component cannot be had.
        DeviceError: the device failed, or a step does not fit its memory.
    """
    for job in only(largest_jobs(build(checkpoint), size), component):
        model, plain = build(kept(checkpoint, job.component)), None
        for count in range(len(STEPS)):
            say(f"{job.component}: {STEPS[count][0]}")
            timed, output = _timed(model, recipe, job, device, count, repeat)
            plain = output if plain is None else plain
            yield replace(timed, difference=float(np.abs(output - plain).max() / (np.abs(plain).max() or 1)))


def _timed(
    model: Model, recipe: Recipe, job: Job, device: Device, count: int, repeat: int
) -> tuple[TimedStep, np.ndarray]:
    """One step, and its output in float64."""
    on = {family for _, families in STEPS[: count + 1] for family in families}
    kernels = load_all()
    off = [name for name in ADDED if name not in on]
    (compiled,) = programs(model, replace(recipe, without=off), [job], kernels)
    plan = compiled.plan()
    session = Session(MemoryBundle([plan], weight_sources(compiled.program), kernels), device)
    (output, *_) = session.run(plan.component, made_up(plan), **plan.sizes).values()
    step = step_of(STEPS[count][0], compiled, plan)
    return TimedStep(step, time_plan(session, plan, repeat), 0.0), output.astype(np.float64)


def kept(checkpoint: Checkpoint, component: str) -> Checkpoint:
    """The checkpoint with the weights of one graph in memory; all others stay lazy."""
    part = build(checkpoint).family.roles[component].part
    if checkpoint.graphs:
        return checkpoint
    found = checkpoint.components[part]
    weights = {name: ir.tensor(tensor.numpy(), name=name) for name, tensor in found.weights.items()}
    return replace(checkpoint, components=checkpoint.components | {part: Component(found.config, weights)})


def to_text(steps: Sequence[TimedStep]) -> str:
    """A table to read in a terminal."""
    return "\n".join(columns([HEAD, *_rows(steps)], left=2))


def to_markdown(steps: Sequence[TimedStep]) -> str:
    """A table for a page."""
    return markdown(HEAD, _rows(steps), left=2)


def _rows(steps: Sequence[TimedStep]) -> Iterator[tuple[str, ...]]:
    plain: dict[str, float] = {}
    for timed in steps:
        step, ms = timed.step, timed.timing.median_ms
        first = plain.setdefault(step.component, ms)
        rules = step.rules if step.rules in (PLAIN, STEPS[-1][0]) else f"+ {step.rules}"
        spread = f"{timed.timing.spread:.2f}{'' if timed.timing.counts else ' (busy)'}"
        sums = (f"{step.moved / 1e6:,.1f}", f"{step.flops / 1e9:,.1f}", f"{step.arena / 1e6:,.1f}")
        yield (
            step.component,
            rules,
            f"{ms:,.1f}",
            spread,
            f"{ms / first:.2f}",
            f"{step.dispatches:,}",
            *sums,
            f"{timed.difference:.1e}",
        )
