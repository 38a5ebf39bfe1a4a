"""One component from weights in any spelling: a part of a single file,
or a file or folder that is given beside a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Stored
from ondevice.converters.component import Component, fitted, lazy, shape_of, taken
from ondevice.converters.families import FAMILIES, Family
from ondevice.converters.read.diffusers_folder import read_component
from ondevice.converters.read.kinds import file_kind
from ondevice.converters.read.names import is_ignorable
from ondevice.converters.read.weights_file import read_weights
from ondevice.errors import CheckpointError, UsageError, WeightsError

# parts that can be given beside a checkpoint
FLAGS = {"text_encoder": "--text-encoder", "unet": "--unet", "vae": "--vae"}
TEXT_ENCODERS = "--text-encoders"  # all of several
DAMAGED = "download the file again, or use another file"


def component_of(
    family: Family, part: str, config: dict[str, Any], tensors: Mapping[str, ir.TensorProtocol], where: str
) -> Component:
    """The part from its weights in the original or in diffusers' names, without a prefix;
    what is known to be unused is left out.

    Raises WeightsError listing missing, extra and mis-shaped weights; CheckpointError for a weight under two names.
    """
    about = family.parts[part]
    places: dict[str, list[tuple[str, Stored]]] = {}
    for name in about.architecture.weights(config):
        place = about.layout.place(name, config)
        places.setdefault(place.name, []).append((name, place))
    needed = {name for rows in places.values() for name, _ in rows}
    found: dict[str, ir.TensorProtocol] = {}
    for name, tensor in tensors.items():
        spelled = about.architecture.canonical(name)
        if (
            spelled not in needed
            and spelled not in places
            and (
                is_ignorable(about.prefix + name)
                or about.layout.spare(spelled, config)
                or about.architecture.beyond(spelled, config)
                or about.architecture.vain(spelled, config)
            )
        ):
            continue
        for to, place in places.get(spelled, [(spelled, Stored(spelled))]):
            if to in found:
                raise CheckpointError(
                    f"the weight {to[:200]} is there under two names.", where=where, fix="use another checkpoint"
                )
            found[to] = taken(tensor, place, to)
    for name in needed - found.keys():
        if make := about.layout.absent(name, config):
            shape = about.architecture.weights(config)[name]
            found[name] = lazy(make, ir.DataType.FLOAT, shape, name)
    try:
        return fitted(family, part, config, found, where, fix=DAMAGED)
    except WeightsError:
        if (other := _sibling(family, part, {about.architecture.canonical(name) for name in tensors})) is None:
            raise
    what = f"these are the weights of {other}'s {about.architecture.word}, not of {family.name}'s."
    raise WeightsError(what, where=where, fix=f"convert it as the model that it is: ondevice convert {other}")


def _sibling(family: Family, part: str, names: set[str]) -> str | None:
    """Another family of the same kind whose part has weights of these names, in either layout; None where none has."""
    for other in FAMILIES.values():
        if other.title == family.title and other.name != family.name and part in other.parts:
            about, config = other.parts[part], other.config(part)
            own = about.architecture.weights(config)
            if names in (set(own), {about.layout.place(name, config).name for name in own}):
                return other.name
    return None


def read_part(family: Family, part: str, path: Path, config: dict[str, Any]) -> Component:
    """A part ("vae", "text_encoder_2", "unet") in a file (in the original or diffusers' names, alone or in a
    checkpoint) or a folder.

    `config` is a file's; a folder brings its own. Raises CheckpointError and WeightsError.
    """
    where = f"{FLAGS.get(part, TEXT_ENCODERS)} {path}"
    word = family.parts[part].architecture.word
    if path.is_dir():
        inside = path / part
        return read_component(inside if inside.is_dir() else path, family, part, None, [])
    if not path.is_file():
        what = f"there is no such file or folder (expected a {word})."
        raise CheckpointError(
            what, where=where, fix=f"give the {word}'s .safetensors, .ckpt, .pt or .bin file, or its folder"
        )
    return component_of(family, part, config, tensors_of(family, part, path, where), where)


def tensors_of(family: Family, part: str, path: Path, where: str) -> dict[str, ir.TensorProtocol]:
    """A part's weights out of a file, which may hold others, by their names in it, without a prefix.
    Raises CheckpointError for a file of something else."""
    about, tensors = family.parts[part], read_weights(path).tensors
    word = about.architecture.word
    chosen: dict[str, ir.TensorProtocol] = dict(tensors)
    inner = about.prefix.partition(".")[2] or about.prefix  # as some tools write a part alone
    for prefix in (about.prefix, f"{part}.", inner):  # in a file that holds others, too
        if own := {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}:
            chosen = dict(own)
            break
    kind = file_kind(chosen, {name: shape_of(tensor) for name, tensor in chosen.items()}, family)
    if kind and kind.network not in (about.architecture.name, about.architecture.name.removesuffix("_pooled")):
        raise CheckpointError(
            f"this is {kind.what}, and no {word}.", where=where, fix=f"give a {word} of {family.title}"
        )
    return chosen


def text_encoders_in(folder: Path, family: Family) -> dict[str, Path]:
    """Where a folder has each text encoder of a family: a folder of the part's name, as diffusers has it, or one
    .safetensors file that begins with its name in the original layout (clip_l, clip_g, t5xxl).

    Raises:
        UsageError: the family has one text encoder, which has a flag of its own.
        CheckpointError: there is no such folder, or it lacks one, or has two.
    """
    encoders = list(dict.fromkeys(family.tokenizers.values()))
    if len(encoders) == 1:
        what = f"{family.name} has one text encoder."
        raise UsageError(what, where=TEXT_ENCODERS, fix=f"give it with {FLAGS[encoders[0]]}")
    where, found = f"{TEXT_ENCODERS} {folder}", {}
    if not folder.is_dir():
        raise CheckpointError("there is no such folder.", where=where, fix="give the folder of the text encoders")
    for part in encoders:
        stem = family.parts[part].prefix.rstrip(".").split(".")[-2]
        files = sorted(path for path in folder.glob(f"{stem}*.safetensors") if not stem.isdigit())
        if (folder / part).is_dir():
            found[part] = folder / part
        elif len(files) == 1:
            found[part] = files[0]
        else:
            names = part + "/" + ("" if stem.isdigit() else f" or one {stem}*.safetensors")
            got = ", ".join(path.name for path in files) or "none"
            raise CheckpointError(f"it lacks a text encoder (got {got}, expected {names}).", where=where, fix="add it")
    return found
