"""Which devices do what of a picture: the passes of a step apart (`guidance`), and what goes between the devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ondevice.bundle.pipeline import PipelineSpec, Role
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.guidance import is_guided
from ondevice.diffusion.memory_budget import mb
from ondevice.errors import UsageError
from ondevice.run.passes_apart import OnOne, PassesApart

FLAG = "--parallel"
GUIDANCE = "guidance"
KINDS = (GUIDANCE,)
CUT = "name several, as --device 0,1, or cut a CPU in two with --device cpu/2"


@dataclass(frozen=True, slots=True)
class Layout:
    """How devices share a step: each pass of it is one group's. `ranks` are the devices of a group."""

    groups: int
    ranks: int = 1

    @property
    def devices(self) -> int:
        return self.groups * self.ranks

    def text(self) -> str:
        """What it is, for people."""
        return f"the passes of guidance on {self.groups} devices"


@dataclass(frozen=True, slots=True)
class Exchange:
    """Bytes that go between devices: in each step, and once a picture, before the first."""

    step: int
    once: int

    def text(self) -> str:
        return f"{_amount(self.step)} exchanged a step, {_amount(self.once)} once"


def layout_of(kind: str, devices: Sequence[str], spec: PipelineSpec) -> Layout:
    """How so many devices, by name, share the steps of a pipeline.

    Raises:
        UsageError: they are too few or too many, or there is nothing to share; says what there must be.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown (got {kind!r}, expected {' or '.join(KINDS)}).", where=FLAG, fix=f"use {GUIDANCE}")
    passes = max(len(loop.passes) for loop in spec.denoise)
    if len(devices) < 2:
        raise UsageError(f"it takes two devices or more (got {devices[0]} alone).", where=FLAG, fix=CUT)
    if passes < 2:
        what = "this model draws in one pass, without guidance, so there are no halves to share."
        raise UsageError(what, where=FLAG, fix=f"leave {FLAG} out")
    if len(devices) > passes:
        what = f"{len(devices)} devices for {passes} passes of guidance (expected at most {passes})."
        raise UsageError(what, where=FLAG, fix=f"name {passes} devices")
    return Layout(len(devices))


def shared(bundle: Bundle, layout: Layout, sessions: Sequence[OnOne]) -> PassesApart:
    """A runner of a bundle whose steps these sessions share, one for each device.

    Raises:
        UsageError: the bundle has no plans that run one pass.
    """
    parts = _parts(bundle.pipeline)
    for component in parts:
        if not any(entry.sizes.get("batch", 1) == 1 for entry in bundle.plans if entry.component == component):
            what = f"the bundle has no plan of {component} for one pass."
            raise UsageError(what, where=FLAG, fix="convert a checkpoint, or an export with a dynamic batch")
    return PassesApart(bundle, sessions, parts)


def check_guided(spec: PipelineSpec, numbers: Mapping[str, Any]) -> None:
    """Raises UsageError where no step takes more than one pass."""
    if not is_guided(spec, numbers):
        loop = next(loop for loop in spec.denoise if loop.guided is not None)
        assert loop.guided is not None
        above, name = loop.guided.above, loop.guided.number
        what = f"without guidance a step is one pass (got {name} {numbers[name]:g}, expected above {above:g})."
        raise UsageError(what, where=FLAG, fix=f"ask for guidance, or leave {FLAG} out")


def exchanged(bundle: Bundle, layout: Layout, width: int, height: int) -> Exchange:
    """What goes between devices for a picture of `width` by `height` latents with texts of one length.
    Raises BundleError where the bundle has no plans for it."""
    spec, step, once = bundle.pipeline, 0, 0
    loop = max(spec.denoise, key=lambda loop: len(loop.passes))
    away = sum(number % layout.groups > 0 for number in range(len(loop.passes)))
    before = {value for one in spec.before if isinstance(one, Role) for value in one.keep.values()}
    within = {value for role in loop.roles for value in role.keep.values()}
    for role in loop.roles:
        plan = bundle.plan(role.component, **_sizes(bundle, role.component, width, height))
        nbytes = {plan.operands[i].name: plan.operands[i].nbytes for i in (*plan.inputs, *plan.outputs)}
        for port, feed in role.feed.items():
            if feed.kind == "value" and feed.name in before:
                once += nbytes[port] * away
            elif feed.kind != "value" or feed.name not in within:
                step += nbytes[port] * away
        step += sum(nbytes[port] for port, value in role.keep.items() if value == loop.prediction) * away
    return Exchange(step, once)


def _sizes(bundle: Bundle, component: str, width: int, height: int) -> dict[str, int]:
    """Of the first plan of a component for one pass of a picture of this size."""
    place = {"batch": 1, "width": width, "height": height}
    fitting = (
        dict(entry.sizes)
        for entry in bundle.plans
        if entry.component == component and all(entry.sizes.get(name, size) == size for name, size in place.items())
    )
    return next(fitting, place)


def _amount(nbytes: int) -> str:
    return mb(nbytes) if nbytes >= 1e6 else f"{nbytes / 1e3:.1f} kB"


def _parts(spec: PipelineSpec) -> list[str]:
    return list(dict.fromkeys(role.component for role in spec.loop_roles()))
