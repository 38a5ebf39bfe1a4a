"""Textual inversion: rows of a token table that training made, put into a checkpoint under a trigger word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ondevice.converters.component import FLOATS, Checkpoint, Component, lazy, listed, shape_of
from ondevice.converters.families import family_of
from ondevice.converters.read.weights_file import read_weights
from ondevice.errors import CheckpointError, UsageError
from ondevice.vocabulary.added_tokens import LONGEST
from ondevice.vocabulary.vocabulary import Vocabulary, read_vocabulary, with_tokens

FLAG = "--embedding"
TABLE = "text_model.embeddings.token_embedding.weight"
_MOST = 75  # vectors: as many as a text encoder's chunk has room for
# Names of the tensors of models with several text encoders, in the order of these: those of most trainers, and of
# diffusers' scripts.
_SEVERAL = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
_NAMELESS = re.compile(r"emb_params|string_to_param(\..*)?|\d*|.*\*")  # a tensor that is named so has no token's name
_OLD_END = 2  # a config's eos_token_id by which the largest id ends a text: not so where tokens are added after it


@dataclass(frozen=True, slots=True)
class Embedding:
    """What a file holds: the vectors for each text encoder, and the token's own name where the file says one."""

    where: str
    token: str
    vectors: Mapping[str, ir.TensorProtocol]  # by component; [count, width] or [width]


def with_embeddings(checkpoint: Checkpoint, given: Sequence[str]) -> Checkpoint:
    """The checkpoint with the tokens of these files: rows are added to the token tables, and names to the tokenizers. A
    file of several vectors gives `<t>`, `<t>_1`, `<t>_2`, which docs/tokenizer.md joins.

    Args:
        given: each `FILE` or `FILE:TRIGGER`. Without a trigger it is the file's own token, else the file's name.

    Raises:
        UsageError: the checkpoint is a folder of graphs, or a trigger is a token already.
        CheckpointError: a file is missing, damaged, or no embedding for these text encoders.
    """
    if given and checkpoint.graphs:
        what = "an exported graph's token table has no room."
        raise UsageError(what, where=FLAG, fix=f"convert from weights, or leave {FLAG} out")
    for one in given:
        path, trigger = _split(one)
        read = read_embedding(path, checkpoint)
        checkpoint = _added(checkpoint, read, trigger or read.token or path.stem)
    return checkpoint


def read_embedding(path: Path, checkpoint: Checkpoint) -> Embedding:
    """What `path` holds for the text encoders of a checkpoint. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError("there is no such file.", where=str(path), fix=f"give {FLAG} FILE or FILE:TRIGGER")
    found = read_weights(path).tensors
    encoders = list(dict.fromkeys(family_of(checkpoint.family).tokenizers.values()))
    for several in _SEVERAL:
        if found.keys() >= set(several):
            if len(encoders) != len(several):
                what = f"it is for {len(several)} text encoders, and this model has {len(encoders)}."
                raise CheckpointError(what, where=str(path), fix="use an embedding that was trained for this model")
            vectors = dict(zip(encoders, (found[name] for name in several), strict=True))
            return _checked(Embedding(str(path), "", vectors), checkpoint)
    if len(found) != 1:
        what = f"it is no textual inversion embedding (it has {len(found)} tensors: {listed(sorted(found), most=4)})."
        raise CheckpointError(what, where=str(path), fix="give one file per token")
    ((name, tensor),) = found.items()
    token = "" if _NAMELESS.fullmatch(name) else name
    if len(encoders) != 1:
        what = f"it has vectors for one text encoder, {list(shape_of(tensor))}, and this model has {len(encoders)}."
        names = " and ".join(_SEVERAL[0])
        raise CheckpointError(what, where=str(path), fix=f"use one with {names}, trained for this model")
    return _checked(Embedding(str(path), token, {encoders[0]: tensor}), checkpoint)


def _checked(read: Embedding, checkpoint: Checkpoint) -> Embedding:
    counts = set()
    for part, tensor in read.vectors.items():
        width, shape = checkpoint.components[part].config["hidden_size"], shape_of(tensor)
        if tensor.dtype not in FLOATS or len(shape) not in (1, 2) or shape[-1] != width:
            what = (
                f"its vectors do not fit the {part} (got {tensor.dtype.name}{list(shape)}, expected [count, {width}])."
            )
            raise CheckpointError(what, where=read.where, fix="use an embedding that was trained for this model")
        counts.add(shape[0] if len(shape) == 2 else 1)
    if len(counts) != 1 or not 1 <= max(counts) <= _MOST:
        got = ", ".join(map(str, sorted(counts)))
        what = f"wrong number of vectors (got {got}, expected 1 to {_MOST}, the same for each text encoder)."
        raise CheckpointError(what, where=read.where, fix="use another embedding")
    return read


def absolute(given: str) -> str:
    """The same with an absolute path."""
    path, trigger = _split(given)
    return f"{path.resolve()}:{trigger}" if trigger else str(path.resolve())


def _split(given: str) -> tuple[Path, str]:
    """(file, trigger or "")"""
    path, _, trigger = given.rpartition(":")
    try:
        whole = Path(given).expanduser().is_file()
    except OSError:  # with a trigger it may be longer than names of files are
        whole = False
    if path and not whole:
        return Path(path).expanduser(), trigger
    return Path(given).expanduser(), ""


def _added(checkpoint: Checkpoint, read: Embedding, trigger: str) -> Checkpoint:
    components, tokenizers = dict(checkpoint.components), dict(checkpoint.tokenizers)
    for folder, part in family_of(checkpoint.family).tokenizers.items():
        shape = shape_of(read.vectors[part])
        names = [f"{trigger}_{place}" if place else trigger for place in range(shape[0] if len(shape) == 2 else 1)]
        vocabulary = read_vocabulary(tokenizers[folder])
        if wrong := _wrong_name(names, vocabulary):
            fix = f"name another trigger, such as {FLAG} '{read.where}:<{trigger}>'"
            raise UsageError(wrong, where=f"{FLAG} {read.where}", fix=fix)
        wider, first = with_tokens(vocabulary, names)
        tokenizers[folder] = wider.files()
        end = wider.backend.token_to_id(wider.roles["eos_token"])
        components[part] = _with_rows(components[part], read.vectors[part], first, len(names), end)
    return replace(checkpoint, components=components, tokenizers=tokenizers)


def _wrong_name(names: Sequence[str], vocabulary: Vocabulary) -> str | None:
    if not 0 < len(names[-1]) <= LONGEST or names[0] != names[0].strip():
        return f"{names[0][:40]!r} cannot be a token (expected 1 to {LONGEST} letters)."
    there = {
        token.content for token in vocabulary.backend.get_added_tokens_decoder().values()
    } | vocabulary.vocab.keys()
    taken = next((name for name in names if name in there), None)
    return None if taken is None else f"{taken[:80]!r} is a token of this model already."


def _with_rows(part: Component, vectors: ir.TensorProtocol, first: int, count: int, end: int | None) -> Component:
    """The text encoder with vectors in the rows from `first` on; rows after them are of no token, and left out."""
    table = part.weights[TABLE]
    width = shape_of(table)[1]

    def rows() -> np.ndarray:
        old = table.numpy()
        return np.concatenate([old[:first], vectors.numpy().reshape(count, width).astype(old.dtype)])

    wider = lazy(rows, table.dtype, (first + count, width), TABLE)
    config = part.config | {"vocab_size": first + count}
    if config.get("eos_token_id") == _OLD_END:
        config["eos_token_id"] = end
    return Component(config, {**part.weights, TABLE: wider})
