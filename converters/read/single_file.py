"""Read one file that holds all three components under their prefixes (the original layout's, or diffusers'),
plus leftovers of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ondevice.converters.architectures.builder import Shape
from ondevice.converters.component import Checkpoint, Component, listed, shape_of
from ondevice.converters.families import FAMILIES, Family, advice, check_joints
from ondevice.converters.read.ckpt_file import Ckpt
from ondevice.converters.read.kinds import file_kind
from ondevice.converters.read.names import ema_name, is_clip_only, is_ignorable
from ondevice.converters.read.parts import FLAGS, TEXT_ENCODERS, component_of
from ondevice.errors import CheckpointError, WeightsError

_TOKENS = "text_model.embeddings.token_embedding.weight"
# what averages are called, and what they are of
_AVERAGED, _LAST = "model_ema.diffusion_model", "model.diffusion_model."

_MARKS: dict[str, tuple[str, Any]] = {
    "v_pred": ("prediction_type", "v_prediction"),
    "ztsnr": ("rescale_betas_zero_snr", True),
}

Tensors = Mapping[str, ir.TensorProtocol]


def checkpoint_from(
    read: Ckpt, path: Path, family: Family, *, ema: bool, given: Mapping[str, Component] | None = None
) -> Checkpoint:
    """A checkpoint from the tensors of one file; configs, scheduler and tokenizers are the family's.

    `ema=True` takes the UNet's moving averages (model_ema.*) instead of its last weights. Parts in `given` are
    taken from there, and the file need not have them. What the file says of its prediction goes before the
    family's scheduler.

    Raises CheckpointError if the file is of another kind, lacks a part, or `ema` asks for averages that are not there;
    WeightsError listing every missing, extra and mis-shaped weight.
    """
    tensors, where, parts = read.tensors, str(path), given or {}
    telling = [name for name in tensors if not is_ignorable(name) or is_clip_only(name)]
    if kind := file_kind(telling, {name: shape_of(tensors[name]) for name in telling}, family):
        raise CheckpointError(f"this is {kind.what}.", where=where, fix=kind.fix)
    has_ema = any(name.startswith(_AVERAGED) for name in tensors)
    if ema and not (has_ema or read.averaged):
        raise CheckpointError("the file holds no averaged weights (model_ema.*).", where=where, fix="leave --ema out")
    configs = {part: family.config(part) for part in family.parts if part not in parts}
    left = moved({name: tensor for name, tensor in tensors.items() if name not in _MARKS}, family.moved)
    found = {part: _taken(family, part, configs.get(part), left) for part in family.parts}
    has_last = {part for part, weights in found.items() if weights}
    averaged = next((part for part, about in family.parts.items() if about.prefix == _LAST), "")
    if ema and has_ema and averaged in configs:
        prefix, names = family.parts[averaged].prefix, family.parts[averaged].original_names(configs[averaged])
        averages = {place.name.removeprefix(prefix): tensors.get(ema_name(place.name)) for place in names.values()}
        found[averaged] = {name: tensor for name, tensor in averages.items() if tensor is not None}
    _check_kind(family, configs, found, where)
    _check_parts(family, found, list(configs), averaged if has_ema else "", telling, where)
    _check_tokens(family, configs, found, where)
    networks = {part: component_of(family, part, config, found[part], where) for part, config in configs.items()}
    components = {part: parts[part] if part in parts else networks[part] for part in family.parts}
    check_joints(family, {name: component.config for name, component in components.items()}, where)
    left = {name: tensor for name, tensor in left.items() if not name.startswith(family.unused)}
    extra = [name for name in left if not is_ignorable(name)]
    if extra:
        raise WeightsError(
            f"the file holds weights that no component uses; {len(extra)} extra: {listed(extra)}.",
            where=where,
            fix=f"use a plain {family.title} checkpoint",
        )
    notes = _notes(list(left), has_ema, ema, averaged in has_last)
    tokenizers = {name: family.tokenizer(name) for name in family.tokenizers}
    return Checkpoint(components, family.scheduler() | _prediction(read), tokenizers, family.name, where, notes)


def moved(tensors: Tensors, prefixes: Mapping[str, str]) -> dict[str, ir.TensorProtocol]:
    """`tensors` with other prefixes, {as it is there: as it is read}; what is read there otherwise makes way."""
    found = dict(tensors)
    for there, read in prefixes.items():
        for name in [name for name in found if name.startswith(there)]:
            found[read + name.removeprefix(there)] = found.pop(name)
    return found


def _prediction(read: Ckpt) -> dict[str, Any]:
    """What the file itself says of how its UNet was trained, as keys of a scheduler's config:
    ComfyUI's empty tensors, kohya's metadata."""
    said = {key: value for mark, (key, value) in _MARKS.items() if mark in read.tensors}
    if read.metadata.get("modelspec.prediction_type") in ("v", "v_prediction"):
        said["prediction_type"] = "v_prediction"
    return said


def _taken(
    family: Family, part: str, config: Mapping[str, Any] | None, left: dict[str, ir.TensorProtocol]
) -> dict[str, ir.TensorProtocol]:
    """The part's weights without their prefix, out of `left`;
    those that are known to be unused, and not of its `config`, stay there."""
    about = family.parts[part]
    prefix = next(
        (prefix for prefix in (about.prefix, f"{part}.") if any(name.startswith(prefix) for name in left)), None
    )
    if prefix is None:
        return {}
    places = about.original_names(config) if config is not None else {}
    needed = {*places, *(place.name.removeprefix(about.prefix) for place in places.values())}
    names = [name.removeprefix(prefix) for name in left if name.startswith(prefix)]
    return {name: left.pop(prefix + name) for name in names if name in needed or not is_ignorable(prefix + name)}


def _check_kind(
    family: Family, configs: Mapping[str, Mapping[str, Any]], found: Mapping[str, Tensors], where: str
) -> None:
    """Refuse another kind of model, which has the same names and other shapes.
    Raises CheckpointError that says which it is."""
    for part, config in configs.items():
        network = family.parts[part].architecture
        shapes = {name: shape_of(tensor) for name, tensor in found[part].items()}
        kind = network.kind_of_shapes(shapes)
        if kind is not None and kind not in (family.title, network.kind(config)):
            what = f"this is {kind}, not {family.title} (by the shapes of its {network.word}'s weights)."
            raise CheckpointError(what, where=where, fix=advice(kind, family, "model"))
        if not network.first:
            continue
        place, (expected, *_) = (
            family.parts[part].layout.place(network.first, config).name,
            network.weights(config)[network.first],
        )
        first: Shape = next((shapes[name] for name in (place, network.first) if name in shapes), ())
        if len(first) == 4 and first[0] != expected:
            alike = (other for other in FAMILIES.values() if other.title == family.title and other.base is None)
            sized = {other.name: other.config(part) for other in alike}
            fitting = [name for name, other in sized.items() if network.weights(other)[network.first][0] == first[0]]
            what = (
                f"it is no model of the size of {family.name} (its {network.word} begins with {first[0]} "
                f"channels, expected {expected})."
            )
            fix = f"convert it as {' or '.join(fitting)}" if fitting else f"use a checkpoint of {family.name}"
            raise CheckpointError(what, where=where, fix=fix)


def _check_parts(
    family: Family, found: Mapping[str, Tensors], needed: list[str], averaged: str, names: list[str], where: str
) -> None:
    """Refuse a file that lacks a whole part out of `needed`, or all.
    Raises CheckpointError that says which, and what can be done.

    `averaged` is the part that the file has averaged weights of.
    """
    lacking = [part for part in needed if not found[part]]
    if averaged in lacking:
        what = "the file holds the UNet's averaged weights (model_ema.*) and not its last ones."
        raise CheckpointError(what, where=where, fix="add --ema, which takes them")
    if not averaged and not any(found.values()):
        what = f"its weights are named {listed(names, most=3)}" if names else "it holds no weights"
        raise CheckpointError(
            f"this is no Stable Diffusion checkpoint ({what}).", where=where, fix=f"give a {family.title} checkpoint"
        )
    parts = {part: (family.parts[part].architecture.word, family.parts[part].prefix) for part in lacking}
    if needy := [part for part in lacking if part not in FLAGS]:
        word, prefix = parts[needy[0]]
        smaller = [other for other in FAMILIES.values() if _is_without(other, family, lacking)]
        if smaller:
            raise CheckpointError(
                f"the file holds no {word} (no weights named {prefix}...).",
                where=where,
                fix=f"convert it as {smaller[0].name}, which needs none",
            )
        if family.parts.keys() > {*lacking} == {*family.tokenizers.values()} and len(lacking) > 1:
            beginnings = ", ".join(f"{parts[part][1]}..." for part in lacking)
            raise CheckpointError(
                f"the file holds no text encoders (no weights named {beginnings}).",
                where=where,
                fix=f"add {TEXT_ENCODERS} FOLDER, of a diffusers folder or of files of their own, or use a file that "
                "holds them",
            )
        raise CheckpointError(
            f"the file holds no {word} (no weights named {prefix}...).",
            where=where,
            fix=(
                f"give a whole {family.title} checkpoint; "
                f"what goes beside it is given with {', '.join(FLAGS[part] for part in family.parts if part in FLAGS)}"
            ),
        )
    if lacking:
        words = " and no ".join(word for word, _ in parts.values())
        prefixes = " or ".join(f"{prefix}..." for _, prefix in parts.values())
        raise CheckpointError(
            f"the file holds no {words} (no weights named {prefixes}).",
            where=where,
            fix=f"add {' and '.join(FLAGS[part] + ' PATH' for part in lacking)}, or use the whole checkpoint",
        )


def _is_without(other: Family, family: Family, lacking: list[str]) -> bool:
    """Whether another family is `family` without these parts."""
    return other.parts.keys() == family.parts.keys() - set(lacking) and other.hub_id == family.hub_id


def _check_tokens(
    family: Family, configs: Mapping[str, Mapping[str, Any]], found: Mapping[str, Tensors], where: str
) -> None:
    """Refuse a text encoder with more tokens than its config, whose words the file does not have.
    Raises CheckpointError."""
    for part in dict.fromkeys(family.tokenizers.values()):
        if part not in configs:
            continue
        place = family.parts[part].layout.place(_TOKENS, configs[part]).name
        for name, tensor in found[part].items():
            rows = shape_of(tensor)[:1]
            spelled = family.parts[part].architecture.canonical(name)
            if spelled in (_TOKENS, place) and rows and rows[0] > configs[part]["vocab_size"]:
                count = rows[0] - configs[part]["vocab_size"]
                what = (
                    f"its text encoder knows {count} added token{'s' * (count > 1)} "
                    "(textual inversion), and not their words."
                )
                fix = "give the diffusers folder of the same model, whose tokenizer/ has them"
                raise CheckpointError(what, where=where, fix=fix)


def _notes(left: list[str], has_ema: bool, ema: bool, has_last: bool) -> tuple[str, ...]:
    averages = [name for name in left if name.startswith("model_ema.")]
    others = [name for name in left if not name.startswith("model_ema.")]
    notes = []
    if has_ema and ema:
        notes.append(
            "the UNet's averaged weights (model_ema.*) were taken"
            + ("; its last weights were ignored" if has_last else "")
        )
    elif has_ema:
        notes.append(f"{len(averages)} averaged weights (model_ema.*) were ignored; --ema takes them instead")
    if others:
        notes.append(f"tensors that are no weights were ignored: {listed(others, most=2)}")
    return tuple(notes)
