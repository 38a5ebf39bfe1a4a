"""Read one file that holds all three components under their prefixes (the original layout's, or diffusers'), plus leftovers of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ondevice.converters.component import Checkpoint, Component, check_joints, listed, shape_of
from ondevice.converters.configs import COMPONENTS
from ondevice.converters.families import FAMILIES, Family
from ondevice.converters.names import PREFIXES, canonical, ema_name, is_clip_only, is_ignorable, original_names
from ondevice.converters.read.ckpt_file import Ckpt
from ondevice.converters.read.kinds import file_kind, kind_of
from ondevice.converters.read.parts import FLAGS, WORDS, component_of
from ondevice.errors import CheckpointError, WeightsError

_TOKENS = "text_model.embeddings.token_embedding.weight"
_ANY_WIDTH = ".attn2.to_k.weight"  # the last dimension is the width of the text encoder's vectors

_MARKS: dict[str, tuple[str, Any]] = {"v_pred": ("prediction_type", "v_prediction"), "ztsnr": ("rescale_betas_zero_snr", True)}

Tensors = Mapping[str, ir.TensorProtocol]


def checkpoint_from(read: Ckpt, path: Path, family: Family, *, ema: bool, given: Mapping[str, Component] | None = None) -> Checkpoint:
    """A checkpoint from the tensors of one file; configs, scheduler and tokenizer are the family's.

    `ema=True` takes the UNet's moving averages (model_ema.*) instead of its last weights. Components in `given` are taken from there, and
    the file need not have them. What the file says of its prediction goes before the family's scheduler.

    Raises CheckpointError if the file is of another kind, lacks a part, or `ema` asks for averages that are not there; WeightsError listing
    every missing, extra and mis-shaped weight.
    """
    tensors, where, parts = read.tensors, str(path), given or {}
    telling = [name for name in tensors if not is_ignorable(name) or is_clip_only(name)]
    if kind := file_kind(telling, {name: shape_of(tensors[name]) for name in telling}):
        raise CheckpointError(f"this is {kind.what}.", where=where, fix=kind.fix)
    has_ema = any(name.startswith("model_ema.diffusion_model") for name in tensors)
    if ema and not (has_ema or read.averaged):
        raise CheckpointError("the file holds no averaged weights (model_ema.*).", where=where, fix="leave --ema out")
    left: dict[str, ir.TensorProtocol] = {name: tensor for name, tensor in tensors.items() if name not in _MARKS}
    found = {component: _taken(component, left) for component in COMPONENTS}
    has_last = bool(found["unet"])
    if ema and has_ema:
        wanted = original_names("unet", family.config("unet")).values()
        averages = {name.removeprefix(PREFIXES["unet"]): tensors.get(ema_name(name)) for name in wanted}
        found["unet"] = {name: tensor for name, tensor in averages.items() if tensor is not None}
    _check_parts(found, [name for name in COMPONENTS if name not in parts], has_ema, telling, where)
    configs = {component: family.config(component) for component in COMPONENTS if component not in parts}
    for component in ("unet", "text_encoder"):  # the UNet says most of what a model is
        if component in configs:
            _check_shapes(component, configs[component], found[component], family, where)
    made = {component: component_of(component, config, found[component], where) for component, config in configs.items()}
    components = {component: parts[component] if component in parts else made[component] for component in COMPONENTS}
    check_joints(components, where)
    extra = [name for name in left if not is_ignorable(name)]
    if extra:
        raise WeightsError(
            f"the file holds weights that no component uses; {len(extra)} extra: {listed(extra)}.",
            where=where,
            fix="use a plain Stable Diffusion 1.x checkpoint",
        )
    notes = _notes(list(left), has_ema, ema, has_last)
    scheduler = family.scheduler() | _prediction(read)
    return Checkpoint(components, scheduler, family.tokenizer(), family.name, where, notes)


def _prediction(read: Ckpt) -> dict[str, Any]:
    """What the file itself says of how its UNet was trained, as keys of a scheduler's config: ComfyUI's empty tensors, kohya's metadata."""
    said = {key: value for mark, (key, value) in _MARKS.items() if mark in read.tensors}
    if read.metadata.get("modelspec.prediction_type") in ("v", "v_prediction"):
        said["prediction_type"] = "v_prediction"
    return said


