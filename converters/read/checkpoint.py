"""Open a checkpoint, whatever it is: a diffusers folder, a folder of ONNX files,
one .safetensors, .gguf or .ckpt file, or a hub id."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.families import Family, family_of
from ondevice.converters.onnx_import import is_onnx_folder, read_onnx_folder
from ondevice.converters.read.diffusers_folder import read_folder
from ondevice.converters.read.hub import download, is_hub_id, local_part
from ondevice.converters.read.json_text import read_object
from ondevice.converters.read.parts import FLAGS, TEXT_ENCODERS, read_part
from ondevice.converters.read.signatures import BUNDLE, IS_BUNDLE, NO_BUNDLE
from ondevice.converters.read.single_file import checkpoint_from
from ondevice.converters.read.tiny_files import holds_tiny, read_tiny_vae
from ondevice.converters.read.weights_file import read_weights
from ondevice.errors import CheckpointError, UsageError

__all__ = ["Checkpoint", "Component", "open_checkpoint"]

log = logging.getLogger(__name__)


def open_checkpoint(
    source: str | Path | None = None,
    *,
    family: Family | str,
    variant: str | None = None,
    ema: bool = False,
    revision: str | None = None,
    unet: str | Path | None = None,
    vae: str | Path | None = None,
    text_encoder: str | Path | Mapping[str, str | Path] | None = None,
) -> Checkpoint:
    """Read the headers of `source` and check every weight's name and shape; the weights themselves are read on access.

    Args:
        source: folder, file or hub id ("organisation/name"); the family's own when None.
        family: gives a single file its configs, scheduler and tokenizer; a folder brings its own. A folder of ONNX
            files may lack them.
        variant: which weight files of a folder or hub id, for example "fp16". By default the plain ones, or fp16 where
            there are no others.
        ema: take the averaged weights (model_ema.*) of a single file.
        revision: branch, tag or commit of a hub id.
        unet, vae, text_encoder: a file, a diffusers folder or a hub id that the component is taken from instead; the
            source need not have it. `text_encoder` may be a mapping, {part: the same}, for a family that has several.

    Raises:
        UsageError: no such family, an option that does not go with the source, or no source of a family whose own
            repository lacks a part that is not given.
        CheckpointError: the source is missing, damaged, hostile, or of a kind we do not read.
        WeightsError: weights are missing, extra or mis-shaped.
        GraphError: an ONNX file is no graph of its component.
        DownloadError: the hub id could not be fetched.
    """
    chosen = family_of(family)
    texts: Mapping[str, str | Path | None] = (
        text_encoder if isinstance(text_encoder, Mapping) else {"text_encoder": text_encoder}
    )
    parts = {**texts, "unet": unet, "vae": vae}
    beside = {part: given for part, given in parts.items() if given is not None}
    if source is None:
        _has_what_is_apart(chosen, beside)
    text = str(source) if source is not None else chosen.source
    path = Path(text).expanduser()
    if path.is_dir():
        _only_for(ema, "--ema", "a single file", text)
        if is_onnx_folder(path):
            _only_for(variant, "variant", "a folder of weights or a hub id", text)
            for part, value in beside.items():
                _only_for(value, FLAGS.get(part, TEXT_ENCODERS), "a checkpoint of weights", text)
            checkpoint = read_onnx_folder(path, chosen)
        else:
            if (path / BUNDLE).is_file():
                raise CheckpointError(IS_BUNDLE, where=text, fix=NO_BUNDLE)
            checkpoint = read_folder(path, chosen, variant, _given(beside, chosen, path))
    elif path.is_file():
        _only_for(variant, "variant", "a folder or a hub id", text)
        checkpoint = _read_one_file(path, chosen, ema, _given(beside, chosen, None))
    elif is_hub_id(text):
        _only_for(ema, "--ema", "a single file", text)
        folder = download(text, chosen, variant=variant, revision=revision)
        read = read_folder(folder, chosen, variant, _given(beside, chosen, folder))
        checkpoint = replace(read, source=text)  # not the cache's folder, which a hash names
    else:
        raise CheckpointError(
            "there is no such file or folder, and it is no hub id.",
            where=text,
            fix="give a diffusers folder, a folder of ONNX files, a .safetensors or .ckpt file, or a hub id such as "
            "CompVis/stable-diffusion-v1-4",
        )
    for note in checkpoint.notes:
        log.warning("%s: %s", text, note)
    return checkpoint


def _only_for(value: object, name: str, what: str, where: str) -> None:
    if value:
        raise UsageError(f"{name} goes only with {what}.", where=where, fix=f"leave {name} out")


def _read_one_file(path: Path, family: Family, ema: bool, given: Mapping[str, Component]) -> Checkpoint:
    read = read_weights(path, averaged=ema)
    checkpoint = checkpoint_from(read, path, family, ema=ema, given=given)
    return replace(checkpoint, notes=read.notes + checkpoint.notes)


def _has_what_is_apart(family: Family, beside: Mapping[str, str | Path]) -> None:
    """Raise UsageError where the family's own repository lacks a part, and nobody gives it."""
    for part, where in family.apart.items():
        if part not in beside:
            word = family.parts[part].architecture.word
            raise UsageError(
                f"its {word} is published apart from the rest.",
                where=family.name,
                fix=f"download {where}, and give it with {FLAGS[part]}; or give a whole checkpoint with --checkpoint",
            )


def _given(beside: Mapping[str, str | Path], family: Family, root: Path | None) -> dict[str, Component]:
    """The components that are given beside a checkpoint.
    A file's config is that of the folder `root` where it is of the same network, or the family's."""
    given = {}
    for name, source in beside.items():
        if name not in family.parts:
            raise UsageError(f"{family.name} has no such part.", where=FLAGS[name], fix=f"leave {FLAGS[name]} out")
        path = root / name / "config.json" if root else None
        raw = read_object(path) if path is not None and path.is_file() else None
        classes = family.parts[name].architecture.classes
        if raw is None or (classes and raw.get("_class_name", classes[0]) not in classes):
            config = family.config(name)  # a tiny autoencoder's folder, beside which a whole one is given
        else:
            config = family.normalize(name, raw, str(path))
        local = local_part(str(source), family, name)
        if name == "vae" and holds_tiny(local):
            given[name] = read_tiny_vae(local, family)
        else:
            given[name] = read_part(family, name, local, config)
    return given
