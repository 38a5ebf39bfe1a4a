"""What the components of a text-to-image model take and make: names, dtypes and shapes. The specification is docs/bundle.md, "Components".

Checked when a plan is read, so that nothing runs before both ends of it are known to be what the pipeline passes and expects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ondevice.bundle import format as f
from ondevice.bundle.stages import STATISTICS, check_fit, stage_of, where
from ondevice.errors import BundleError
from ondevice.plan.plan import Operand, Plan

Shape = tuple[int | str, ...]
TEXT_WIDTH = "text_width"  # the one size that no fact of the model says: text encoder and UNet must agree on it


@dataclass(frozen=True, slots=True)
class Ports:
    """Names -> (dtype, shape) of a component whose plans have exactly these `sizes`. Words in a shape are sizes: `_sizes` says which."""

    sizes: frozenset[str]
    inputs: Mapping[str, tuple[str, Shape]]
    outputs: Mapping[str, tuple[str, Shape]]


_PLACE = frozenset({"batch", "height", "width"})
_LATENTS: Shape = ("batch", "latent_channels", "height", "width")
_PICTURE: Shape = ("batch", 3, "picture_height", "picture_width")
_STATES: Shape = ("batch", "max_tokens", TEXT_WIDTH)
PORTS = {
    "text_encoder": Ports(frozenset({"batch"}), {"input_ids": ("i32", ("batch", "max_tokens"))}, {"last_hidden_state": ("f32", _STATES)}),
    "unet": Ports(
        _PLACE,
        {"sample": ("f32", _LATENTS), "timestep": ("f32", (1,)), "encoder_hidden_states": ("f32", _STATES)},
        {"out_sample": ("f32", _LATENTS)},
    ),
    "vae_decoder": Ports(_PLACE, {"latent_sample": ("f32", _LATENTS)}, {"sample": ("f32", _PICTURE)}),
    "vae_encoder": Ports(_PLACE, {"sample": ("f32", _PICTURE)}, {"latent_parameters": ("f32", ("batch", "moments", "height", "width"))}),
}
STAGE_SIZES = _PLACE | {"stage", "rows"}


def check_ports(plan: Plan, file: str, model: Mapping[str, Any], known: dict[str, int]) -> None:
    """Refuse a plan of a known component with other inputs or outputs than the pipeline passes and expects.

    Components and sets of sizes that this version does not know are nobody's to ask for, and pass.

    Args:
        known: sizes that plans read before have settled; TEXT_WIDTH is added by the first that has it.

    Raises:
        BundleError: an input or output is missing, unknown, or of another dtype or shape.
    """
    check = f.Checker(file)
    if plan.component == "vae_decoder" and plan.sizes.keys() == STAGE_SIZES:
        _check_stage(check, plan, _sizes(plan, model))
        return
    ports = PORTS.get(plan.component)
    if ports is None or plan.sizes.keys() != ports.sizes:
        return
    sizes = _sizes(plan, model) | known
    for field, indices, wanted in (("inputs", plan.inputs, ports.inputs), ("outputs", plan.outputs, ports.outputs)):
        given = {plan.operands[index].name: plan.operands[index] for index in indices}
        _same_names(check, field, given, wanted)
        for name, (dtype, shape) in wanted.items():
            operand = given[name]
            if TEXT_WIDTH in shape and len(operand.shape) == len(shape):
                known.setdefault(TEXT_WIDTH, operand.shape[shape.index(TEXT_WIDTH)])
                sizes = sizes | known
            _same(check, field, operand, dtype, tuple(sizes.get(size, 0) if isinstance(size, str) else size for size in shape))


def check_stages(plans: Sequence[Plan], model: Mapping[str, Any]) -> None:
    """Refuse stages of a decoder in bands, in order and each within `check_ports`, that do not fit each other or the decoder.

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
                raise BundleError(what, where=where(plan.sizes), fix="convert the checkpoint again")
        out = plan.operands[plan.outputs[0]]
        types[out.name] = out.dtype
    sizes = _sizes(plans[0], model)
    height, width = sizes["picture_height"], sizes["picture_width"]
    for stage in stages:
        _, high, wide, _ = whole[stage.output]
        if high > height or wide > width:
            what = f"it makes a picture of {wide}x{high} (expected at most {width}x{height})."
            raise BundleError(what, where=where(stage.sizes), fix="convert the checkpoint again")
    last = stages[-1]
    if last.output != "sample" or whole["sample"] != (1, height, width, 3):
        what = f"the last stage makes {last.output[:60]} {list(whole[last.output])} (expected sample {[1, height, width, 3]})."
        raise BundleError(what, where=where(last.sizes), fix="convert the checkpoint again")


def _check_stage(check: f.Checker, plan: Plan, sizes: Mapping[str, int]) -> None:
    """One stage by itself: the first reads latents; others read pictures, and means and variances in pairs. Each makes one picture."""
    given = {plan.operands[index].name: plan.operands[index] for index in plan.inputs}
    if plan.sizes["batch"] != 1:
        check.fail(f"is {plan.sizes['batch']} (expected 1 for a decoder in bands)", "sizes", ("batch",))
    if plan.sizes["stage"] == 1:
        _same_names(check, "inputs", given, ("latent_sample",))
        _same(check, "inputs", given["latent_sample"], "f32", tuple(sizes[str(size)] for size in _LATENTS))
    else:
        for name, operand in given.items():
            if name.endswith(STATISTICS):
                base, _, part = name.rpartition(":")
                other = given.get(base + STATISTICS[part == "mean"])
                if other is None or operand.dtype != "f32" or len(operand.shape) != 1 or other.shape != operand.shape:
                    check.fail(f"has {f.shown(name)} (expected f32 [groups], of a mean and a variance alike)", "inputs")
            else:
                _picture(check, "inputs", operand)
    if len(plan.outputs) != 1:
        check.fail(f"is a list of {len(plan.outputs)} (expected one picture of a decoder in bands)", "outputs")
    out = plan.operands[plan.outputs[0]]
    _picture(check, "outputs", out)
    if out.name == "sample":
        _same(check, "outputs", out, "f32", (1, out.shape[1], sizes["picture_width"], 3))


def _picture(check: f.Checker, field: str, operand: Operand) -> None:
    if operand.dtype not in ("f16", "f32") or len(operand.shape) != 4 or operand.shape[0] != 1:
        check.fail(f"has {_shown(operand)} (expected a picture f16 or f32 [1, rows, width, channels])", field)


def _same_names(check: f.Checker, field: str, given: Mapping[str, Operand], wanted: Mapping[str, object] | Sequence[str]) -> None:
    if given.keys() != set(wanted):
        check.fail(f"has {', '.join(f.shown(name) for name in list(given)[:4])} (expected {', '.join(wanted)})", field)


def _same(check: f.Checker, field: str, operand: Operand, dtype: str, shape: tuple[int, ...]) -> None:
    if (operand.dtype, operand.shape) != (dtype, shape):
        check.fail(f"has {_shown(operand)} (expected {dtype}{list(shape)})", field)


def _shown(operand: Operand) -> str:
    return f"{f.shown(operand.name)} as {operand.dtype}{list(operand.shape)}"


def _sizes(plan: Plan, model: Mapping[str, Any]) -> dict[str, int]:
    """What the words in shapes stand for."""
    scale, channels = model["vae_scale"], model["latent_channels"]
    place = {f"picture_{side}": scale * plan.sizes[side] for side in ("height", "width") if side in plan.sizes}
    return dict(plan.sizes) | place | {"latent_channels": channels, "moments": 2 * channels, "max_tokens": model["max_tokens"]}
