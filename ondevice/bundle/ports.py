"""What the components of a pipeline take and make: names, dtypes and shapes.
The specification is docs/pipeline.md, "Ports".

Checked when a plan is read, so that nothing runs before both ends of it are known to be what the pipeline
passes and expects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ondevice.bundle import format as f
from ondevice.bundle.manifest import TokenizerEntry
from ondevice.bundle.pipeline import LATENTS, TIMESTEP, Feed, PipelineSpec, Role, Sample
from ondevice.bundle.stages import STATISTICS, check_fit, stage_of, where
from ondevice.errors import BundleError
from ondevice.plan.plan import Operand, Plan

Shape = tuple[int, ...]
Type = tuple[str, Shape]
PLACE = frozenset({"batch", "height", "width"})
STAGE_SIZES = PLACE | {"stage", "rows"}
RUN_SIZES = PLACE | {"frames", "tokens"}  # that a pipeline asks for; a plan has some of them
CLIP_VISION = 224  # pixels per side of what `clip_vision` prepares


class Described(Protocol):
    """What says how plans make a picture: a bundle's manifest, or an export's."""

    @property
    def pipeline(self) -> PipelineSpec | None: ...

    @property
    def tokenizers(self) -> Mapping[str, TokenizerEntry]: ...


@dataclass(slots=True)
class Seen:
    """Types of values, as the plans that were read have them: by value, at which sizes, and the type in one pass."""

    values: dict[str, list[tuple[Mapping[str, int], Type]]] = field(default_factory=dict)

    def find(self, value: str, sizes: Mapping[str, int]) -> Type | None:
        """The type of a value where all sizes that two plans have are the same."""
        for other, found in self.values.get(value, []):
            if all(sizes.get(name, size) == size for name, size in other.items() if name != "batch"):
                return found
        return None

    def add(self, value: str, sizes: Mapping[str, int], found: Type) -> None:
        if self.find(value, sizes) is None:
            self.values.setdefault(value, []).append((sizes, found))


def check_ports(plan: Plan, file: str, manifest: Described, seen: Seen) -> None:
    """Refuse a plan of a component that the pipeline runs with other inputs or outputs
    than the pipeline passes and expects.

    Components that it does not run, and sizes that it does not ask for, pass.

    Args:
        seen: what plans read before have settled; this one adds to it.

    Raises:
        BundleError: an input or output is missing, unknown, or of another dtype or shape.
    """
    spec = manifest.pipeline
    if spec is None:
        return
    check = f.Checker(file)
    if plan.sizes.keys() == STAGE_SIZES:
        role = next((role for role in spec.after if role.component == plan.component), None)
        if role is not None:
            _check_stage(check, plan, spec, role)
        return
    if plan.sizes.keys() <= RUN_SIZES:
        for role in spec.roles():
            if role.component == plan.component:
                _check_run(check, plan, role, manifest, seen)


def _check_run(check: f.Checker, plan: Plan, role: Role, manifest: Described, seen: Seen) -> None:
    spec = manifest.pipeline
    assert spec is not None
    batch = plan.sizes.get("batch", 1)
    for name, indices, wanted in (("inputs", plan.inputs, role.feed), ("outputs", plan.outputs, role.keep)):
        given = {plan.operands[index].name: plan.operands[index] for index in indices}
        _same_names(check, name, given, wanted)
    operands = {operand.name: operand for operand in plan.operands}
    tokens = plan.sizes.get("tokens", 0)
    lengths = _lengths(manifest) if tokens else {}
    if any(tokens % length for length in lengths.values()):
        check.fail(f"is {tokens} (expected a multiple of {max(lengths.values())})", "sizes", ("tokens",))
    for port, feed in role.feed.items():
        operand = operands[port]
        if tokens and feed.kind == "value" and feed.name in lengths:
            _check_joined(check, plan, operand, feed.name, lengths[feed.name], seen)
            continue
        expected = _fed(feed, plan.sizes, manifest, seen)
        if expected is not None:
            dtype, shape = expected
            once = feed.kind == "value" and feed.name == TIMESTEP  # the same in all passes
            in_passes = shape if once else (batch * shape[0], *shape[1:])
            _same(check, "inputs", operand, dtype, in_passes)
        else:
            seen.add(feed.name, plan.sizes, _in_one_pass(check, "inputs", operand, batch))
    for port, value in role.keep.items():
        operand = operands[port]
        expected = _made(value, plan.sizes, spec, seen)
        if expected is not None:
            _same(check, "outputs", operand, expected[0], (batch * expected[1][0], *expected[1][1:]))
        else:
            seen.add(value, plan.sizes, _in_one_pass(check, "outputs", operand, batch))


def _lengths(manifest: Described) -> dict[str, int]:
    """Of each value that is made of a text's tokens: how many a text encoder takes at once."""
    spec = manifest.pipeline
    assert spec is not None
    tokens = ((role, feed) for role in spec.roles() for feed in role.feed.values() if feed.kind == "tokens")
    return {value: manifest.tokenizers[feed.name].length for role, feed in tokens for value in role.keep.values()}


