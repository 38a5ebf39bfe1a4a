"""The tokenizer's files of a diffusers folder, as vocabulary and merges whichever version of transformers saved them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ondevice.converters.families import TOKENIZER_FILES
from ondevice.converters.json_text import parse_object, read_bytes, read_object
from ondevice.errors import CheckpointError

TOKENS = 77  # of a prompt, padded: Stable Diffusion 1.x is trained on no other length
OPTIONAL = ("special_tokens_map.json",)  # newer versions of transformers leave it out
_FIX = "give a folder whose tokenizer/ holds vocab.json and merges.txt, or tokenizer.json"


def read_tokenizer(folder: Path) -> dict[str, bytes]:
    """Files by name: vocab.json, merges.txt, tokenizer_config.json, and special_tokens_map.json where there is one.

    transformers 5 saves vocabulary and merges in one tokenizer.json; they are taken out of it where vocab.json is missing.

    Raises:
        CheckpointError: a file is missing, damaged, or no byte-pair tokenizer.
    """
    made = {}
    if not (folder / "vocab.json").exists() and (folder / "tokenizer.json").exists():
        made = _split(folder / "tokenizer.json")
    for name in TOKENIZER_FILES:
        if name not in made and not (name in OPTIONAL and folder.is_dir() and not (folder / name).exists()):
            made[name] = read_bytes(folder / name, _FIX)
    return made


def check_vocabulary(tokenizer: Mapping[str, bytes], config: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError unless every token id has a row in the text encoder's table, and texts have the length we tokenize to.

    A gather would clamp an id past the end, and the picture would be of another prompt.
    """
    ids = parse_object(tokenizer["vocab.json"], f"{where}/vocab.json", _FIX).values()
    top = max((value for value in ids if type(value) is int), default=-1)
    if top >= config["vocab_size"]:
        raise CheckpointError(f"it has the id {top}, and the text encoder {config['vocab_size']} rows.", where=where, fix=_FIX)
    if config["max_position_embeddings"] != TOKENS:
        what = f"the text encoder takes {config['max_position_embeddings']} tokens (expected {TOKENS})."
        raise CheckpointError(what, where=where, fix="use a Stable Diffusion 1.x model")


def _split(path: Path) -> dict[str, bytes]:
    """vocab.json and merges.txt out of a tokenizer.json."""
    model = read_object(path, _FIX).get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        raise CheckpointError("it is no byte-pair tokenizer of CLIP's kind (expected model type BPE with </w>).", where=str(path), fix=_FIX)
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise CheckpointError("its model has no vocab object or no merges list.", where=str(path), fix=_FIX)
    lines = [_merge(entry, path) for entry in merges]
    return {"vocab.json": json.dumps(vocab, ensure_ascii=False).encode(), "merges.txt": "\n".join(["#version: 0.2", *lines, ""]).encode()}


def _merge(entry: Any, path: Path) -> str:
    """ "a b" from either spelling of a merge: ["a", "b"] or "a b"."""
    pair = entry if isinstance(entry, list) else str(entry).split(" ")
    if len(pair) != 2 or not all(isinstance(part, str) and part and not any(c.isspace() for c in part) for part in pair):
        raise CheckpointError(f"a merge is not two tokens (got {str(entry)[:80]!r}).", where=str(path), fix=_FIX)
    return " ".join(pair)
