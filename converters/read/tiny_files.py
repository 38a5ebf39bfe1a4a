"""A tiny autoencoder that is given beside a checkpoint: in the place of its own (--vae), or as a decoder that is fast
(--taesd)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from ondevice.converters.component import Checkpoint, Component, listed, shape_of
from ondevice.converters.families import Family, check_joints, family_of
from ondevice.converters.families.tiny import (
    FLAG,
    TAESD,
    as_opened,
    fast_config,
    is_tiny,
    published_for,
    usual_for,
    with_tiny_vae,
)
from ondevice.converters.random_weights import random_component
from ondevice.converters.read import tiny_names
from ondevice.converters.read.diffusers_folder import read_component
from ondevice.converters.read.hub import local_part
from ondevice.converters.read.json_text import read_object
from ondevice.converters.read.kinds import file_kind
from ondevice.converters.read.parts import FLAGS, component_of
from ondevice.converters.read.weights_file import read_weights
from ondevice.errors import CheckpointError, UsageError

_FILES = (".safetensors", ".pth", ".pt", ".bin")  # of the original, best first
_MAKERS = "give a diffusers folder of an AutoencoderTiny, taesd_decoder.safetensors, or a hub id such as {}"


def holds_tiny(path: Path) -> bool:
    """Whether a file or a folder is of a tiny autoencoder; a config or names are read.
    Raises CheckpointError where these are damaged."""
    if path.is_dir():
        config = _inside(path) / "config.json"
        return is_tiny(read_object(config)) if config.is_file() else bool(_originals(path))
    return path.is_file() and tiny_names.is_tiny(read_weights(path).tensors)


def read_tiny_vae(path: Path, family: Family) -> Component:
    """The file or folder as the family's autoencoder: both halves, which the original has in two files beside each
    other. Raises CheckpointError and WeightsError."""
    return _read(path, with_tiny_vae(family), "vae", FLAGS["vae"])


def with_taesd(checkpoint: Checkpoint, source: str) -> Checkpoint:
    """The checkpoint with a tiny autoencoder's decoder beside its own.

    Args:
        source: a file, a diffusers folder or a hub id; "": the one that is usual for the family's latents.

    Raises:
        UsageError: the checkpoint is a folder of graphs, or has a tiny autoencoder itself.
        CheckpointError, WeightsError: it is no tiny autoencoder, or not one for these latents.
        DownloadError: the hub id could not be fetched.
    """
    family = _beside(checkpoint)
    where = source or usual_for(family)
    path = local_part(where, with_tiny_vae(family_of(checkpoint.family)), "vae")
    return _with(checkpoint, family, _read(path, family, TAESD, FLAG), f"{FLAG} {where}")


def with_random_taesd(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """The same with made-up weights, as deep as TAESD where the model's own makes pictures as much larger.
    Raises UsageError as `with_taesd`."""
    family, vae = _beside(checkpoint), checkpoint.components["vae"].config
    levels = family.scale({"vae": vae}).bit_length()
    depths = {"num_encoder_blocks": [1, *[3] * (levels - 1)], "num_decoder_blocks": [*[3] * (levels - 1), 1]}
    widths = {f"{half}_block_out_channels": [64] * levels for half in tiny_names.HALVES}
    config = family.normalize(TAESD, {"latent_channels": vae["latent_channels"], **depths, **widths}, FLAG)
    return _with(checkpoint, family, random_component(family, TAESD, config, seed), FLAG)


def _beside(checkpoint: Checkpoint) -> Family:
    """The family with a fast decoder. Raises UsageError where there can be none."""
    if checkpoint.graphs:
        what = "a folder of exported graphs has the decoder that it was exported with."
        raise UsageError(what, where=FLAG, fix=f"convert from weights, or leave {FLAG} out")
    vae = checkpoint.components["vae"].config
    return as_opened(family_of(checkpoint.family), {"vae": vae, TAESD: {}})


def _with(checkpoint: Checkpoint, family: Family, tiny: Component, where: str) -> Checkpoint:
    vae = checkpoint.components["vae"].config
    components = {**checkpoint.components, TAESD: replace(tiny, config=fast_config(tiny.config, vae))}
    check_joints(family, {name: component.config for name, component in components.items()}, where)
    return replace(checkpoint, components=components)


def _read(path: Path, family: Family, part: str, flag: str) -> Component:
    where, fix = f"{flag} {path}", _MAKERS.format(published_for(family))
    if path.is_dir():
        folder = _inside(path)
        if (folder / "config.json").is_file():
            return read_component(folder, family, part, None, [])
        found = _originals(path)
        if len(found) != 1:
            what = (
                f"it holds several ({', '.join(file.name for file in found)})."
                if found
                else "the folder holds no tiny autoencoder (no config.json, and no file of a decoder)."
            )
            raise CheckpointError(what, where=where, fix=fix if not found else "name the file")
        path = found[0]
    if not path.is_file():
        raise CheckpointError("there is no such file or folder (expected a tiny autoencoder).", where=where, fix=fix)
    tensors = _tensors(path, family, where, fix)
    have = tiny_names.halves_of(tensors)
    for half in tiny_names.HALVES:
        if half in have or (half == "encoder" and part == TAESD):
            continue
        other = path.with_name(path.name.replace("decoder" if half == "encoder" else "encoder", half))
        if other == path or not other.is_file():
            what = f"it holds no {half}, and there is none in a file beside it."
            alone = f", or give it with {FLAG}, for which the decoder is enough" if half == "encoder" else ""
            raise CheckpointError(what, where=where, fix=f"give the file that has both, or put it there{alone}")
        tensors |= _tensors(other, family, where, fix)
    config = family.normalize(part, tiny_names.config_of(tensors), where)
    return component_of(family, part, config, tensors, where)


def _tensors(path: Path, family: Family, where: str, fix: str) -> dict[str, ir.TensorProtocol]:
    """A file's weights in diffusers' names. Raises CheckpointError where they are of something else."""
    tensors = read_weights(path).tensors
    if not tiny_names.is_tiny(tensors):
        kind = file_kind(tensors, {name: shape_of(tensor) for name, tensor in tensors.items()}, family)
        names = f"its weights are named {listed(list(tensors), most=3)}" if tensors else "it holds no weights"
        what = f"this is {kind.what}, and no tiny autoencoder" if kind else f"this is no tiny autoencoder ({names})"
        raise CheckpointError(f"{what}.", where=where, fix=fix)
    return tiny_names.in_diffusers_names(tensors, where)


def _inside(path: Path) -> Path:
    """The folder of an autoencoder: its own, or that of a model that has one."""
    return path / "vae" if (path / "vae").is_dir() else path


def _originals(path: Path) -> list[Path]:
    """The decoders' files of a folder that holds the original's, one of each name."""
    found: dict[str, Path] = {}
    for suffix in _FILES:
        for file in sorted(path.glob(f"*_decoder{suffix}")):
            found.setdefault(file.stem, file)
    return list(found.values())
