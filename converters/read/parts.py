"""One component from weights in any spelling: a part of a single file, or a file or folder that is given beside a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ondevice.converters.component import Component, fitted, shape_of
from ondevice.converters.names import PREFIXES, canonical, is_ignorable, original_names
from ondevice.converters.read.diffusers_folder import read_component
from ondevice.converters.read.kinds import file_kind
from ondevice.converters.read.weights_file import read_weights
from ondevice.errors import CheckpointError

FLAGS = {"vae": "--vae", "text_encoder": "--text-encoder"}
WORDS = {"vae": "VAE", "text_encoder": "text encoder", "unet": "UNet"}
DAMAGED = "download the file again, or use another Stable Diffusion 1.x file"


def component_of(component: str, config: dict[str, Any], tensors: Mapping[str, ir.TensorProtocol], where: str) -> Component:
    """The component from its weights in the original or in diffusers' names, without a prefix; what is known to be unused is left out.

    Raises WeightsError listing missing, extra and mis-shaped weights; CheckpointError for a weight under two names.
    """
    prefix = PREFIXES[component]
    back = {original.removeprefix(prefix): name for name, original in original_names(component, config).items()}
    found: dict[str, ir.TensorProtocol] = {}
    for name, tensor in tensors.items():
        if is_ignorable(prefix + name):
            continue
        spelled = canonical(component, name)
        to = back.get(spelled, spelled)
        if to in found:
            raise CheckpointError(f"the weight {to[:200]} is there under two names.", where=where, fix="use another checkpoint")
        found[to] = tensor
    return fitted(component, config, found, where, fix=DAMAGED)


def read_part(component: str, path: Path, config: dict[str, Any]) -> Component:
    """The component "vae" or "text_encoder" in a file (in the original or diffusers' names, alone or in a checkpoint) or a folder.

    `config` is a file's; a folder brings its own. Raises CheckpointError and WeightsError.
    """
    where = f"{FLAGS[component]} {path}"
    if path.is_dir():
        inside = path / component
        return read_component(inside if inside.is_dir() else path, component, None, [])
    if not path.is_file():
        what = f"there is no such file or folder (expected a {WORDS[component]})."
        raise CheckpointError(what, where=where, fix=f"give the {WORDS[component]}'s .safetensors, .ckpt, .pt or .bin file, or its folder")
    tensors = read_weights(path).tensors
    chosen: dict[str, ir.TensorProtocol] = dict(tensors)
    for prefix in (PREFIXES[component], f"{component}."):  # in a file that holds others, too
        if own := {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}:
            chosen = dict(own)
            break
    kind = file_kind(chosen, {name: shape_of(tensor) for name, tensor in chosen.items()})
    if kind and kind.part != component:
        what = f"this is {kind.what}, and no {WORDS[component]}."
        raise CheckpointError(what, where=where, fix=f"give a {WORDS[component]} of Stable Diffusion 1.x")
    return component_of(component, config, chosen, where)
