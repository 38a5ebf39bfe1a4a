"""Tokens of a text, cut into chunks that a text encoder takes. The specification is docs/prompts.md."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ondevice.diffusion.text.emphasis import Sections, plain
from ondevice.errors import UsageError

log = logging.getLogger(__name__)
BACKTRACK = 20
"""Tokens after a comma that go into the next chunk with what does not fit any more."""
_SHOWN = 300  # letters of the words that are left out, where they are named


class Pieces(Protocol):
    """What is asked of a tokenizer (`ondevice.diffusion.tokenizer.Tokenizer`)."""

    @property
    def bos(self) -> int | None: ...  # None: texts have no start

    eos: int
    pad: int
    comma: int | None
    length: int

    def piece(self, text: str) -> tuple[str, list[int], list[int]]: ...


class Token(NamedTuple):
    """An id, its weight, which piece of the text it is of, and where it begins in that piece."""

    id: int
    weight: float
    piece: int
    start: int


Chunk = list[Token]


@dataclass(frozen=True, slots=True)
class Reading:
    """A text's tokens in chunks, without starts and ends; at least one chunk. `pieces`: texts, spelled out."""

    chunks: list[Chunk]
    pieces: list[str]

    def first(self, count: int) -> tuple[Reading, str]:
        """The first chunks, and the words that are left out so; none of these: ""."""
        rest = [token for chunk in self.chunks[count:] for token in chunk]
        if not rest:
            return Reading(self.chunks[:count], self.pieces), ""
        piece = rest[0].piece
        left_out = "".join([self.pieces[piece][rest[0].start :], *self.pieces[piece + 1 :]])
        return Reading(self.chunks[:count], self.pieces), left_out.strip()


def start_of(tokenizer: Pieces) -> list[int]:
    """The ids before a chunk's own: the start, if there is one."""
    return [] if tokenizer.bos is None else [tokenizer.bos]


def room_of(tokenizer: Pieces) -> int:
    """How many tokens a chunk has room for, between its start and its end."""
    return tokenizer.length - len(start_of(tokenizer)) - 1


def check_unicode(text: str) -> None:
    """Raise UsageError for a text with lone surrogates, which has no ids."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the prompt is not valid Unicode (got {error.object[error.start]!r} at character "
            f"{error.start}, expected text)",
            where="prompt",
            fix="pass it as UTF-8",
        ) from None


def first_ids(text: str, tokenizer: Pieces) -> np.ndarray:
    """int32 [length] of a plain text. Words that it has no room for are left out, and the log names them."""
    reading = cut(plain(text), tokenizer)
    kept, left_out = reading.first(1)
    if left_out:
        warn(reading, left_out, room_of(tokenizer))
    return padded(kept.chunks[0], tokenizer)


def chunked(sections: Sections, tokenizer: Pieces) -> Reading:
    """Chunks of as many tokens as there is room for. A section begins a new one; and what does not fit begins one after
    the last comma, if that is not too far back. Reference: AUTOMATIC1111's web UI, whose values are in
    tests/data/prompts."""
    pieces, numbered = _tokens(sections, tokenizer)
    room = room_of(tokenizer)
    chunks: list[Chunk] = []
    for place, tokens in enumerate(numbered):
        chunk: Chunk = []
        comma: int | None = None  # where in the chunk the last comma is
        for token in tokens:
            if token.id == tokenizer.comma:
                comma = len(chunk)
            elif len(chunk) == room and comma is not None and room - comma <= BACKTRACK:
                chunks.append(chunk[: comma + 1])
                chunk, comma = chunk[comma + 1 :], None
            if len(chunk) == room:
                chunks.append(chunk)
                chunk, comma = [], None
            chunk.append(token)
        if chunk or place < len(numbered) - 1 or not chunks:
            chunks.append(chunk)
    return Reading(chunks, pieces)


def cut(sections: Sections, tokenizer: Pieces) -> Reading:
    """All tokens, cut where a chunk is full: BREAK and commas mean nothing here."""
    pieces, numbered = _tokens(sections, tokenizer)
    room = room_of(tokenizer)
    tokens = [token for section in numbered for token in section]
    return Reading([tokens[start : start + room] for start in range(0, max(len(tokens), 1), room)], pieces)


def padded(chunk: Sequence[Token], tokenizer: Pieces) -> np.ndarray:
    """int32 [length]: the start, the chunk's ids, the end, and padding."""
    ids = [*start_of(tokenizer), *(token.id for token in chunk), tokenizer.eos]
    return np.array([*ids, *[tokenizer.pad] * (tokenizer.length - len(ids))], np.int32)


def weights(chunk: Sequence[Token], length: int, start: int = 1) -> np.ndarray:
    """float32 [length]: the weight of each position; of the start (as many positions), the end and padding 1."""
    found = np.ones(length, np.float32)
    found[start : start + len(chunk)] = [token.weight for token in chunk]
    return found


def warn(reading: Reading, left_out: str, room: int, wanted: int = 1) -> None:
    """Say in the log which words are not read; and, where plans for as many chunks as `wanted` would do, so."""
    tokens = sum(map(len, reading.chunks))
    if len(left_out) > _SHOWN:
        left_out = f"{left_out[: _SHOWN // 2]} ... {left_out[-_SHOWN // 2 :]}"
    advice = f"; a bundle of `convert --chunks {wanted}` reads them" if wanted > 1 else ""
    log.warning(
        "The prompt has %d tokens; the model reads %d. Left out: %s%s",
        tokens,
        room,
        json.dumps(left_out, ensure_ascii=False),
        advice,
    )


def _tokens(sections: Sections, tokenizer: Pieces) -> tuple[list[str], list[list[Token]]]:
    pieces: list[str] = []
    found: list[list[Token]] = []
    for section in sections:
        found.append([])
        for piece in section:
            text, ids, starts = tokenizer.piece(piece.text)
            found[-1] += [
                Token(index, piece.weight, len(pieces), start) for index, start in zip(ids, starts, strict=True)
            ]
            pieces.append(text)
    return pieces, found
