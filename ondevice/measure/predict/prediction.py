"""What a picture takes on a target: of a model, whose plans are made for it, or of a bundle that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.reader import Bundle
from ondevice.compiler.jobs import bundle_jobs
from ondevice.compiler.picture import spec_of
from ondevice.compiler.planning import planned
from ondevice.compiler.recipe import Recipe
from ondevice.compiler.report import entries
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.diffusion.memory_budget import default_size
from ondevice.errors import UsageError
from ondevice.measure.predict.constants import Efficiencies, constants
from ondevice.measure.predict.cost import CLASSES, Cost, costs
from ondevice.measure.predict.runs import Run, Sizes, picture_runs
from ondevice.plan.plan import Plan
from ondevice.target import Roofline, Target, load_target, target_names


@dataclass(frozen=True, slots=True)
class Total:
    """Sums over dispatches, of one class or of all, in seconds and bytes.

    `seconds` are those `for_arithmetic` and `for_bytes`, each of the dispatches where it decides, and of launching.
    `for_weights` is the part of `for_bytes` of dispatches that mostly read weights.
    """

    launches: int
    flops: int
    moved: int
    seconds: float
    for_arithmetic: float
    for_bytes: float
    for_weights: float

    @classmethod
    def of(cls, found: Sequence[Cost]) -> Total:
        return cls(
            launches=len(found),
            flops=sum(cost.flops for cost in found),
            moved=sum(cost.moved for cost in found),
            seconds=sum(cost.seconds for cost in found),
            for_arithmetic=sum(cost.arithmetic for cost in found if not cost.for_bytes),
            for_bytes=sum(cost.for_bytes for cost in found),
            for_weights=sum(cost.for_bytes for cost in found if 2 * cost.weights > cost.moved),
        )

    @property
    def launching(self) -> float:
        """Seconds."""
        return self.seconds - self.for_arithmetic - self.for_bytes


@dataclass(frozen=True, slots=True)
class Part:
    """One plan: a run of it by class of ops, and how often a picture runs it."""

    component: str
    sizes: Sizes
    times: int
    classes: dict[str, Total]  # those of CLASSES that it has, in their order
    total: Total

    @property
    def seconds(self) -> float:
        """Of a picture."""
        return self.times * self.total.seconds


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture runs. `size` is (width, height) in pixels."""

    size: tuple[int, int]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a picture takes on a target, plan by plan."""

    target: str
    steps: int
    size: tuple[int, int]  # pixels: width, height
    parts: Sequence[Part]

    @property
    def seconds(self) -> float:
        """Of the whole picture."""
        return sum(part.seconds for part in self.parts)


def of_model(checkpoint: Checkpoint, recipe: Recipe, steps: int, size: tuple[int, int] | None = None) -> Prediction:
    """A picture by plans that are made for the recipe's target, a predictable one; as `model_runs` makes them."""
    return _prediction(recipe.target, model_runs(checkpoint, recipe, steps, size), steps)


def model_runs(checkpoint: Checkpoint, recipe: Recipe, steps: int, size: tuple[int, int] | None = None) -> Picture:
    """The plans of a picture, made for the recipe's target.

    Args:
        size: (width, height) in pixels; the size that the model was trained at by default.

    Raises:
        UsageError: the size cannot be had.
        OnDeviceError: a plan cannot be made.
    """
    model = build(checkpoint)
    spec = spec_of(model)
    jobs = [
        job
        for job in bundle_jobs(model, [size] if size else [], recipe.tile_vae, [])
        if not spec.begins_from_picture(job.component)
    ]
    place = next({name: job.sizes[name] for name in ("height", "width")} for job in jobs if "width" in job.sizes)
    plans = planned(model, recipe, jobs, lambda: None).plans

    def plan_of(component: str, sizes: Sizes) -> Plan:
        return next(plan for plan in plans if (plan.component, plan.sizes) == (component, sizes))

    have = [(plan.component, plan.sizes) for plan in plans]
    return Picture(_pixels(spec, place), tuple(picture_runs(spec, have, plan_of, place, steps)))


def of_bundle(bundle: Bundle, target: Target, steps: int, size: tuple[int, int] | None = None) -> Prediction:
    """A picture by a bundle's own plans.

    Args:
        target: a predictable one.
        size: (width, height) in pixels; the bundle's first by default.

    Raises:
        UsageError: the bundle has no plans for it, or not all that a picture runs.
        BundleError: it has none of this size, or is damaged.
    """
    bundle, spec = _with_plans(bundle, target.name), bundle.pipeline
    if size is not None:
        entries(bundle, size)
    width, height = size or default_size(bundle)
    place = {"height": height // spec.latents.scale, "width": width // spec.latents.scale}
    have = [(entry.component, entry.sizes) for entry in bundle.plans]
    found = picture_runs(spec, have, lambda component, sizes: bundle.plan(component, **sizes), place, steps)
    return _prediction(target, Picture(_pixels(spec, place), tuple(found)), steps)


def _with_plans(bundle: Bundle, target: str) -> Bundle:
    """The bundle with its plans for a target. Raises UsageError where it has none."""
    named = [one.name for one in bundle.manifest.targets]
    have = named or [str(bundle.model.get("target"))]
    if target not in have:
        model = f"`ondevice bench {bundle.model['family']} --predict {target}`"
        what = f"{bundle.path.name} has no plans for {target} (it has those for {', '.join(have)})."
        fix = f"convert again with `--target {target}`, or name the model: {model}"
        raise UsageError(what, where="--predict", fix=fix)
    return bundle.for_target(target) if named else bundle


def predictable(name: str) -> Target:
    """The target of that name. Raises UsageError where there is none, or its file has no roofline."""
    known = [other for other in target_names() if load_target(other).roofline is not None]
    if name not in known:
        why = "says nothing of what its devices reach" if name in target_names() else "is unknown"
        raise UsageError(f"target {name!r} {why} (expected one of {', '.join(known)}).", where="--predict")
    return load_target(name)


def roofline_of(target: Target) -> Roofline:
    """What the devices of a predictable target reach at best."""
    assert target.roofline is not None, "`predictable` asks for it"
    return target.roofline


def part_of(run: Run, roofline: Roofline, efficiencies: Efficiencies) -> Part:
    """What a run takes, by class of ops."""
    found = list(costs(run.plan, roofline, efficiencies))
    by_class = {name: [cost for cost in found if cost.op_class == name] for name in CLASSES}
    classes = {name: Total.of(own) for name, own in by_class.items() if own}
    return Part(run.plan.component, run.plan.sizes, run.times, classes, Total.of(found))


def _prediction(target: Target, picture: Picture, steps: int) -> Prediction:
    roofline, efficiencies = roofline_of(target), constants().efficiencies
    parts = [part_of(run, roofline, efficiencies) for run in picture.runs]
    return Prediction(target.name, steps, picture.size, parts)


def _pixels(spec: PipelineSpec, place: Sizes) -> tuple[int, int]:
    return place["width"] * spec.latents.scale, place["height"] * spec.latents.scale
