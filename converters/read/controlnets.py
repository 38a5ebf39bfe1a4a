"""ControlNets beside a checkpoint: from a diffusers folder, one file in either layout, or a hub id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ondevice.converters.architectures import controlnet_config
from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.controlnet import CONTROLNET
from ondevice.converters.component import Checkpoint, Component, shape_of
from ondevice.converters.families import Family, family_of
from ondevice.converters.families.controlled import NETS, check_net, controlled, full_config
from ondevice.converters.random_weights import random_component
from ondevice.converters.read.diffusers_folder import read_component
from ondevice.converters.read.hub import local_part
from ondevice.converters.read.json_text import read_object
from ondevice.converters.read.parts import component_of, tensors_of
from ondevice.errors import CheckpointError, UsageError

FLAG = "--controlnet"
MADE_UP = "random"  # instead of a file, beside made-up weights
_CLASSES = {  # of diffusers, in a config.json that is none of a ControlNet's that we have
    "T2IAdapter": "a T2I adapter",
    "ControlNetXSAdapter": "a ControlNet-XS",
    "UNetControlNetXSModel": "a ControlNet-XS with its UNet",
    "ControlNetUnionModel": "a ControlNet Union",
    "SparseControlNetModel": "a SparseCtrl, for films",
    "SD3ControlNetModel": "a ControlNet of Stable Diffusion 3",
    "FluxControlNetModel": "a ControlNet of Flux",
    "HunyuanDiT2DControlNetModel": "a ControlNet of HunyuanDiT",
    "QwenImageControlNetModel": "a ControlNet of Qwen-Image",
    "SanaControlNetModel": "a ControlNet of Sana",
    "CosmosControlNetModel": "a ControlNet of Cosmos",
    "ZImageControlNetModel": "a ControlNet of Z-Image",
    "UNet2DConditionModel": "a UNet",
    "AutoencoderKL": "a VAE",
}


def with_controlnets(checkpoint: Checkpoint, given: Sequence[str], seed: int | None = None) -> Checkpoint:
    """The checkpoint with these nets, each a component of its own.

    Args:
        given: of each a diffusers folder, a file or a hub id.
        seed: of made-up weights, where one may be MADE_UP instead.

    Raises:
        UsageError: the checkpoint is a folder of graphs or has no UNet, there are too many nets, or one is made up and
            nothing else.
        CheckpointError: one is missing, damaged, no ControlNet, of a kind that we do not have, or for another model.
        WeightsError: its weights are not those of its config.
        DownloadError: a hub id could not be fetched.
    """
    if given and checkpoint.graphs:
        what = "an exported graph takes no ControlNet."
        raise UsageError(what, where=FLAG, fix=f"convert from weights, or leave {FLAG} out")
    if given and "unet" not in checkpoint.components:
        what = f"{checkpoint.family} has no UNet, which is what a ControlNet here controls."
        raise UsageError(what, where=FLAG, fix=f"leave {FLAG} out")
    if len(given) > len(NETS):
        what = f"there are too many ControlNets (got {len(given)}, expected at most {len(NETS)})."
        raise UsageError(what, where=FLAG, fix="give fewer")
    family = family_of(checkpoint.family)
    components, notes = dict(checkpoint.components), list(checkpoint.notes)
    configs = {name: component.config for name, component in components.items()}
    for number, source in enumerate(given):
        net = NETS[number]
        extended = controlled(family, NETS[: number + 1])
        if source == MADE_UP and seed is not None:
            config = extended.normalize(net, full_config(family, configs["unet"], configs), f"{FLAG} {source}")
            components[net] = random_component(extended, net, config, seed)
        else:
            components[net] = _read(source, extended, net, configs["unet"], notes)
        configs[net] = components[net].config
        check_net(family, configs, net, f"{FLAG} {source}")
    return replace(checkpoint, components=components, notes=tuple(notes))


def _read(source: str, family: Family, net: str, unet: Config, notes: list[str]) -> Component:
    path, where = local_part(source, family, net), f"{FLAG} {source}"
    if path.is_dir():
        _check_class(path, where)
        return read_component(path, family, net, None, notes)
    if not path.is_file():
        what = "there is no such file or folder, and it is no hub id (expected a ControlNet)."
        fix = "give a ControlNet's folder, its .safetensors or .pth file, or a hub id"
        raise CheckpointError(what, where=where, fix=fix)
    tensors = tensors_of(family, net, path, where)
    shapes = {CONTROLNET.canonical(name): shape_of(tensor) for name, tensor in tensors.items()}
    _check_shapes(shapes, unet, where)
    config = family.normalize(net, controlnet_config.told_by(shapes, unet), where)
    return component_of(family, net, config, tensors, where)


def _check_class(folder: Path, where: str) -> None:
    """Refuse a folder of something else by its config's class. Raises CheckpointError."""
    path = folder / "config.json"
    raw: dict[str, Any] = read_object(path, "give the folder of a ControlNet, which has a config.json")
    if (name := raw.get("_class_name")) in _CLASSES:
        what = f"this is {_CLASSES[name]}, and no ControlNet that can be used here (its config.json says {name})."
        raise CheckpointError(what, where=where, fix="use a ControlNet (ControlNetModel of diffusers)")


def _check_shapes(shapes: dict[str, tuple[int, ...]], unet: Config, where: str) -> None:
    """Refuse the file of a net for another model, whose numbers would say it less plainly. Raises CheckpointError."""
    kind, own = controlnet_config.kind_of_shapes(shapes), controlnet_config.kind_of_config(unet)
    if kind is not None and own is not None and kind != own:
        of = own.removeprefix("a ControlNet of ")
        what = f"this is {kind}, not of {of} (by the shapes of its weights)."
        raise CheckpointError(what, where=where, fix=f"use a ControlNet that was trained for {of}")
