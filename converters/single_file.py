"""Read one file in the original (CompVis) layout: all three components under their prefixes, plus leftovers of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from ondevice.converters.component import Checkpoint, fitted, listed
from ondevice.converters.configs import COMPONENTS
from ondevice.converters.families import Family
from ondevice.converters.names import PREFIXES, canonical, ema_name, is_ignorable, original_names
from ondevice.errors import CheckpointError, WeightsError

_FOREIGN = {
    "conditioner.embedders.": "Stable Diffusion XL",
    "cond_stage_model.model.": "Stable Diffusion 2.x",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "lora_unet_": "a LoRA adapter",
    "unet.": "a checkpoint in diffusers' layout inside one file",
}


def checkpoint_from(tensors: Mapping[str, ir.TensorProtocol], path: Path, family: Family, *, ema: bool) -> Checkpoint:
    """A checkpoint from the tensors of one file; configs, scheduler and tokenizer are the family's.

    `ema=True` takes the UNet's moving averages (model_ema.*) instead of its last weights.

    Raises CheckpointError if the file is of another kind or `ema` asks for averages that are not there; WeightsError listing every
    missing, extra and mis-shaped weight.
    """
    where = str(path)
    for prefix, kind in _FOREIGN.items():
        if any(name.startswith(prefix) for name in tensors):
            raise CheckpointError(
                f"this is {kind}, not Stable Diffusion 1.x (it has weights named {prefix}...).",
                where=where,
                fix="use a Stable Diffusion 1.x file",
            )
    left = dict(tensors)
    has_ema = any(name.startswith("model_ema.diffusion_model") for name in left)
    if ema and not has_ema:
        raise CheckpointError("the file holds no averaged weights (model_ema.*).", where=where, fix="leave --ema out")
    components = {}
    for component in COMPONENTS:
        config, prefix = family.config(component), PREFIXES[component]
        wanted = original_names(component, config)
        back = {original: name for name, original in wanted.items()}
        found: dict[str, ir.TensorProtocol] = {}
        for name in [name for name in left if name.startswith(prefix) and not is_ignorable(name)]:
            original = prefix + canonical(component, name.removeprefix(prefix))
            if (to := back.get(original, original)) in found:
                raise CheckpointError(f"the weight {to[:200]} is there under two names.", where=where, fix="use another checkpoint")
            found[to] = left.pop(name)
        if ema and component == "unet":
            found = {name: left[ema_name(original)] for name, original in wanted.items() if ema_name(original) in left}
        components[component] = fitted(component, config, found, where)
    extra = [name for name in left if not is_ignorable(name)]
    if extra:
        raise WeightsError(
            f"the file holds weights that no component uses; {len(extra)} extra: {listed(extra)}.",
            where=where,
            fix="use a plain Stable Diffusion 1.x checkpoint",
        )
    notes = _notes(list(left), has_ema, ema)
    return Checkpoint(components, family.scheduler(), family.tokenizer(), family.name, where, notes)


def _notes(left: list[str], has_ema: bool, ema: bool) -> tuple[str, ...]:
    averages = [name for name in left if name.startswith("model_ema.")]
    others = [name for name in left if not name.startswith("model_ema.")]
    notes = []
    if has_ema and ema:
        notes.append("the UNet's averaged weights (model_ema.*) were taken; its last weights were ignored")
    elif has_ema:
        notes.append(f"{len(averages)} averaged weights (model_ema.*) were ignored; --ema takes them instead")
    if others:
        notes.append(f"tensors that are no weights were ignored: {listed(others, most=2)}")
    return tuple(notes)
