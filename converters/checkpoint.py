"""Open a checkpoint, whatever it is: a diffusers folder, a folder of ONNX files, one .safetensors or .ckpt file, or a hub id."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

from ondevice.converters.ckpt_file import read_ckpt
from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.diffusers_folder import read_folder
from ondevice.converters.families import Family, family_of
from ondevice.converters.hub import download
from ondevice.converters.onnx_import import is_onnx_folder, read_onnx_folder
from ondevice.converters.safetensors_file import read_safetensors
from ondevice.converters.single_file import checkpoint_from
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
) -> Checkpoint:
    """Read the headers of `source` and check every weight's name and shape; the weights themselves are read on access.

    Args:
        source: folder, file or hub id ("organisation/name"); the family's own when None.
        family: gives a single file its configs, scheduler and tokenizer; a folder brings its own. A folder of ONNX files may lack them.
        variant: which weight files of a folder or hub id, for example "fp16". By default the plain ones, or fp16 where there are no others.
        ema: take the averaged weights (model_ema.*) of a single file.
        revision: branch, tag or commit of a hub id.

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
            checkpoint = read_onnx_folder(path, chosen)
        else:
            checkpoint = read_folder(path, chosen, variant)
    elif path.is_file():
        _only_for(variant, "variant", "a folder or a hub id", text)
        checkpoint = _read_one_file(path, chosen, ema)
    elif _HUB_ID.fullmatch(text) and not text.endswith(_FILE_SUFFIXES):
        _only_for(ema, "--ema", "a single file", text)
        folder = download(text, variant=variant, revision=revision)
        checkpoint = replace(read_folder(folder, chosen, variant), source=text)  # not the cache's folder, which a hash names
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


def _read_one_file(path: Path, family: Family, ema: bool) -> Checkpoint:
    """The kind is read from the first bytes, because downloads are often misnamed."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"cannot read the file ({error.strerror}).", where=str(path), fix="check its permissions") from None
    # A safetensors file has its JSON after 8 bytes of length; a zip archive never has a brace there (it is a flag byte of at most 0x0f).
    if head.startswith(b"PK\x03\x04") or (head[8:] != b"{" and path.suffix != ".safetensors"):
        ckpt = read_ckpt(path)
        checkpoint = checkpoint_from(ckpt.tensors, path, family, ema=ema)
        return replace(checkpoint, notes=ckpt.notes + checkpoint.notes)
    return checkpoint_from(read_safetensors(path), path, family, ema=ema)
