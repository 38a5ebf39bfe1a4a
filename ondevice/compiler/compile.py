"""The whole way through: a checkpoint becomes a bundle. Each arrow of the design is one call here."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ondevice.bundle.format import SHARD_BYTES
from ondevice.bundle.writer import Contents, writable_target, write_bundle
from ondevice.bundle.writer_plans import TargetPlans
from ondevice.compiler.fallbacks import settle
from ondevice.compiler.jobs import bundle_jobs
from ondevice.compiler.picture import about, pipeline_of, scheduler_of, tables, tokenizers
from ondevice.compiler.planning import planned_each
from ondevice.compiler.recipe import Recipe
from ondevice.compiler.rounding import FACT, rounding
from ondevice.converters import Model, build
from ondevice.converters.component import Checkpoint
from ondevice.converters.read.adapter_names import modules_of
from ondevice.errors import UsageError
from ondevice.plan.plan import ALIGN, Plan
from ondevice.target import FP32

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]  # what, done, of


def compile_bundle(
    checkpoint: Checkpoint,
    out: Path,
    recipe: Recipe,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    sampler: str | None = None,
    strict: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Build, lower, plan and write every component of `checkpoint` at every size.

    Args:
        sizes: (width, height) in pixels; the size the model was trained at by default.
        sampler: what the bundle draws with by default; None: the checkpoint's own, or the nearest to it with a
            fallback that says so.
        strict: refuse fallbacks: parts of the checkpoint that are not used, matches that a rule left alone,
            general kernels.
        force: replace an existing bundle at `out`.

    Raises:
        OnDeviceError: any stage's error; nothing is left at `out` then but what was there before.
    """
    writable_target(out, force)
    model, fallbacks = build(checkpoint, ranks=recipe.ranks), list(checkpoint.notes)
    if strange := [name for name in recipe.weights_of if name not in model.roles]:
        what = f"the model has no component {strange[0]} (expected of {', '.join(model.roles)})."
        raise UsageError(what, where="--weights-of", fix="name one of these")
    scheduler = scheduler_of(model, sampler)
    fallbacks += [scheduler.fallback] if scheduler.fallback else []
    for line in (*scheduler.notes, *[scheduler.fallback] * bool(scheduler.fallback)):
        log.warning("%s: %s", checkpoint.source, line)
    todo = bundle_jobs(model, sizes, recipe.tile_vae, fallbacks, recipe.chunks, recipe.film)
    steps = itertools.count(0)

    def show() -> None:
        if progress:
            progress("planning", next(steps), len(todo) * len(recipe.each()))

    show()
    made = planned_each(model, recipe, todo, fallbacks, show)
    settle(fallbacks, strict)
    if recipe.math != FP32 and not any(found.multiplied for _, found in made):
        log.warning("%s has no kernel for products in %s: all are in %s", recipe.name, recipe.math, FP32)
    facts = about(checkpoint) | {"target": recipe.name} | ({"math": recipe.math} if recipe.math != FP32 else {})
    if recipe.weights:
        if progress:
            progress("measuring", 0, 1)
        if rounded := rounding(model, recipe, todo):
            facts |= {FACT: rounded.fact()}
    plans = [plan for _, found in made for plan in found.plans]
    targets = [TargetPlans(one.target.name, one.target.device_words, found.plans) for one, found in made]
    contents = Contents(
        weights={key: source for _, found in made for key, source in found.weights.items()},
        model=facts,
        scheduler=scheduler.config,
        samplers=tables(scheduler),
        tokenizers=tokenizers(checkpoint),
        pipeline=pipeline_of(
            model, {plan.component for plan in plans}, scheduler.sampler, scheduler.table.steps, _frames(model, plans)
        ),
        rewrites=made[0][1].rewrites,
        plans=() if recipe.others else plans,
        targets=targets if recipe.others else (),
        modules={} if checkpoint.graphs else modules_of(checkpoint),
        adapters=checkpoint.carried,
    )
    written = partial(progress, "writing weights") if progress else None
    largest = min(one.target.limits.allocation or SHARD_BYTES for one, _ in made)
    shard_bytes = min(SHARD_BYTES, largest) // ALIGN * ALIGN
    return write_bundle(out, contents, progress=written, force=force, shard_bytes=shard_bytes)


def _frames(model: Model, plans: Sequence[Plan]) -> int:
    """Of the first plan of a loop that draws films; 0 where there is none."""
    denoiser = model.pipeline()["denoise"][0]["roles"][-1]["run"]
    return next((plan.sizes["frames"] for plan in plans if plan.component == denoiser and "frames" in plan.sizes), 0)
