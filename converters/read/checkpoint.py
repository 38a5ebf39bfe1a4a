"""Open a checkpoint, whatever it is: a diffusers folder, a folder of ONNX files,
one .safetensors or .ckpt file, or a hub id."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.families import Family, family_of
from ondevice.converters.onnx_import import is_onnx_folder, read_onnx_folder
from ondevice.converters.read.diffusers_folder import read_folder
from ondevice.converters.read.hub import download, download_part
from ondevice.converters.read.json_text import read_object
from ondevice.converters.read.parts import FLAGS, read_part
from ondevice.converters.read.single_file import checkpoint_from
from ondevice.converters.read.weights_file import read_weights
from ondevice.errors import CheckpointError, UsageError

__all__ = ["Checkpoint", "Component", "open_checkpoint"]

log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def open_checkpoint(
    source: str | Path | None = None,
    *,
    family: Family | str,
    variant: str | None = None,
    ema: bool = False,
    revision: str | None = None,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
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
        vae, text_encoder: a file, a diffusers folder or a hub id that the component is taken from instead; the source
            need not have it.

    Raises:
        UsageError: no such family, or an option that does not go with the source.
        CheckpointError: the source is missing, damaged, hostile, or of a kind we do not read.
        WeightsError: weights are missing, extra or mis-shaped.
        GraphError: an ONNX file is no graph of its component.
        DownloadError: the hub id could not be fetched.
    """
    chosen = family_of(family)
    text = str(source) if source is not None else chosen.source
    path = Path(text).expanduser()
    if path.is_dir():
        _only_for(ema, "--ema", "a single file", text)
        if is_onnx_folder(path):
            _only_for(variant, "variant", "a folder of weights or a hub id", text)
            _only_for(vae, "--vae", "a checkpoint of weights", text)
            _only_for(text_encoder, "--text-encoder", "a checkpoint of weights", text)
            checkpoint = read_onnx_folder(path, chosen)
        else:
            checkpoint = read_folder(path, chosen, variant, _given(vae, text_encoder, chosen, path))
    elif path.is_file():
        _only_for(variant, "variant", "a folder or a hub id", text)
        checkpoint = _read_one_file(path, chosen, ema, _given(vae, text_encoder, chosen, None))
    elif _is_hub_id(text):
        _only_for(ema, "--ema", "a single file", text)
        folder = download(text, chosen, variant=variant, revision=revision)
        read = read_folder(folder, chosen, variant, _given(vae, text_encoder, chosen, folder))
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


def _given(
    vae: str | Path | None, text_encoder: str | Path | None, family: Family, root: Path | None
) -> dict[str, Component]:
    """The components that are given beside a checkpoint.
    A file's config is that of the folder `root`, or the family's."""
    given = {}
    for name, source in (("text_encoder", text_encoder), ("vae", vae)):
        if source is None:
            continue
        if name not in family.parts:
            raise UsageError(f"{family.name} has no such part.", where=FLAGS[name], fix=f"leave {FLAGS[name]} out")
        path = root / name / "config.json" if root else None
        own = path is not None and path.is_file()
        config = family.normalize(name, read_object(path), str(path)) if path and own else family.config(name)
        given[name] = read_part(family, name, _local(str(source), family, name), config)
    return given


def _local(source: str, family: Family, part: str) -> Path:
    """Where a part that is given beside a checkpoint lies; one with a hub id is fetched."""
    path = Path(source).expanduser()
    return download_part(source, family, part) if not path.exists() and _is_hub_id(source) else path


def _is_hub_id(text: str) -> bool:
    return _HUB_ID.fullmatch(text) is not None and not text.endswith(_FILE_SUFFIXES)