def _check_joined(check: f.Checker, plan: Plan, operand: Operand, value: str, length: int, seen: Seen) -> None:
    """Of a plan for texts of several chunks: what is [1, length, width] of one chunk has all `tokens` of the plan; what
    has another shape is that of the first chunk."""
    batch, tokens = plan.sizes.get("batch", 1), plan.sizes["tokens"]
    place = {name: size for name, size in plan.sizes.items() if name != "tokens"}
    found = seen.find(value, place)
    if found is None:
        dtype, shape = _in_one_pass(check, "inputs", operand, batch)
        found = dtype, (1, length, *shape[2:]) if len(shape) == 3 and shape[:2] == (1, tokens) else shape
        seen.add(value, place, found)
    dtype, (first, *rest) = found
    if len(rest) == 2 and (first, rest[0]) == (1, length):
        rest[0] = tokens
    _same(check, "inputs", operand, dtype, (batch * first, *rest))


def _in_one_pass(check: f.Checker, field: str, operand: Operand, batch: int) -> Type:
    if not operand.shape or operand.shape[0] % batch:
        check.fail(f"has {_shown(operand)} (expected {batch} equal parts, one per pass)", field)
    return operand.dtype, (operand.shape[0] // batch, *operand.shape[1:])


def _fed(feed: Feed, sizes: Mapping[str, int], manifest: Described, seen: Seen) -> Type | None:
    """What a feed gives in one pass; None where only another plan says it."""
    spec = manifest.pipeline
    assert spec is not None
    height, width = (sizes.get(side, 0) for side in ("height", "width"))
    scale = spec.latents.scale
    if feed.kind == "tokens":
        return "i32", (1, manifest.tokenizers[feed.name].length)
    if feed.kind == "numbers":
        return "f32", (1, len(feed.numbers))
    if feed.kind == "picture":
        prepare = spec.pictures[feed.name].prepare
        if prepare == "clip_vision":
            return "f32", (1, 3, CLIP_VISION, CLIP_VISION)
        return "f32", (1, 1, height, width) if prepare == "mask" else (1, 3, scale * height, scale * width)
    if feed.name == TIMESTEP:
        return "f32", (1,)
    return _made(feed.name, sizes, spec, seen)


def _made(value: str, sizes: Mapping[str, int], spec: PipelineSpec, seen: Seen) -> Type | None:
    """The type of a value in one pass, where the pipeline or a plan that was read says it."""
    frames, base = sizes.get("frames", 1), spec.latents
    height, width = (sizes.get(side, 0) for side in ("height", "width"))
    if value == LATENTS or any(value == loop.prediction for loop in spec.denoise):
        return "f32", (frames, base.channels, height, width)
    if value == spec.gives:
        return "f32", (frames, 3, base.scale * height, base.scale * width)
    for step in _samples(spec):
        if value == step.moments:
            return "f32", (1, 2 * base.channels, height, width)
        if value == step.keep:
            return "f32", (1, base.channels, height, width)
    return seen.find(value, sizes)


def _samples(spec: PipelineSpec) -> Iterator[Sample]:
    yield from (step for step in spec.before if isinstance(step, Sample))


def check_stages(plans: Sequence[Plan], spec: PipelineSpec) -> None:
    """Refuse stages of a decoder in bands, in order and each within `check_ports`,
    that do not fit each other or the decoder.

    Raises:
        BundleError: with the stage that is wrong.
    """
    stages = [stage_of(plan) for plan in plans]
    whole = check_fit(stages)
    types: dict[str, str] = {}
    for plan in plans:
        for operand in (plan.operands[i] for i in plan.inputs):
            if operand.name in types and operand.dtype != types[operand.name]:
                what = f"{operand.name[:60]} is {operand.dtype}, and was made as {types[operand.name]}."
                raise BundleError(what, where=where(plan.component, plan.sizes), fix="convert the checkpoint again")
        out = plan.operands[plan.outputs[0]]
        types[out.name] = out.dtype
    height, width = (spec.latents.scale * plans[0].sizes[side] for side in ("height", "width"))
    result = next(role for role in spec.after if role.component == plans[0].component).keep
    for stage in stages:
        _, high, wide, _ = whole[stage.output]
        if high > height or wide > width:
            what = f"it makes a picture of {wide}x{high} (expected at most {width}x{height})."
            raise BundleError(what, where=where(stage.component, stage.sizes), fix="convert the checkpoint again")
    last = stages[-1]
    if last.output not in result or whole[last.output] != (1, height, width, 3):
        what = (
            f"the last stage makes {last.output[:60]} {list(whole[last.output])} (expected {', '.join(result)} "
            f"{[1, height, width, 3]})."
        )
        raise BundleError(what, where=where(last.component, last.sizes), fix="convert the checkpoint again")


def _check_stage(check: f.Checker, plan: Plan, spec: PipelineSpec, role: Role) -> None:
    """One stage by itself: the first reads latents; others read pictures, and means and variances in pairs.
    Each makes one picture."""
    sizes, base = plan.sizes, spec.latents
    given = {plan.operands[index].name: plan.operands[index] for index in plan.inputs}
    if plan.sizes["batch"] != 1:
        check.fail(f"is {plan.sizes['batch']} (expected 1 for a decoder in bands)", "sizes", ("batch",))
    if plan.sizes["stage"] == 1:
        _same_names(check, "inputs", given, role.feed)
        for name in role.feed:
            _same(check, "inputs", given[name], "f32", (1, base.channels, sizes["height"], sizes["width"]))
    else:
        for name, operand in given.items():
            if name.endswith(STATISTICS):
                stem, _, part = name.rpartition(":")
                other = given.get(stem + STATISTICS[part == "mean"])
                if other is None or operand.dtype != "f32" or len(operand.shape) != 1 or other.shape != operand.shape:
                    check.fail(f"has {f.shown(name)} (expected f32 [groups], of a mean and a variance alike)", "inputs")
            else:
                _picture(check, "inputs", operand)
    if len(plan.outputs) != 1:
        check.fail(f"is a list of {len(plan.outputs)} (expected one picture of a decoder in bands)", "outputs")
    out = plan.operands[plan.outputs[0]]
    _picture(check, "outputs", out)
    if out.name in role.keep:
        _same(check, "outputs", out, "f32", (1, out.shape[1], base.scale * sizes["width"], 3))


def _picture(check: f.Checker, field: str, operand: Operand) -> None:
    if operand.dtype not in ("f16", "f32") or len(operand.shape) != 4 or operand.shape[0] != 1:
        check.fail(f"has {_shown(operand)} (expected a picture f16 or f32 [1, rows, width, channels])", field)


def _same_names(check: f.Checker, field: str, given: Mapping[str, Operand], wanted: Mapping[str, object]) -> None:
    if given.keys() != set(wanted):
        check.fail(f"has {', '.join(f.shown(name) for name in list(given)[:4])} (expected {', '.join(wanted)})", field)


def _same(check: f.Checker, field: str, operand: Operand, dtype: str, shape: tuple[int, ...]) -> None:
    if (operand.dtype, operand.shape) != (dtype, shape):
        check.fail(f"has {_shown(operand)} (expected {dtype}{list(shape)})", field)


def _shown(operand: Operand) -> str:
    return f"{f.shown(operand.name)} as {operand.dtype}{list(operand.shape)}"