def _taken(component: str, left: dict[str, ir.TensorProtocol]) -> dict[str, ir.TensorProtocol]:
    """The component's weights without their prefix, out of `left`; those that are known to be unused stay there."""
    prefix = next((prefix for prefix in (PREFIXES[component], f"{component}.") if any(name.startswith(prefix) for name in left)), None)
    names = [name for name in left if prefix and name.startswith(prefix) and not is_ignorable(name)]
    return {name.removeprefix(prefix or ""): left.pop(name) for name in names}


def _check_parts(found: Mapping[str, Tensors], needed: list[str], has_ema: bool, names: list[str], where: str) -> None:
    """Refuse a file that lacks a whole component out of `needed`, or all. Raises CheckpointError that says which, and what can be done."""
    lacking = [component for component in needed if not found[component]]
    if "unet" in lacking and has_ema:
        what = "the file holds the UNet's averaged weights (model_ema.*) and not its last ones."
        raise CheckpointError(what, where=where, fix="add --ema, which takes them")
    if not has_ema and not any(found.values()):
        what = f"its weights are named {listed(names, most=3)}" if names else "it holds no weights"
        raise CheckpointError(
            f"this is no Stable Diffusion checkpoint ({what}).", where=where, fix="give a Stable Diffusion 1.x checkpoint"
        )
    if "unet" in lacking:
        raise CheckpointError(
            f"the file holds no UNet (no weights named {PREFIXES['unet']}...).",
            where=where,
            fix="give a whole Stable Diffusion 1.x checkpoint; a VAE or a text encoder goes beside it with --vae or --text-encoder",
        )
    if lacking:
        words = " and no ".join(WORDS[component] for component in lacking)
        prefixes = " or ".join(PREFIXES[component] + "..." for component in lacking)
        raise CheckpointError(
            f"the file holds no {words} (no weights named {prefixes}).",
            where=where,
            fix=f"add {' and '.join(FLAGS[component] + ' PATH' for component in lacking)}, or use the whole checkpoint",
        )


def _check_shapes(component: str, config: dict[str, Any], found: Tensors, family: Family, where: str) -> None:
    """Refuse another kind of model, which has the same names and other shapes. Raises CheckpointError that says which it is."""
    if component == "text_encoder":
        for name, tensor in found.items():
            rows = shape_of(tensor)[:1]
            if canonical(component, name) == _TOKENS and rows and rows[0] > config["vocab_size"]:
                count = rows[0] - config["vocab_size"]
                what = f"its text encoder knows {count} added token{'s' * (count > 1)} (textual inversion), and not their words."
                fix = "give the diffusers folder of the same model, whose tokenizer/ has them"
                raise CheckpointError(what, where=where, fix=fix)
    if component != "unet":
        return
    first = next((shape_of(found[name]) for name in ("input_blocks.0.0.weight", "conv_in.weight") if name in found), None)
    widths = {shape_of(tensor)[-1] for name, tensor in found.items() if name.endswith(_ANY_WIDTH) and shape_of(tensor)}
    width = next(iter(widths)) if len(widths) == 1 and widths != {config["cross_attention_dim"]} else 768
    channels = first[1] if first and len(first) == 4 else config["in_channels"]
    if kind := kind_of(channels if channels != config["in_channels"] else 4, width):
        raise CheckpointError(
            f"this is {kind}, not Stable Diffusion 1.x's text-to-image (its UNet takes {channels} channels).",
            where=where,
            fix="use the text-to-image model of Stable Diffusion 1.x that it was made from",
        )
    if first and len(first) == 4 and first[0] != config["block_out_channels"][0]:
        fitting = [name for name, other in FAMILIES.items() if other.config("unet")["block_out_channels"][0] == first[0]]
        expected = config["block_out_channels"][0]
        raise CheckpointError(
            f"it is no model of the size of {family.name} (its UNet begins with {first[0]} channels, expected {expected}).",
            where=where,
            fix=f"convert it as {' or '.join(fitting)}" if fitting else f"use a checkpoint of {family.name}",
        )


def _notes(left: list[str], has_ema: bool, ema: bool, has_last: bool) -> tuple[str, ...]:
    averages = [name for name in left if name.startswith("model_ema.")]
    others = [name for name in left if not name.startswith("model_ema.")]
    notes = []
    if has_ema and ema:
        notes.append("the UNet's averaged weights (model_ema.*) were taken" + ("; its last weights were ignored" if has_last else ""))
    elif has_ema:
        notes.append(f"{len(averages)} averaged weights (model_ema.*) were ignored; --ema takes them instead")
    if others:
        notes.append(f"tensors that are no weights were ignored: {listed(others, most=2)}")
    return tuple(notes)
