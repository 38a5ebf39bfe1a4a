"""What devices that share a network would have of it each: the plans of its ranks, without a bundle."""

from __future__ import annotations

from ondevice.compiler.jobs import largest_jobs, only
from ondevice.compiler.picture import spec_of
from ondevice.compiler.programs import programs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.plan.plan import Plan


def shared_plans(
    checkpoint: Checkpoint, recipe: Recipe, size: tuple[int, int] | None = None, component: str | None = None
) -> list[tuple[Plan, list[Plan]]]:
    """Of each component of the loop the whole network's plan for all passes, and those of the recipe's ranks; none of
    what each device computes whole. No weight is read.

    Args:
        size: (width, height) in pixels; the training size by default.
        component: only this one, of whichever is there.

    Raises:
        UsageError: the ranks do not divide the network, or the size or the component cannot be had.
    """
    model = build(checkpoint, ranks=recipe.ranks)
    in_loop = list(dict.fromkeys(role.component for role in spec_of(model).loop_roles()))
    jobs = {job.component: job for job in largest_jobs(model, size)}
    chosen = [job.component for job in only(list(jobs.values()), component) if job.component in in_loop]
    wanted = [name for one in chosen for name in (one, *model.shares(one))]
    todo = [jobs[name] for name in wanted]
    plans = {found.job.component: found.plan() for found in programs(model, recipe, todo)}
    return [(plans[one], [plans[name] for name in model.shares(one)]) for one in chosen]
