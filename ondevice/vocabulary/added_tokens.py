"""Tokens that are found whole in a text before it is cut into words:
the start, the end, and what training added (textual inversion).

transformers has written them in four places over the years; which place counts, in which order they are added and with
which flags follows transformers 5's CLIPTokenizer, step by step, because ids are given in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken

from ondevice.errors import CheckpointError
from ondevice.vocabulary.files import ADDED, CHECK, CONFIG, MAP, WHOLE, Files, shown

ROLES = {
    "unk_token": "<|endoftext|>",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
"""What the model needs by name, and what they are where no file says so."""

DECODER = "added_tokens_decoder"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")  # as transformers 5 and 4 call them
_MOST = 1 << 16  # added tokens; each costs memory, and a text encoder has a row for every one
LONGEST = 512  # characters


@dataclass(frozen=True, slots=True)
class AddedTokens:
    """`tokens` in the order in which they are added; `stated` are the ids that the file `where` gives;
    `roles` the tokens of ROLES."""

    tokens: list[AddedToken]
    stated: dict[int, AddedToken]
    roles: dict[str, str]
    where: str


def read_added_tokens(files: Files, config: Mapping[str, Any], vocab: Mapping[str, int]) -> AddedTokens:
    """The added tokens that the files name; `config` is tokenizer_config.json, `vocab` the vocabulary without them.

    Raises CheckpointError for a token, an id or a flag that is none, and for a role whose token is in no vocabulary.
    """
    where = place = files.place(CONFIG)
    stated: dict[int, AddedToken] = {}
    named = {key: _value(value, place, special=False) for key, value in config.items() if _is_named(key, value)}
    extra = _extra(config, _EXTRA, place, special=False)
    if DECODER in config:  # transformers then looks into no other file
        for index, token in _items(config[DECODER], f"{place}: {DECODER}"):
            _state(stated, index, token, place)
    else:
        special = files.json(MAP)
        where = next((files.place(name) for name in (WHOLE, ADDED) if files.has(name)), place)
        place = files.place(MAP) if special else place
        named |= {key: _value(value, place, special=True) for key, value in special.items() if _is_named(key, value)}
        extra |= _extra(special, _EXTRA[:1], place, special=True)
        known = {content for key in _NAMED if isinstance(content := _content(named.get(key)), str)} | extra.keys()
        for content, index in files.json(ADDED).items():
            flags = {"content": content, "special": content in known, "normalized": content not in known}
            _state(stated, index, flags, files.place(ADDED))
        for token in _listed(files):
            _state(
                stated, token.get("id"), {key: value for key, value in token.items() if key != "id"}, files.place(WHOLE)
            )
        extra = extra or _extra(special, _EXTRA[1:], place, special=True)
    values = {role: named.pop(role, None) or ROLES.get(role) for role in _NAMED}
    roles = {role: _content(values[role]) for role in ROLES}
    added = {token.content for token in stated.values()}
    for role, content in roles.items():
        if not isinstance(content, str) or not (content in vocab or (content in added and role != "unk_token")):
            what = f"{role} is not in the vocabulary (got {shown(content)!r}, expected a token of vocab.json)."
            raise CheckpointError(what, where=place, fix=CHECK)
    special_tokens = [
        _as_special(_token(value, place, special=True)) for value in (*values.values(), *named.values()) if value
    ]
    contents = {token.content for token in special_tokens}
    tokens = [
        _as_special(token) if token.content in contents else token
        for _, token in sorted(stated.items(), key=lambda item: item[0])
    ]
    tokens += [token for token in (*special_tokens, *extra.values()) if token.content not in added]
    if len(tokens) > _MOST:
        raise CheckpointError(
            f"too many added tokens (got {len(tokens)}, expected at most {_MOST}).", where=place, fix=CHECK
        )
    return AddedTokens(tokens, stated, roles, where)


def _is_named(key: str, value: Any) -> bool:
    """Whether a setting names a token: one of the seven, or one of a model's own, such as image_token."""
    return key in _NAMED or (key.endswith("_token") and isinstance(value, str | dict))


def _value(value: Any, place: str, *, special: bool) -> Any:
    """What a setting names: an object becomes a token with its flags,
    which special_tokens_map.json and the config read differently."""
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        return value
    return _token({key: flag for key, flag in value.items() if key != "special" or not special}, place, special=special)


def _content(value: Any) -> Any:
    return value.content if isinstance(value, AddedToken) else value


def _extra(config: Mapping[str, Any], keys: Iterable[str], place: str, *, special: bool) -> dict[str, AddedToken]:
    """Special tokens without a name; a mapping names them, which changes nothing here."""
    value: Any = next((config[key] for key in keys if config.get(key)), [])
    value = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(value, list):
        raise CheckpointError(f"additional special tokens are no list (got {shown(value)!r}).", where=place, fix=CHECK)
    tokens = [_token(item, place, special=special or isinstance(item, str)) for item in value]
    return {token.content: token for token in tokens}


def _items(decoder: Any, place: str) -> list[tuple[int, Any]]:
    """(id, token) of tokenizer_config.json's added tokens, whose keys are ids as text."""
    if not isinstance(decoder, dict) or not all(key.isascii() and key.isdecimal() and len(key) < 10 for key in decoder):
        raise CheckpointError("has no object of ids with tokens.", where=place, fix=CHECK)
    return [(int(key), token) for key, token in decoder.items()]


def _listed(files: Files) -> list[dict[str, Any]]:
    """tokenizer.json's added tokens."""
    found = files.json(WHOLE).get("added_tokens")
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(token, dict) for token in found):
        raise CheckpointError("added_tokens is no list of objects.", where=files.place(WHOLE), fix=CHECK)
    return found


def _state(stated: dict[int, AddedToken], index: Any, value: Any, place: str) -> None:
    token = _token(value, place, special=False)
    if type(index) is not int or not 0 <= index < 1 << 20:
        what = f"the added token {token.content!r} has no usable id (got {shown(index)})."
        raise CheckpointError(what, where=place, fix=CHECK)
    if index in stated and stated[index].content != token.content:
        what = f"two added tokens have the id {index} ({stated[index].content!r} and {token.content!r})."
        raise CheckpointError(what, where=place, fix=CHECK)
    stated[index] = token


def _token(value: Any, place: str, *, special: bool) -> AddedToken:
    """`value` is the token, or an object with it and its flags; `special` is what it is where no flag says so."""
    if isinstance(value, AddedToken):
        return value
    options = (
        {key: flag for key, flag in value.items() if key != "__type"} if isinstance(value, dict) else {"content": value}
    )
    content = options.pop("content", None)
    if not isinstance(content, str) or not 0 < len(content) <= LONGEST:
        what = f"an added token is no text of 1..{LONGEST} characters (got {shown(content)!r})."
        raise CheckpointError(what, where=place, fix=CHECK)
    if not options.keys() <= set(FLAGS) or not all(type(flag) is bool for flag in options.values()):
        what = (
            f"the added token {content[:80]!r} has flags other than {', '.join(FLAGS)}, or none that are true or false."
        )
        raise CheckpointError(what, where=place, fix=CHECK)
    return AddedToken(content, **({"special": special} | options))


def _as_special(token: AddedToken) -> AddedToken:
    """The same token, which is then found in the text as it was typed where no flag says otherwise."""
    token.special = True
    return token
