"""The vocabulary of a CLIP tokenizer, read from its files and written as a bundle holds it (docs/tokenizer.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ondevice.errors import CheckpointError
from ondevice.vocabulary.added_tokens import DECODER, FLAGS, AddedTokens, read_added_tokens
from ondevice.vocabulary.files import ADDED, CHECK, CONFIG, EITHER, MAP, MERGES, VOCAB, WHOLE, Files, shown
from ondevice.vocabulary.settings import LENGTH, SPACES, SUFFIX, WORDS, check_model, check_settings, length_of

_MAX_TOKENS = 1 << 20
_VERSION = "#version: 0.2"
_WHOLE_WORD = re.compile(r"\w(.*\w)?")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`backend` gives a text's ids without start and end;
    `roles` has the tokens of "bos_token", "eos_token", "unk_token", "pad_token"."""

    backend: Tokenizer
    roles: Mapping[str, str]
    vocab: Mapping[str, int]
    merges: list[tuple[str, str]]
    size: int  # one more than the highest id
    length: int | None  # ids of a text, where its files say it
    source: Files

    def files(self, more: Iterable[str] = ()) -> dict[str, bytes]:
        """As a bundle holds it: the files as they are where a player reads them alike.

        Merges become plain lines. Added tokens come together in tokenizer_config.json, with their ids and flags,
        whichever file had them. `more` are added after them, found in a text as they are written, and where they begin
        and end in a word's letters only as whole words.
        """
        added = self.backend.get_added_tokens_decoder()
        lines = [_VERSION, *(" ".join(pair) for pair in self.merges), ""]
        same = self.source.has(VOCAB) and self.source.json(VOCAB) == self.vocab
        files = {VOCAB: self.source.read(VOCAB) if same else json.dumps(self.vocab, ensure_ascii=False).encode()}
        files |= {
            MERGES: "\n".join(lines).encode(),
            **{name: self.source.read(name) for name in (CONFIG, MAP) if self.source.has(name)},
        }
        new = {
            index: {"content": name, **dict.fromkeys(FLAGS, False), "single_word": bool(_WHOLE_WORD.fullmatch(name))}
            for index, name in enumerate(more, self.backend.get_vocab_size())
        }
        if (
            not new
            and not self.source.has(ADDED)
            and not self.source.has(WHOLE)
            and {t.content for t in added.values()} <= set(self.roles.values())
        ):
            return files
        decoder = {
            str(index): {"content": t.content, **{flag: getattr(t, flag) for flag in FLAGS}}
            for index, t in sorted(added.items())
        } | {str(index): token for index, token in new.items()}
        length = {"model_max_length": self.length or LENGTH}
        config = {"tokenizer_class": "CLIPTokenizer", **length, **self.roles, DECODER: decoder}
        files[CONFIG] = (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode()
        return {name: data for name, data in files.items() if name != MAP}


def read_vocabulary(source: str | Path | Mapping[str, bytes]) -> Vocabulary:
    """The vocabulary in a folder, or in files' bytes by name; all that transformers 4 and 5 write is understood.

    Raises:
        CheckpointError: a file is missing or damaged, or it is no tokenizer of CLIP's kind, or gives other ids than
            its files say.
    """
    files = Files(source)
    config = files.json(CONFIG)
    vocab, merges = _model(files)
    added = read_added_tokens(files, config, vocab)
    check_settings(files, config, added.roles)
    backend = Tokenizer(
        BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix=SUFFIX, unk_token=added.roles["unk_token"])
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(SPACES), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # Added also means: found in a prompt it is one id. A model that pads with "!" so gives "!" in a prompt
    # id 0, not 256.
    backend.add_tokens(added.tokens)
    _check_ids(backend, added, vocab, files)
    size = max(*vocab.values(), *backend.get_added_tokens_decoder()) + 1
    return Vocabulary(backend, added.roles, vocab, merges, size, length_of(config, files.place(CONFIG)), files)


def with_tokens(vocabulary: Vocabulary, names: Sequence[str]) -> tuple[Vocabulary, int]:
    """A vocabulary with these tokens added, and the id of the first.

    Raises:
        CheckpointError: as `read_vocabulary`, of what comes of it.
    """
    wider = read_vocabulary(vocabulary.files(names))
    return wider, wider.size - len(names)


def _check_ids(backend: Tokenizer, added: AddedTokens, vocab: Mapping[str, int], files: Files) -> None:
    """New tokens get the ids after the vocabulary's count;
    where a file says otherwise, versions of transformers differ."""
    for index, token in added.stated.items():
        if (got := backend.token_to_id(token.content)) != index:
            what = (
                f"the added token {token.content[:80]!r} has the id {index} (expected {got}, "
                "which transformers gives it)."
            )
            raise CheckpointError(what, where=added.where, fix=CHECK)
    taken: set[int | None] = set(vocab.values())
    spelled: dict[str, str] = {}
    for token in added.tokens:
        if token.content not in vocab and (got := backend.token_to_id(token.content)) in taken:
            what = (
                f"the added token {token.content[:80]!r} gets the id {got}, which the vocabulary has given "
                "away (its ids leave gaps)."
            )
            raise CheckpointError(what, where=files.place(VOCAB), fix=CHECK)
        if token.normalized:
            same = spelled.setdefault(backend.normalizer.normalize_str(token.content), token.content)
            if same != token.content:  # which of the two a text gets is chance, in transformers as well
                what = f"the added tokens {same[:80]!r} and {token.content[:80]!r} are the same in lower case."
                raise CheckpointError(what, where=added.where, fix="add them again under names that differ in letters")


def _model(files: Files) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges). transformers 4 reads two files, transformers 5 one where it is there:
    both must say the same."""
    pair = (files.has(VOCAB) and files.has(MERGES)) or not files.has(WHOLE)
    found = files.json(WHOLE).get("model")
    model: dict[str, Any] = found if isinstance(found, dict) else {}
    bpe = model.get("type") == "BPE" and model.get("end_of_word_suffix") == SUFFIX
    if pair:
        vocab = _vocab(files.json(VOCAB, needed=True), files.place(VOCAB))
        merges = _merges(_lines(files.read(MERGES), files.place(MERGES)), vocab, VOCAB, files.place(MERGES))
        if not bpe:
            return vocab, merges
    where = files.place(WHOLE)
    if not bpe:
        got = f"{shown(model.get('type'))} with {shown(model.get('end_of_word_suffix'))}" if model else "no model"
        what = f"it is no byte-pair tokenizer of CLIP's kind (got {got}, expected model type BPE with {SUFFIX})."
        raise CheckpointError(what, where=where, fix=EITHER)
    check_model(model, where)
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise CheckpointError("its model has no vocab object or no merges list.", where=where, fix=EITHER)
    held = _vocab(model["vocab"], where)
    joined = _merges(enumerate(model["merges"], 1), held, "its vocab", where)
    if pair and (held, joined) != (vocab, merges):
        what = f"it has another vocabulary or other merges than {VOCAB} and {MERGES}."
        raise CheckpointError(
            what, where=where, fix=f"delete the one that does not belong to the text encoder: {WHOLE}, or the other two"
        )
    return held, joined


def _vocab(vocab: dict[str, Any], where: str) -> dict[str, int]:
    if not 0 < len(vocab) <= _MAX_TOKENS:
        raise CheckpointError(
            f"wrong number of tokens (got {len(vocab)}, expected 1 to {_MAX_TOKENS}).", where=where, fix=CHECK
        )
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < _MAX_TOKENS:
            raise CheckpointError(
                f"token {token[:40]!r} has no usable id (got {shown(index)}, "
                f"expected an integer from 0 to {_MAX_TOKENS - 1})",
                where=where,
                fix=CHECK,
            )
    if len(set(vocab.values())) < len(vocab):
        raise CheckpointError("two tokens share an id (expected one id per token).", where=where, fix=CHECK)
    return vocab


def _lines(data: bytes, where: str) -> list[tuple[int, str]]:
    """(its number, the line) of every merge in merges.txt, as editors of any system leave it."""
    try:
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 text ({error.reason} at byte {error.start})."
        raise CheckpointError(what, where=where, fix="download the file again") from None
    start = 1 if lines[0].startswith("#version") else 0
    return [(number, line) for number, line in enumerate(lines[start:], start + 1) if line.strip()]


def _merges(
    entries: Iterable[tuple[int, Any]], vocab: Mapping[str, int], name: str, where: str
) -> list[tuple[str, str]]:
    """Pairs from either spelling of a merge: ["a", "b"] or "a b". `name` is what holds `vocab`, for messages."""
    word, merges = "line" if name == VOCAB else "merge", []
    for number, entry in entries:
        text = " ".join(map(str, entry)) if isinstance(entry, list) else str(entry)
        pair = entry if isinstance(entry, list) else text.split(" ")
        if len(pair) != 2 or text.split() != pair:  # two texts without white space in them
            what = f"{word} {number} is not a pair (got {shown(entry)!r}, expected two tokens and one space between)."
            raise CheckpointError(what, where=where, fix=CHECK)
        first, second = pair
        if not (first in vocab and second in vocab and first + second in vocab):
            unknown = next(token for token in (first, second, first + second) if token not in vocab)
            what = (
                f"{word} {number} merges what {name} lacks (got {unknown[:40]!r}, expected tokens of the vocabulary)."
            )
            raise CheckpointError(what, where=where, fix="use vocabulary and merges of the same tokenizer")
        merges.append((first, second))
        if len(merges) > _MAX_TOKENS:
            raise CheckpointError(f"too many merges (expected at most {_MAX_TOKENS}).", where=where, fix=CHECK)
    return merges
