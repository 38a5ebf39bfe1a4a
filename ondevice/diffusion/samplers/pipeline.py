"""A checkpoint's scheduler: what diffusers' pipeline makes of its config,
and which sampler draws where its class has none here.

Reference: `StableDiffusionPipeline.__init__` of diffusers 0.42.1, which changes the config of whichever
scheduler it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ondevice.diffusion.samplers import CLASSES, SAMPLERS, WITHOUT_BETAS, make_table
from ondevice.diffusion.samplers.settings import shown
from ondevice.diffusion.samplers.table import SamplerTable
from ondevice.errors import CheckpointError, UsageError

CLASS_OF = {sampler: name for name, sampler in reversed(CLASSES.items())}
"""The diffusers class that each sampler follows."""

NEAREST = {
    "DPMSolverSinglestepScheduler": "dpmpp_2m",
    "DEISMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "dpmpp_2m",
    "DPMSolverMultistepScheduler": "unipc",
    "SASolverScheduler": "unipc",
    "DPMSolverSDEScheduler": "euler_a",
    "KDPM2AncestralDiscreteScheduler": "euler_a",
    "KDPM2DiscreteScheduler": "heun",
    "TCDScheduler": "lcm",
    "EDMEulerScheduler": "edm_dpmpp_2m",
    "EDMDPMSolverMultistepScheduler": "edm_euler",
    "FlowMatchEulerDiscreteScheduler": "flow_heun",
    "FlowMatchHeunDiscreteScheduler": "flow_euler",
    "FlowMatchLCMScheduler": "flow_euler",
}
"""What draws instead of a class whose sampler cannot follow a config, or that has none here; for all others `ddim`."""

_TREES = {"DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"}  # whose noise is that of a Brownian tree

# unless their config says not to
_CLIPPING = {"DDIMScheduler", "DDPMScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler"}
STEPS = 20  # of the table that a bundle draws with by default


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a bundle gets of a checkpoint's scheduler.

    `config` is what `generate` makes tables from: changed as the pipeline changes it, fit for JSON, and of the class of
    `sampler`. `notes` say in sentences what was changed; `fallback` why the sampler is another than the checkpoint's
    ("" where it is not).
    """

    sampler: str
    config: dict[str, Any]
    table: SamplerTable
    notes: tuple[str, ...]
    fallback: str


