"""What T5's tokenizer is made of, read from files that nobody vouches for, and written as a bundle holds it
(docs/tokenizer.md, "Unigram")."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.errors import CheckpointError
from ondevice.vocabulary.charsmap import Charsmap
from ondevice.vocabulary.files import CHARSMAP, CHECK, CONFIG, SPIECE, UNIGRAM, WHOLE, Files, shown
from ondevice.vocabulary.spiece import Piece, read_model

SPACE = "\u2581"
"""The letter that stands for a space."""

LENGTH = 256
"""Ids that Stable Diffusion 3 gives its T5, where no bundle says how many."""

_MOST = 1 << 20  # ids
_LONGEST = 128  # letters of a piece
_ROLES = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_CLASSES = (None, "T5Tokenizer", "T5TokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast")
_FLAGS = ("lstrip", "rstrip")
_SPLIT = {"type": "WhitespaceSplit"}
_CUT = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"}
_DOUBLES = [
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": content} for content in (SPACE, " ")
]  # two spellings of one thing


@dataclass(frozen=True, slots=True)
class Added:
    """A token that is found whole in a text; white space before or after it may belong to it."""

    content: str
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True, slots=True)
class Unigram:
    """`pieces` by id; `unknown`, `end` and `padding` are ids; `added` the tokens that are found whole, by id;
    `charsmap` the table of replacements, b"" where there is none."""

    pieces: list[Piece]
    unknown: int
    end: int
    padding: int
    added: Mapping[int, Added]
    charsmap: bytes

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return max([len(self.pieces) - 1, *self.added]) + 1

    def files(self) -> dict[str, bytes]:
        """As a bundle holds it."""
        added = {
            str(index): {"content": token.content, "lstrip": token.lstrip, "rstrip": token.rstrip}
            for index, token in sorted(self.added.items())
        }
        whole = {"unknown": self.unknown, "end": self.end, "padding": self.padding, "added": added}
        rows = ",\n".join(json.dumps(piece, ensure_ascii=False) for piece in self.pieces)
        text = json.dumps(whole, ensure_ascii=False)[:-1] + f', "pieces": [\n{rows}\n]}}\n'
        return {UNIGRAM: text.encode()} | ({CHARSMAP: self.charsmap} if self.charsmap else {})


def is_unigram(source: str | Path | Mapping[str, bytes]) -> bool:
    """Whether these are files of a tokenizer of this kind: a bundle's, spiece.model, or tokenizer.json that says so."""
    files = Files(source)
    if files.has(UNIGRAM) or files.has(SPIECE):
        return True
    model = files.json(WHOLE).get("model")
    return isinstance(model, dict) and model.get("type") == "Unigram"


def read_unigram(source: str | Path | Mapping[str, bytes]) -> Unigram:
    """The tokenizer in a folder, or in files' bytes by name: as a bundle holds it, or as transformers saves T5's.

    Raises:
        CheckpointError: a file is missing or damaged, says what another one does not, or is of another kind.
    """
    files = Files(source)
    if files.has(UNIGRAM):
        where, whole = files.place(UNIGRAM), files.json(UNIGRAM)
        pieces = _pieces(whole.get("pieces"), where)
        unknown, end, padding = (_index(whole.get(name), name, where) for name in ("unknown", "end", "padding"))
        added = _added(whole.get("added"), where)
        charsmap = files.read(CHARSMAP) if files.has(CHARSMAP) else b""
        return _checked(Unigram(pieces, unknown, end, padding, added, charsmap), where, files.place(CHARSMAP))
    config = files.json(CONFIG)
    if config.get("tokenizer_class") not in _CLASSES or config.get("padding_side") not in (None, "right"):
        what = f"not T5's tokenizer (got {shown(config.get('tokenizer_class'))!r}, expected 'T5Tokenizer')."
        raise CheckpointError(what, where=files.place(CONFIG), fix="use the folder tokenizer_3 of Stable Diffusion 3")
    found = [_made(files, config, name) for name in (SPIECE, WHOLE) if files.has(name)]
    if not found:
        what = f"missing (got no {SPIECE} and no {WHOLE}, expected one of them)."
        raise CheckpointError(what, where=files.place(SPIECE), fix=CHECK)
    if len(found) == 2 and found[0] != found[1]:
        what = f"it is another tokenizer than {SPIECE}."
        raise CheckpointError(what, where=files.place(WHOLE), fix=f"delete {WHOLE} or {SPIECE}, whichever is not T5's")
    return found[0]


def _made(files: Files, config: Mapping[str, Any], name: str) -> Unigram:
    """Of one of the two files that hold pieces; the config says what is added, else tokenizer.json does."""
    where = files.place(name)
    listed = files.json(WHOLE).get("added_tokens")
    decoder = config.get("added_tokens_decoder")
    if decoder is None and isinstance(listed, list) and all(isinstance(token, dict) for token in listed):
        decoder = {str(token.get("id")): token for token in listed}
    if name == SPIECE:
        pieces, charsmap = read_model(files.read(SPIECE), where)
        pieces = _pieces([list(piece) for piece in pieces], where)
    else:
        pieces, charsmap = _whole(files.json(WHOLE), where)
    if decoder is None:
        added = {index: Added(text) for index, (text, score) in enumerate(pieces) if score is None}
    else:
        added = _added(decoder, files.place(CONFIG))
    pieces = [(text, None if index in added else score) for index, (text, score) in enumerate(pieces)]
    while pieces and pieces[-1][1] is None and len(pieces) - 1 in added:
        pieces.pop()  # a token that was added needs no place among the pieces
    ids = {token.content: index for index, token in added.items()}
    roles = {role: config.get(role) or usual for role, usual in _ROLES.items()}
    contents = {role: value.get("content") if isinstance(value, dict) else value for role, value in roles.items()}
    for role, content in contents.items():
        if not isinstance(content, str) or content not in ids:
            what = f"{role} is no added token (got {shown(content)!r}, expected such as {_ROLES[role]})."
            raise CheckpointError(what, where=where, fix=CHECK)
    end, unknown, padding = (ids[str(contents[role])] for role in _ROLES)
    return _checked(Unigram(pieces, unknown, end, padding, added, charsmap), where, where)


