"""Which plans a picture runs, and how often, as its pipeline says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ondevice.bundle.pipeline import PipelineSpec, Role
from ondevice.bundle.stages import check_fit, stage_of
from ondevice.diffusion.bands import bands
from ondevice.diffusion.guidance import passes_in_use
from ondevice.errors import UsageError
from ondevice.plan.plan import Plan

Sizes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Run:
    """A plan, and how often one picture runs it."""

    plan: Plan
    times: int


def picture_runs(
    spec: PipelineSpec,
    have: Iterable[tuple[str, Sizes]],
    plan_of: Callable[[str, Sizes], Plan],
    place: Sizes,
    steps: int,
) -> Iterator[Run]:
    """The plans that a picture from a prompt alone runs, in the pipeline's order; a decoder in bands by its stages.

    What is run per call does so with the passes of the pipeline's own numbers: all at once where there is a plan of so
    many, else one after another. What is run per text does so for each text of those passes.

    Args:
        have: component and sizes of each plan that there is.
        plan_of: gives one of them.
        place: height and width of the picture in latent units.
        steps: calls of the denoiser.

    Raises:
        UsageError: a component has no plan of this size.
    """
    fitting: dict[str, list[Sizes]] = {}
    for component, sizes in have:
        if not sizes.keys() & place.keys() or place.items() <= sizes.items():
            fitting.setdefault(component, []).append(sizes)
    defaults = {name: number.default for name, number in spec.numbers.items()}
    numbers = {name: float(default) for name, default in defaults.items() if isinstance(default, int | float)}
    texts = {one.text for loop in spec.denoise for one in passes_in_use(loop, numbers) if one.text is not None}

    def runs(role: Role, batch: int, times: int) -> Iterator[Run]:
        sizes = fitting.get(role.component, [])
        whole = [one for one in sizes if "stage" not in one]
        whole.sort(key=lambda one: -one.get("tokens", 0))  # a prompt of one chunk
        found = {one.get("batch", 1): one for one in whole if one.get("batch", 1) in (1, batch)}
        if found:
            largest = max(found)
            yield Run(plan_of(role.component, found[largest]), times * batch // largest)
        elif stages := _stages(sizes):
            yield from _in_bands([plan_of(role.component, one) for one in stages], times)
        else:
            asked = " ".join(f"{name}={size}" for name, size in {"batch": batch, **place}.items())
            fix = "convert the checkpoint again"
            raise UsageError(f"there is no plan of {role.component} at {asked}.", where="--predict", fix=fix)

    for step in spec.before:
        if isinstance(step, Role) and not spec.begins_from_picture(step.component):
            given = [text for text in texts if not (spec.texts.get(text, False) and _zeros_where_absent(step))]
            yield from runs(step, 1, len(given) if step.every == "text" else 1)
    for loop in spec.denoise:
        start, end = (part if isinstance(part, float | int) else numbers[part] for part in (loop.start, loop.end))
        calls = sum(start <= call / steps < end for call in range(steps))
        for role in loop.roles:
            yield from runs(role, len(passes_in_use(loop, numbers)), calls)
    for role in spec.after:
        yield from runs(role, 1, 1)


def _zeros_where_absent(role: Role) -> bool:
    """Whether a text that is not given is not run, and zeros are taken instead."""
    return any(feed.kind == "tokens" and feed.absent == "zeros" for feed in role.feed.values())


def _stages(sizes: Sequence[Sizes]) -> list[Sizes]:
    """The stages of the highest bands, in order."""
    rows = max((one["rows"] for one in sizes if "stage" in one), default=0)
    return sorted((one for one in sizes if one.get("rows") == rows and rows), key=lambda one: one["stage"])


def _in_bands(plans: Sequence[Plan], times: int) -> Iterator[Run]:
    """The first stage works on the whole picture, each other one on one band of it after another."""
    stages = [stage_of(plan) for plan in plans]
    whole = check_fit(stages)
    yield Run(plans[0], times)
    for plan, stage in zip(plans[1:], stages[1:], strict=True):
        least = min(stage.pictures, key=lambda name: whole[name][1])
        yield Run(plan, times * len(bands(whole[least][1], stage.inputs[least][1])))
