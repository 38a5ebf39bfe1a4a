"""Bounded reads of a tokenizer's files, from a folder or from memory."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ondevice.errors import CheckpointError

VOCAB, MERGES, CONFIG, MAP, ADDED, WHOLE = FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)
"""All that a tokenizer may be made of.
transformers 5 writes CONFIG and WHOLE only, which holds vocabulary, merges and added tokens."""

UNIGRAM, CHARSMAP, SPIECE = "unigram.json", "charsmap.bin", "spiece.model"
"""Of T5's tokenizer: the two that a bundle holds, and sentencepiece's own."""

EITHER = "give a folder whose tokenizer/ holds vocab.json and merges.txt, or tokenizer.json"
CHECK = "check the file, or copy the checkpoint's tokenizer folder again"
_LARGE, _SMALL = 1 << 24, 1 << 20  # bytes
_FOREIGN = {  # files of other kinds of tokenizers, which have no vocab.json
    "vocab.txt": "a BERT tokenizer's vocabulary",
    "spiece.model": "a sentencepiece model, as T5 has",
    "tokenizer.model": "a sentencepiece model, as LLaMA has",
    "sentencepiece.bpe.model": "a sentencepiece model",
}


class Files:
    """A tokenizer's files. `place` names one for messages."""

    def __init__(self, source: str | Path | Mapping[str, bytes]) -> None:
        self._source: Path | Mapping[str, bytes] = source if isinstance(source, Mapping) else Path(source)
        self._read: dict[str, bytes] = {}
        self._parsed: dict[str, dict[str, Any]] = {}

    def place(self, name: str) -> str:
        """The file's path, or its name in a bundle."""
        return f"tokenizer/{name}" if isinstance(self._source, Mapping) else str(self._source / name)

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return name in self._source if isinstance(self._source, Mapping) else (self._source / name).exists()

    def read(self, name: str) -> bytes:
        """The file's bytes, read once. Raises CheckpointError: it is missing, unreadable, no file, or too large."""
        if name not in self._read:
            limit = _LARGE if name in (VOCAB, MERGES, WHOLE, UNIGRAM, CHARSMAP, SPIECE) else _SMALL
            data = (
                self._source.get(name)
                if isinstance(self._source, Mapping)
                else self._on_disk(self._source / name, limit)
            )
            if data is None:
                raise CheckpointError(self._missing(), where=self.place(name), fix=EITHER)
            if len(data) > limit:
                raise CheckpointError(
                    f"too large (got over {limit} bytes, expected less).", where=self.place(name), fix=CHECK
                )
            self._read[name] = data
        return self._read[name]

    def json(self, name: str, *, needed: bool = False) -> dict[str, Any]:
        """The JSON object in the file; an empty one where there is no file and none is needed.
        Raises CheckpointError."""
        if name not in self._parsed:
            self._parsed[name] = parse(self.read(name), self.place(name)) if needed or self.has(name) else {}
        return self._parsed[name]

    def _on_disk(self, path: Path, limit: int) -> bytes | None:
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
                raise CheckpointError("is no file.", where=str(path), fix=CHECK)
            with open(path, "rb") as file:
                return file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            what = f"cannot be read ({getattr(error, 'strerror', None) or error})."
            raise CheckpointError(what, where=str(path), fix="check the file's permissions") from error

    def _missing(self) -> str:
        for name, kind in _FOREIGN.items():
            if self.has(name):
                return (
                    f"missing (got {name}, {kind}; "
                    "expected a CLIP tokenizer's vocab.json and merges.txt, or tokenizer.json)."
                )
        return "missing (got no file, expected the tokenizer's)."


def shown(value: Any) -> str:
    """A value of a JSON file for a message, cut short."""
    if isinstance(value, dict):
        return (
            f"an object of type {shown(value['type'])}"
            if isinstance(value.get("type"), str)
            else f"an object of {len(value)}"
        )
    return f"a list of {len(value)}" if isinstance(value, list) else str(value)[:80]


def parse(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object: UTF-8, no key twice, no half of a surrogate pair. Raises CheckpointError."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates)
        if b"\\u" in data:  # half of a pair parses, but is no text
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            "not JSON text (it holds half of a surrogate pair).", where=where, fix="download the file again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not JSON ({error}).", where=where, fix="download the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"wrong content (got {type(value).__name__}, expected a JSON object).", where=where, fix=CHECK
        )
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return table