def _whole(whole: Mapping[str, Any], where: str) -> tuple[list[Piece], bytes]:
    """(pieces, table of replacements) of tokenizer.json, if it cuts a text as sentencepiece does."""

    def steps(name: str, inner: str) -> list[Any]:
        step = whole.get(name)
        found = step.get(inner) if isinstance(step, dict) and step.get("type") == "Sequence" else [step]
        return found if isinstance(found, list) else []

    model, normalizer = whole.get("model"), steps("normalizer", "normalizers")
    cuts = [step for step in steps("pre_tokenizer", "pretokenizers") if step != _SPLIT]
    table = normalizer[0].get("precompiled_charsmap") if normalizer and isinstance(normalizer[0], dict) else None
    rest = [step for step in normalizer[1:] if step not in _DOUBLES]
    if not isinstance(model, dict) or model.get("type") != "Unigram" or model.get("byte_fallback"):
        what = "its model is no unigram without bytes"
    elif not isinstance(table, str) or rest not in ([], [{"type": "Strip", "strip_left": False, "strip_right": True}]):
        what = "its normalizer is not T5's"
    elif len(cuts) != 1 or not isinstance(cuts[0], dict) or {**_CUT, **cuts[0]} != {**cuts[0], **_CUT}:
        what = "its pre_tokenizer is not T5's"
    else:
        try:
            return _pieces(model.get("vocab"), where), base64.b64decode(table, validate=True)
        except ValueError:
            what = "its table of replacements is no base64"
    raise CheckpointError(f"not T5's tokenizer ({what}).", where=where, fix=CHECK)


def _pieces(rows: Any, where: str) -> list[Piece]:
    """Pieces of a list of [text, score]."""
    if not isinstance(rows, list) or not 0 < len(rows) <= _MOST:
        got = len(rows) if isinstance(rows, list) else shown(rows)
        raise CheckpointError(f"its pieces are no list of 1 to {_MOST} (got {got}).", where=where, fix=CHECK)
    pieces: list[Piece] = []
    for row in rows:
        text, score = row if isinstance(row, list) and len(row) == 2 else (None, None)
        number = score is None or (type(score) in (int, float) and abs(score) < 1e9)  # not so for NaN, either
        if not isinstance(text, str) or not 0 < len(text) <= _LONGEST or not number:
            what = f"piece {len(pieces)} is no text of 1 to {_LONGEST} letters with a score (got {shown(row)})."
            raise CheckpointError(what, where=where, fix=CHECK)
        pieces.append((text, None if score is None else float(score)))
    return pieces


def _added(value: Any, where: str) -> dict[int, Added]:
    """Added tokens of an object of ids with tokens."""
    added: dict[int, Added] = {}
    if not isinstance(value, dict):
        raise CheckpointError(f"it has no object of added tokens (got {shown(value)}).", where=where, fix=CHECK)
    for key, found in value.items():
        known = key.isascii() and key.isdecimal() and len(key) < 8 and int(key) < _MOST
        token = found if isinstance(found, dict) else {}
        content = token.get("content")
        if not known or not isinstance(content, str) or not 0 < len(content) <= _LONGEST:
            what = f"an added token is no id with a text of 1 to {_LONGEST} letters (got {shown(key)}: {shown(found)})."
            raise CheckpointError(what, where=where, fix=CHECK)
        if token.get("single_word") or token.get("normalized"):
            what = f"the added token {content!r} is a single word or normalized, which T5's are not."
            raise CheckpointError(what, where=where, fix=CHECK)
        added[int(key)] = Added(content, *(bool(token.get(flag)) for flag in _FLAGS))
    return added


def _index(value: Any, name: str, where: str) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise CheckpointError(f"{name} is no id (got {shown(value)}).", where=where, fix=CHECK)
    return value


def _checked(unigram: Unigram, where: str, table: str) -> Unigram:
    """The same, if its parts fit each other."""
    normal = [text for text, score in unigram.pieces if score is not None]
    contents = [token.content for token in unigram.added.values()]
    known = {index for index, (_, score) in enumerate(unigram.pieces) if score is None} | unigram.added.keys()
    if not normal or len(set(normal)) < len(normal) or len(set(contents)) < len(contents):
        raise CheckpointError("two of its pieces or added tokens are one, or it has none.", where=where, fix=CHECK)
    for index, token in unigram.added.items():
        if index < len(unigram.pieces) and unigram.pieces[index] != (token.content, None):
            what = f"the added token {token.content!r} has the id of another piece (got {index})."
            raise CheckpointError(what, where=where, fix=CHECK)
    for name in ("unknown", "end", "padding"):
        if getattr(unigram, name) not in known:
            what = f"{name} is the id of a piece that texts become, or of none (got {getattr(unigram, name)})."
            raise CheckpointError(what, where=where, fix=CHECK)
    Charsmap(unigram.charsmap, table)
    return unigram
