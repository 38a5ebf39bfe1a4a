"""The plans of a bundle for one target: what its devices have no buffers for is left out, or done in bands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from ondevice.bundle.in_memory import weight_sources
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.weights import WeightSource
from ondevice.compiler.jobs import BAND, Job, band_jobs, left_out
from ondevice.compiler.picture import spec_of
from ondevice.compiler.programs import Compiled, programs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import Model
from ondevice.errors import PlanError
from ondevice.plan.plan import Plan
from ondevice.target import ALL, Limits

log = logging.getLogger(__name__)
# Bytes of a decoder's arena from which on a bundle has it in bands, too, if no step takes as much: where memory is
# short, decoding would be what a picture fails for.
LARGE = 128 << 20


@dataclass(slots=True)
class Planned:
    """What was made of some jobs. `rewrites`: what became of rules and methods, by component, at its first size.
    `multiplied`: how many nodes multiply in the recipe's math, where that is not float32."""

    plans: list[Plan] = field(default_factory=list)
    weights: dict[str, WeightSource] = field(default_factory=dict)
    rewrites: dict[str, dict[str, Any]] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    multiplied: int = 0

    def add(self, compiled: Compiled, plan: Plan) -> None:
        job = compiled.job
        self.rewrites.setdefault(job.component, compiled.rewrite)
        self.fallbacks += compiled.fallbacks
        self.multiplied += compiled.program.in_math.applied
        sizes = " ".join(f"{name}={size}" for name, size in job.sizes.items())
        log.info("%s %s: %s", job.component, sizes, compiled.tuned())
        self.plans.append(plan)
        self.weights = weight_sources(compiled.program) | self.weights


def planned_each(
    model: Model, recipe: Recipe, jobs: Sequence[Job], fallbacks: list[str], progress: Callable[[], None]
) -> list[tuple[Recipe, Planned]]:
    """What is planned for each target of a recipe, with a recipe of its own. Of several targets, those whose devices
    the model is too large for are left out.

    Args:
        fallbacks: gets a line for each fallback, and for each target that is left out.
        progress: called after each plan.

    Raises:
        PlanError: it is too large for every target; what is said is of the one with the largest buffers.
        OnDeviceError: a program cannot be made.
    """
    found: list[tuple[Recipe, Planned]] = []
    refusals: list[tuple[int, PlanError]] = []
    for one in recipe.each():
        try:
            made = planned(model, one, jobs, progress, bands=True)
        except PlanError as error:
            refusals.append((one.target.limits.allocation or 0, error))
            if recipe.others:
                fallbacks.append(f"{one.target.name}: {error.where}: {error.what} {recipe.name} has no plans for it")
                log.warning("%s", fallbacks[-1])
            continue
        fallbacks += [f"{one.target.name}: {line}" if recipe.others else line for line in made.fallbacks]
        found.append((one, made))
    if not found:
        raise max(refusals, key=itemgetter(0))[1]
    return found


def planned(
    model: Model, recipe: Recipe, jobs: Sequence[Job], progress: Callable[[], None], *, bands: bool = False
) -> Planned:
    """The plans of these jobs for the recipe's target, but for those that need larger buffers than its devices have.

    Args:
        progress: called after each plan.
        bands: a decoder of LARGE is there in bands, too.

    Raises:
        PlanError: a plan is too large that no picture can be drawn without.
        OnDeviceError: a program cannot be made.
    """
    spec, found, large = spec_of(model), Planned(), list[tuple[Job, str]]()
    todo: Iterable[Job] = jobs
    while todo := list(todo):
        for compiled in programs(model, recipe, todo):
            plan = compiled.plan()
            if reason := too_large(plan, recipe.target.limits):
                large.append((compiled.job, f"{reason} of {recipe.target.name}"))
            else:
                found.add(compiled, plan)
            progress()
        made = [Job(plan.component, plan.sizes) for plan in found.plans]
        decoders = [job for job, _ in large] + (_large_decoders(spec, recipe, found.plans) if bands else [])
        todo = [] if model.checkpoint.graphs else _in_bands(model, spec, made, decoders)
    try:
        found.fallbacks += left_out(spec, made, large)
    except PlanError as error:
        fix = _smaller_chunk(model, recipe, [job for job, _ in large if job.component == error.where]) or error.fix
        raise PlanError(error.what, where=f"{model.checkpoint.source}: {error.where}", fix=fix) from None
    return found


def _smaller_chunk(model: Model, recipe: Recipe, large: Sequence[Job]) -> str | None:
    """What to do about a decoder of films that is too `large`; None where that is not what these are, or where even
    one frame at a time is too large."""
    spec = spec_of(model)
    in_chunks = {role.component for role in (*spec.after, *spec.fast) if role.every == "chunk"}
    if not large or large[0].component not in in_chunks:
        return None

    def fits(job: Job, frames: int) -> bool:
        (compiled,) = programs(model, recipe, [Job(job.component, job.sizes | {"frames": frames})])
        return too_large(compiled.plan(), recipe.target.limits) is None

    fitting, too_many = 0, min(job.sizes["frames"] for job in large)
    least = [job for job in large if job.sizes["frames"] == too_many]  # one per size of picture
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if all(fits(job, middle) for job in least) else (fitting, middle)
    return f"use --decode-chunk {fitting}, or a smaller --size" if fitting else None


def too_large(plan: Plan, limits: Limits) -> str | None:
    """Which buffer of a plan is larger than a target's devices have; None if none is."""
    weights = ((f"weight {x.weight}", x.nbytes) for x in plan.operands if x.weight is not None)
    for what, nbytes in (("arena", plan.arena), *weights):
        if limits.allocation is not None and nbytes > limits.allocation:
            most = f"{limits.allocation / 1e6:,.1f} MB of a buffer"
            return f"its {what} of {nbytes / 1e6:,.1f} MB is over the {most}"
    return None


def _large_decoders(spec: PipelineSpec, recipe: Recipe, plans: Sequence[Plan]) -> list[Job]:
    """The decoders of LARGE, or more, that take more than any step does at their size."""
    if {"group_norm", "channels_last", ALL} & {*recipe.without}:
        return []  # there are no stages without these rules

    def at(plan: Plan) -> tuple[int, int]:
        return plan.sizes.get("width", 0), plan.sizes.get("height", 0)

    in_loop = {role.component for role in spec.loop_roles()}
    steps: dict[tuple[int, int], int] = {}
    for plan in plans:
        if plan.component in in_loop:
            steps[at(plan)] = max(plan.arena, steps.get(at(plan), 0))
    return [
        Job(plan.component, plan.sizes)
        for plan in plans
        if plan.component == spec.decoder.component
        and "stage" not in plan.sizes
        and plan.arena >= max(LARGE, steps.get(at(plan), 0))
    ]


def _in_bands(model: Model, spec: PipelineSpec, made: Sequence[Job], large: Sequence[Job]) -> list[Job]:
    """The stages of the decoders that are `large` in one piece, where they were not asked for."""
    scale, decoder = spec.latents.scale, spec.decoder.component
    if not model.in_bands(decoder):
        return []
    in_bands = {(job.sizes["width"], job.sizes["height"]) for job in [*made, *large] if "stage" in job.sizes}
    whole = {(job.sizes["width"], job.sizes["height"]) for job in large if job.component == decoder}
    sizes = [(width * scale, height * scale) for width, height in sorted(whole - in_bands)]
    return list(band_jobs(model, spec, sizes, BAND))
