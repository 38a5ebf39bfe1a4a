"""Which devices do what of a picture, and what goes between them: the passes of a step apart (`guidance`), or each pass
on all of them, which have a share of the network each (`tensor`), or both (docs/parallel.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ondevice.bundle.pipeline import PipelineSpec, Role
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.guidance import is_guided
from ondevice.diffusion.memory_budget import mb
from ondevice.errors import UsageError
from ondevice.graph.ranks import MOST, Rank, component_of
from ondevice.plan.plan import Plan
from ondevice.run.device import Device
from ondevice.run.passes_apart import OnOne, PassesApart
from ondevice.run.ranks import SUM_KERNEL, Ranks, Share
from ondevice.run.several import kept

FLAG = "--parallel"
GUIDANCE, TENSOR = "guidance", "tensor"
BOTH = f"{GUIDANCE},{TENSOR}"
KINDS = (GUIDANCE, TENSOR, BOTH)
CUT = "name several, as --device 0,1, or cut a CPU in two with --device cpu/2"


@dataclass(frozen=True, slots=True)
class Layout:
    """How devices share a step: each pass of it is one group's. `ranks` are the devices of a group, which share the
    network."""

    groups: int
    ranks: int = 1

    def text(self) -> str:
        """What it is, for people."""
        parts = [f"the passes of guidance on {self.groups}"] * (self.groups > 1)
        parts += [f"{'each on' if parts else 'each step on'} {self.ranks} that share the network"] * (self.ranks > 1)
        return f"{', '.join(parts)} devices" if self.ranks == 1 else f"{', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """Bytes that go between devices: in each step, and once a picture, before the first; `sums` are those of a step
    that devices end together."""

    step: int
    once: int
    sums: int = 0

    def text(self) -> str:
        sums = f" for {self.sums} sums" if self.sums else ""
        return f"{_amount(self.step)} exchanged a step{sums}, {_amount(self.once)} once"


def ranks_of(text: str) -> int:
    """How many devices are to share the network, as plans are asked for: "tensor" is two, "tensor:3" three, "" one.
    Raises UsageError for anything else."""
    if not text:
        return 1
    kind, colon, count = text.partition(":")
    if kind != TENSOR or (colon and not (count.isdecimal() and count.isascii() and len(count) < 4)):
        what = f"{text[:60]!r} is not {TENSOR} or {TENSOR}:N."
        raise UsageError(what, where=FLAG, fix=f"use {TENSOR}:2; {FLAG} {GUIDANCE} of `generate` needs no plans")
    if colon and not 2 <= int(count) <= MOST:
        what = f"not a number of ranks (got {int(count)}, expected 2 to {MOST})."
        raise UsageError(what, where=FLAG, fix=f"use {TENSOR}:2")
    return int(count) if colon else 2


def layout_of(kind: str, devices: Sequence[str], spec: PipelineSpec) -> Layout:
    """How so many devices, by name, share the steps of a pipeline.

    Raises:
        UsageError: they are too few or too many, or there is nothing to share; says what there must be.
    """
    if kind not in KINDS:
        what = f"unknown (got {kind!r}, expected {', '.join(KINDS[:-1])} or {KINDS[-1]})."
        raise UsageError(what, where=FLAG, fix=f"use {GUIDANCE}")
    count, passes = len(devices), max(len(loop.passes) for loop in spec.denoise)
    if count < 2:
        raise UsageError(f"it takes two devices or more (got {devices[0]} alone).", where=FLAG, fix=CUT)
    if kind == TENSOR:
        return Layout(1, count)
    if passes < 2:
        what = "this model draws in one pass, without guidance, so there are no halves to share."
        raise UsageError(what, where=FLAG, fix=f"use {TENSOR}, or leave {FLAG} out")
    if kind == GUIDANCE:
        if count > passes:
            what = f"{count} devices for {passes} passes of guidance (expected at most {passes})."
            raise UsageError(what, where=FLAG, fix=f"name {passes} devices, or use {BOTH} with {2 * passes}")
        return Layout(count)
    if count < 2 * passes or count % passes:
        what = f"{count} devices for {passes} passes, each on several (expected {2 * passes}, or another multiple of "
        what += f"{passes} above that)."
        fix = f"use {GUIDANCE} or {TENSOR} alone" if count < 2 * passes else f"name {count // passes * passes} devices"
        raise UsageError(what, where=FLAG, fix=fix)
    return Layout(passes, count // passes)


def shared(
    bundle: Bundle, layout: Layout, devices: Sequence[Device], alone: Callable[[Device], OnOne], check: bool = False
) -> PassesApart | Ranks:
    """A runner of a bundle whose steps these devices share.

    Args:
        alone: makes the session of a device that runs whole passes.
        check: of others: stop at the first value that is not finite.

    Raises:
        UsageError: the bundle has no plans that run one pass, or none for so many ranks.
    """
    spec = bundle.pipeline
    parts = list(dict.fromkeys(role.component for role in spec.loop_roles()))
    for component in parts if layout.groups > 1 else ():
        if not any(entry.sizes.get("batch", 1) == 1 for entry in bundle.plans if entry.component == component):
            what = f"the bundle has no plan of {component} for one pass."
            raise UsageError(what, where=FLAG, fix="convert a checkpoint, or an export with a dynamic batch")
    if layout.ranks == 1:
        return kept(PassesApart(bundle, [alone(device) for device in devices], parts))
    if not any(component_of(component, Rank(0, layout.ranks)) in bundle.components for component in parts):
        what = f"the bundle has no plans for {layout.ranks} devices that share the network."
        raise UsageError(what, where=FLAG, fix=f"convert the checkpoint again with {FLAG} {TENSOR}:{layout.ranks}")
    groups = []
    for first in range(0, len(devices), layout.ranks):
        group = devices[first : first + layout.ranks]
        ranks = [Rank(number, layout.ranks) for number in range(layout.ranks)]
        shares = [Share(bundle, one, rank, check=check) for one, rank in zip(group, ranks, strict=True)]
        groups.append(Ranks(bundle, shares, parts))
    return kept(groups[0] if layout.groups == 1 else PassesApart(bundle, groups, parts))


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
    spec = bundle.pipeline
    loop = max(spec.denoise, key=lambda loop: len(loop.passes))
    count = len(loop.passes) if layout.groups > 1 else 1  # runs of each component in a step
    batch = len(loop.passes) // count
    before = {value for one in spec.before if isinstance(one, Role) for value in one.keep.values()}
    within = {value for role in loop.roles for value in role.keep.values()}
    step, once, sums = 0, 0, 0
    for role in loop.roles:
        sizes = sizes_of(bundle, role.component, batch, width, height)
        plan = bundle.plan(role.component, **sizes)
        nbytes = {plan.operands[i].name: plan.operands[i].nbytes for i in (*plan.inputs, *plan.outputs)}
        away = sum(number % layout.groups > 0 for number in range(count))
        given = away + count * (layout.ranks - 1)  # how often what a run reads goes to another device
        for port, feed in role.feed.items():
            if feed.kind == "value" and feed.name in before:
                once += nbytes[port] * given
            elif feed.kind != "value" or feed.name not in within:
                step += nbytes[port] * given
        step += sum(nbytes[port] for port, value in role.keep.items() if value == loop.prediction) * away
        share = component_of(role.component, Rank(0, layout.ranks))
        if layout.ranks > 1 and share in bundle.components:
            summed = sums_of(bundle.plan(share, **sizes))
            sums += len(summed)
            step += sum(nbytes for _, nbytes in summed) * layout.ranks**2 * count  # each gives one, gets all others
    return Exchange(step, once, sums)


def sums_of(plan: Plan) -> list[tuple[str, int]]:
    """Node and bytes of each sum of a rank's plan."""
    sums = (one for one in plan.dispatches if plan.kernels[one.kernel].file == SUM_KERNEL)
    return [(one.node, plan.operands[one.operands[0]].nbytes) for one in sums]


def sizes_of(bundle: Bundle, component: str, batch: int, width: int, height: int) -> dict[str, int]:
    """Of the first plan of a component for so many passes of a picture of this size."""
    place = {"batch": batch, "width": width, "height": height}
    fitting = (
        dict(entry.sizes)
        for entry in bundle.plans
        if entry.component == component and all(entry.sizes.get(name, size) == size for name, size in place.items())
    )
    return next(fitting, place)


def _amount(nbytes: int) -> str:
    return mb(nbytes) if nbytes >= 1e6 else f"{nbytes / 1e3:.1f} kB"
