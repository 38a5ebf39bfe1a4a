"""CLIP's byte-pair tokenizer: text -> 77 ids.

Gives the ids of Hugging Face's CLIPTokenizer (transformers 4.57's fast one, which is transformers 5's only one): NFC, runs of
white space become one space, lower case, CLIP's word pattern, byte-level pairs with `</w>` at a word's end. Where other
implementations differ is in docs/tokenizer.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from ondevice.errors import CheckpointError, UsageError

LENGTH = 77
"""Ids that the text encoder takes at once, start and end included."""

FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
"""What a tokenizer is made of. The first two must be there."""

_MAX_BYTES = {"vocab.json": 1 << 24, "merges.txt": 1 << 24}
_MAX_CONFIG_BYTES = 1 << 20
_MAX_TOKENS = 1 << 20
_ROLES = {"unk_token": "<|endoftext|>", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")

_log = logging.getLogger(__name__)


class Tokenizer:
    """Ids of a prompt. Make one with `Tokenizer.from_files`.

    `size` is one more than the highest id; `bos`, `eos` and `pad` are the ids of the start, the end and the filling.
    """

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], specials: Mapping[str, AddedToken]) -> None:
        self._backend = Backend(
            BPE(
                vocab=vocab,
                merges=merges,
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                unk_token=specials["unk_token"].content,
            )
        )
        self._backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        # Special also means: found in a prompt it is one id. A model that pads with "!" so gives "!" in a prompt id 0, not 256.
        self._backend.add_special_tokens([specials[role] for role in _ROLES])
        self.bos, self.eos, self.pad = (vocab[specials[role].content] for role in ("bos_token", "eos_token", "pad_token"))
        self.size = max(vocab.values()) + 1

    @classmethod
    def from_files(cls, source: str | Path | Mapping[str, bytes]) -> Tokenizer:
        """Reads vocab.json and merges.txt, and from tokenizer_config.json and special_tokens_map.json, if there, the special tokens.

        `source` is a folder, or the files' bytes by name. Raises CheckpointError for anything a tokenizer cannot be made of.
        """
        read = _reader(source)
        vocab = _vocab(read("vocab.json"), read.place("vocab.json"))
        merges = _merges(read("merges.txt"), vocab, read.place("merges.txt"))
        config, special_map = (_object(read(name, optional=True) or b"{}", read.place(name)) for name in FILES[2:])
        kind = config.get("tokenizer_class", _CLASSES[0])
        if kind not in _CLASSES:
            raise CheckpointError(
                f"not a CLIP tokenizer (got {str(kind)[:80]!r}, expected {_CLASSES[0]!r})",
                where=read.place(FILES[2]),
                fix="use the tokenizer folder of a Stable Diffusion 1.x or 2.x checkpoint",
            )
        # Both files may name a token and disagree (SD 2.1's pad): the map wins, as in transformers.
        specials = {
            role: _special(special_map.get(role) or config.get(role) or name, role, vocab, read.place(FILES[3]))
            for role, name in _ROLES.items()
        }
        return cls(vocab, merges, specials)

    def encode(self, text: str) -> list[int]:
        """All ids of `text`, start and end included, however long."""
        return [self.bos, *self._encode(text).ids, self.eos]

    def pad77(self, ids: list[int]) -> np.ndarray:
        """int32[77]: `ids` cut to 77, the last then being the end, or filled up with `pad`. `ids` has its start and end."""
        kept = [*ids[: LENGTH - 1], self.eos] if len(ids) > LENGTH else ids
        return np.array([*kept, *[self.pad] * (LENGTH - len(kept))], np.int32)

    def __call__(self, text: str) -> np.ndarray:
        """int32[77] ids of a prompt. Words past the 75th token are left out, and the log names them."""
        encoding = self._encode(text)
        room = LENGTH - 2
        if len(encoding.ids) > room:
            start = encoding.offsets[room][0]
            _log.warning(
                "The prompt has %d tokens; the model reads %d. Left out: %s",
                len(encoding.ids),
                room,
                json.dumps(text[start:].strip(), ensure_ascii=False),
            )
        return self.pad77([self.bos, *encoding.ids, self.eos])

    def tokens(self, ids: list[int]) -> list[str]:
        """The vocabulary's spelling of each id."""
        return [str(self._backend.id_to_token(i)) for i in ids]

    def _encode(self, text: str) -> Any:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the prompt is not valid Unicode (got {error.object[error.start]!r} at character {error.start}, expected text)",
                where="prompt",
                fix="pass it as UTF-8",
            ) from None
        return self._backend.encode(text, add_special_tokens=False)


