"""Settings of a tokenizer that would give other ids than CLIP's.
Each is refused by name: none may silently change a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ondevice.errors import CheckpointError
from ondevice.vocabulary.files import CONFIG, WHOLE, Files, shown

LENGTH = 77
"""Ids that CLIP's text encoder takes at once, start and end included; those of others may take up to LONGEST."""
LONGEST = 1024
_LENGTHS = ("model_max_length", "max_len")

WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
SPACES = r"\s+"
SUFFIX = "</w>"  # of a word's last piece

# The class says nothing where the files are CLIP's: transformers 5 writes the names of its base classes, and some tools
# no name or null.
_CLASSES = (
    None,
    "CLIPTokenizer",
    "CLIPTokenizerFast",
    "TokenizersBackend",
    "PreTrainedTokenizerFast",
    "PreTrainedTokenizer",
)
_UNBOUNDED = 10**9  # a length above it is transformers' "none is known"
_FIX = "use the tokenizer folder of a Stable Diffusion 1.x or 2.x checkpoint"

_NORMALIZER = [
    {"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": SPACES}, "content": " "},
    {"type": "Lowercase"},
]
_SPLITS = [  # transformers 4 leaves the special tokens out, which are cut out of a text before
    {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": True}
    for words in (WORDS, WORDS.removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|"))
]
_MODEL: dict[str, tuple[Any, ...]] = {  # of tokenizer.json's model: what else would cut words otherwise
    "continuing_subword_prefix": (None, ""),
    "dropout": (None, 0),
    "fuse_unk": (None, False),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}


def check_settings(files: Files, config: Mapping[str, Any], roles: Mapping[str, str]) -> None:
    """Raise CheckpointError unless tokenizer_config.json and tokenizer.json ask for what CLIP's tokenizer does."""
    where = files.place(CONFIG)
    kind = config.get("tokenizer_class")
    if kind not in _CLASSES:
        raise CheckpointError(
            f"not a CLIP tokenizer (got {shown(kind)!r}, expected 'CLIPTokenizer').", where=where, fix=_FIX
        )
    for name in ("padding_side", "truncation_side"):
        _check_value(config.get(name), (None, "right"), name, where)
    _check_value(config.get("split_special_tokens"), (None, False), "split_special_tokens", where)
    _check_value(config.get("fast_tokenizer_files"), (None, [], [WHOLE]), "fast_tokenizer_files", where)
    length_of(config, where)
    whole, where = files.json(WHOLE), files.place(WHOLE)
    _check_value(_inner(whole.get("normalizer"), "normalizers"), (None, _NORMALIZER), "the normalizer", where)
    _check_value(_pre_tokenizer(whole.get("pre_tokenizer")), (None, *_SPLITS), "the pre_tokenizer", where)
    _check_value(
        _ends(whole.get("post_processor")),
        (None, (roles["bos_token"], roles["eos_token"])),
        "the post_processor",
        where,
    )
    for name in ("truncation", "padding"):
        part = whole.get(name)
        _check_value(
            part.get("direction") if isinstance(part, dict) else part, (None, "Right"), f"the {name}'s direction", where
        )


def length_of(config: Mapping[str, Any], where: str) -> int | None:
    """How many ids a text has by a tokenizer_config.json; None where it does not say.

    Raises CheckpointError for what is no length.
    """
    for name in _LENGTHS:
        length = config.get(name)
        if length is None or (type(length) in (int, float) and length > _UNBOUNDED):
            continue
        if type(length) not in (int, float) or not 3 <= length <= LONGEST or length != int(length):
            what = f"{name} is {shown(length)} (expected a whole number from 3 to {LONGEST})."
            raise CheckpointError(what, where=where, fix=_FIX)
        return int(length)
    return None


def without_length(config: bytes) -> bytes:
    """A tokenizer_config.json that does not say how many ids a text has: a bundle says it beside the files."""
    return _text(_other_than_length(config))


def with_length(config: bytes, length: int) -> bytes:
    """A tokenizer_config.json that says so many ids, for readers that look nowhere else."""
    return _text(_other_than_length(config) | {"model_max_length": length})


def _other_than_length(config: bytes) -> dict[str, Any]:
    return {key: value for key, value in json.loads(config).items() if key not in _LENGTHS}


def _text(config: dict[str, Any]) -> bytes:
    return (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode()


def check_model(model: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError unless tokenizer.json's byte-pair model cuts words as CLIP's does."""
    for name, expected in _MODEL.items():
        _check_value(model.get(name), expected, f"the model's {name}", where)


def _check_value(value: Any, allowed: tuple[Any, ...], name: str, where: str) -> None:
    if value not in allowed:
        raise CheckpointError(f"{name} is not CLIP's (got {shown(value)}).", where=where, fix=_FIX)


def _inner(step: Any, key: str) -> Any:
    """The steps of a sequence; anything else as it is."""
    return step.get(key, step) if isinstance(step, dict) and step.get("type") == "Sequence" else step


def _pre_tokenizer(step: Any) -> Any:
    """The splitting step where the other one is the bytes' as CLIP's is; anything else as it is."""
    steps = _inner(step, "pretokenizers")
    if isinstance(steps, list) and len(steps) == 2 and isinstance(steps[1], dict):
        rest = {key: value for key, value in steps[1].items() if key != "trim_offsets"}
        if {"use_regex": True} | rest == {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return steps[0]
    return step


def _ends(step: Any) -> Any:
    """(start, end) that a post-processor puts around a text; anything else as it is."""
    if not isinstance(step, dict):
        return step
    if step.get("type") == "RobertaProcessing":
        pairs = [step.get("cls"), step.get("sep")]
        return tuple(pair[0] if isinstance(pair, list) and pair else None for pair in pairs)
    single = step.get("single") if step.get("type") == "TemplateProcessing" else None
    if (
        isinstance(single, list)
        and len(single) == 3
        and all(isinstance(part, dict) for part in single)
        and "Sequence" in single[1]
    ):
        return tuple(
            part["SpecialToken"].get("id") for part in single[::2] if isinstance(part.get("SpecialToken"), dict)
        )
    return step