def as_in_pipeline(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(`config` as StableDiffusionPipeline has it once loaded, what was changed in sentences).

    `steps_offset` becomes 1 whatever it was: every class has the key, and 0 where it is absent. `clip_sample` that is
    true, or absent in a class that then clips, becomes false: a latent is not bound to -1..1. (`thresholding` is kept
    by diffusers, and so it is here.)
    """
    changed, notes = dict(config), []
    if (offset := config.get("steps_offset", 0)) != 1:
        given = f"is {shown(offset)}" if "steps_offset" in config else "is absent"
        notes.append(f"the scheduler's steps_offset {given}; 1 is taken, as diffusers' pipeline does")
    changed["steps_offset"] = 1
    if config.get("clip_sample", _class_of(config) in _CLIPPING) is True:
        given = "true" if "clip_sample" in config else "absent, which means true"
        notes.append(
            f"the scheduler's clip_sample is {given}; "
            "false is taken, as diffusers' pipeline does: latents are not clipped"
        )
    if config.get("clip_sample", True) is True:
        changed["clip_sample"] = False
    return changed, notes


def choose(
    config: Mapping[str, Any], wanted: str | None, where: str, *, changed: bool = True, steps: int = STEPS
) -> Chosen:
    """The sampler that a bundle draws with by default, from a scheduler_config.json whose values nobody has checked.

    It is `wanted`, or the one of the config's class, or the nearest that the config can be used with.

    Args:
        where: the checkpoint's name, for errors.
        changed: whether diffusers' pipeline changes the config on loading, as `as_in_pipeline` does.
        steps: of the table, fewer where the schedule is too short.

    Raises:
        UsageError: `wanted` cannot use the config, and another sampler can.
        CheckpointError: no sampler can use it: betas out of range, no training steps, a value of a wrong type...
    """
    name = _class_of(config)
    raw, notes = as_in_pipeline(config) if changed else (dict(config), [])
    refused = ""
    for sampler in dict.fromkeys(_candidates(name, wanted)):
        try:
            table = make_table(sampler, _table_steps(sampler, raw, steps), raw)
            break
        except UsageError as error:
            refused = refused or error.what.removesuffix(".")
    else:
        fix = "mend the value, or put the scheduler/ folder of a Stable Diffusion 1.x model in its place"
        raise CheckpointError(f"the scheduler's config can be used by no sampler: {refused}.", where=where, fix=fix)
    fallback = ""
    if wanted and sampler != wanted:
        what = f"{wanted} cannot use the checkpoint's scheduler config: {refused}."
        raise UsageError(what, where="--sampler", fix=f"choose another, such as {sampler}")
    if not wanted and sampler != CLASSES.get(name):
        why = (
            f"with this config {CLASSES[name]} cannot draw as {name} does: {refused}"
            if name in CLASSES
            else f"there is no sampler here for {name}"
        )
        fallback = f"{why}; the bundle's default is {sampler} (choose with --sampler)"
    if name in _TREES and not fallback:
        notes.append(
            f"{name} takes its noise from a Brownian tree; here it is drawn as for other samplers: "
            "just as noisy, and of the same seed another picture than diffusers'"
        )
    stored, left_out = _for_json(raw)
    if left_out:
        notes.append(f"values of the scheduler's config that a bundle cannot hold were left out: {left_out}")
    kept = as_in_pipeline(stored)[0] if changed else stored
    return Chosen(sampler, kept | {"_class_name": CLASS_OF[sampler]}, table, tuple(notes), fallback)


def _class_of(config: Mapping[str, Any]) -> str:
    """The class that a config is of. PNDM is Stable Diffusion 1.x's own, where none is named."""
    name = config.get("_class_name", "PNDMScheduler")
    return (
        name.removeprefix("Flax")
        if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 80
        else "a class without a name"
    )


def _candidates(name: str, wanted: str | None) -> Iterator[str]:
    """Samplers by how well they stand for a class; a class of another library may be called like diffusers' own."""
    short = name.rpartition(".")[2]
    first = CLASSES.get(name) or NEAREST.get(short) or CLASSES.get(short, "ddim")
    if first in WITHOUT_BETAS:  # all others would draw with betas that the config does not have
        yield from (wanted or first, first, NEAREST.get(short, first))
    else:
        # dpmpp_2s reads no spacing, and would hide one that is wrong.
        others = (sampler for sampler in SAMPLERS if sampler not in (*WITHOUT_BETAS, "dpmpp_2s"))
        yield from (wanted or first, first, NEAREST.get(name, "ddim"), "ddim", "euler", *others)


def _table_steps(sampler: str, config: Mapping[str, Any], steps: int) -> int:
    """As many as a schedule of that length allows: some classes divide it into one step more,
    and steps_offset moves them all by one."""
    most = [steps]
    for key, spare in {"num_train_timesteps": 2, "original_inference_steps": 0}.items():
        if type(config.get(key)) is int and (key == "num_train_timesteps" or sampler == "lcm"):
            most.append(max(config[key] - spare, 1))
    return min(most)


def _for_json(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(what strict JSON can hold of `config`, the names of the rest but the class's, which a bundle gets anew).

    Every key that a sampler reads is a word, a number, null or a list of numbers. diffusers writes lambda_min_clipped's
    default, which is minus infinity; leaving it out changes nothing.
    """
    stored = {key: value for key, value in config.items() if _is_plain(key) and (_is_plain(value) or _is_list(value))}
    expected = (("lambda_min_clipped", -math.inf), ("_class_name", config.get("_class_name")))
    left_out = [shown(key) for key, value in config.items() if key not in stored and (key, value) not in expected]
    more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    return stored, ", ".join(left_out[:5]) + more


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= 200 and value.isprintable()
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool) or (type(value) is int and value.bit_length() <= 53)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(type(item) in (int, float) and _is_plain(item) for item in value)