class _reader:
    """Bounded reads of a tokenizer's files, from a folder or from memory."""

    def __init__(self, source: str | Path | Mapping[str, bytes]) -> None:
        self._source: Path | Mapping[str, bytes] = source if isinstance(source, Mapping) else Path(source)

    def place(self, name: str) -> str:
        return f"tokenizer/{name}" if isinstance(self._source, Mapping) else str(self._source / name)

    def __call__(self, name: str, *, optional: bool = False) -> bytes:
        limit = _MAX_BYTES.get(name, _MAX_CONFIG_BYTES)
        try:
            if isinstance(self._source, Mapping):
                data = self._source[name]
            else:
                with open(self._source / name, "rb") as file:
                    data = file.read(limit + 1)
        except (KeyError, FileNotFoundError, NotADirectoryError):
            if optional:
                return b""
            raise CheckpointError(
                "missing (got no file, expected the tokenizer's)", where=self.place(name), fix="copy the checkpoint's tokenizer folder"
            ) from None
        except OSError as error:
            raise CheckpointError(
                f"cannot be read ({error.strerror or error})", where=self.place(name), fix="check the file's permissions"
            ) from error
        if len(data) > limit:
            raise CheckpointError(f"too large (got over {limit} bytes, expected less)", where=self.place(name), fix="check the file")
        return data


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not JSON ({error})", where=where, fix="download the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"wrong content (got {type(value).__name__}, expected a JSON object)", where=where, fix="check the file")
    return value


def _vocab(data: bytes, where: str) -> dict[str, int]:
    vocab = _object(data, where)
    if not 0 < len(vocab) <= _MAX_TOKENS:
        raise CheckpointError(f"wrong number of tokens (got {len(vocab)}, expected 1 to {_MAX_TOKENS})", where=where, fix="check the file")
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < _MAX_TOKENS:
            raise CheckpointError(
                f"token {token[:40]!r} has no usable id (got {str(index)[:40]}, expected an integer from 0 to {_MAX_TOKENS - 1})",
                where=where,
                fix="check the file",
            )
    if len(set(vocab.values())) < len(vocab):
        raise CheckpointError("two tokens share an id (expected one id a token)", where=where, fix="check the file")
    return vocab


def _merges(data: bytes, vocab: dict[str, int], where: str) -> list[tuple[str, str]]:
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"not UTF-8 text ({error.reason} at byte {error.start})", where=where, fix="download the file again"
        ) from None
    merges = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise CheckpointError(
                f"line {number} is not a pair (got {line[:80]!r}, expected two tokens and one space between)",
                where=where,
                fix="check the file",
            )
        unknown = [token for token in (*pair, "".join(pair)) if token not in vocab]
        if unknown:
            raise CheckpointError(
                f"line {number} merges what vocab.json lacks (got {unknown[0][:40]!r}, expected tokens of the vocabulary)",
                where=where,
                fix="use vocab.json and merges.txt of the same tokenizer",
            )
        merges.append((pair[0], pair[1]))
    return merges


def _special(value: Any, role: str, vocab: dict[str, int], where: str) -> AddedToken:
    """`value` is the token, or a dict with it and how it is matched."""
    options = value if isinstance(value, dict) else {"content": value, "normalized": False}
    content = options.get("content")
    if not isinstance(content, str) or content not in vocab:
        raise CheckpointError(
            f"{role} is not in the vocabulary (got {str(content)[:40]!r}, expected a token of vocab.json)",
            where=where,
            fix="check the file",
        )
    flags = {name: bool(options.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "normalized")}
    return AddedToken(content, special=True, **flags)
