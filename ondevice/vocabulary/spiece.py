"""spiece.model: sentencepiece's own file, a message of Protocol Buffers, of which only what T5 has is taken.

Reference: sentencepiece_model.proto. Nothing is allocated that the file does not hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from ondevice.errors import CheckpointError
from ondevice.vocabulary.files import CHECK

Piece = tuple[str, float | None]
"""A piece and its score; None where no text becomes it."""

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # types of pieces
_UNIGRAM = 1  # of a model
_TRAINER: Mapping[int, tuple[str, int, int]] = {  # field -> its name, its default, and what T5 has
    3: ("model_type", _UNIGRAM, _UNIGRAM),
    24: ("treat_whitespace_as_suffix", 0, 0),
    35: ("byte_fallback", 0, 0),
}
_NORMALIZER: Mapping[int, tuple[str, int, int]] = {
    3: ("add_dummy_prefix", 1, 1),
    4: ("remove_extra_whitespaces", 1, 1),
    5: ("escape_whitespaces", 1, 1),
}


def read_model(data: bytes, where: str) -> tuple[list[Piece], bytes]:
    """(pieces by id, the table of replacements). Raises CheckpointError: it is cut, or no model of T5's kind."""
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    unknown = 0
    try:
        for field, value in _fields(data):
            if field == 1:
                text, score, kind = _piece(_bytes(value))
                if kind not in (_NORMAL, _UNKNOWN, _CONTROL):
                    raise ValueError(f"piece {len(pieces)} is of the type {kind}, which T5's model has none of")
                unknown += kind == _UNKNOWN
                pieces.append((text, score if kind == _NORMAL else None))
            elif field == 2:
                trainer = dict(_fields(_bytes(value)))
            elif field == 3:
                normalizer = dict(_fields(_bytes(value)))
        for spec, expected in ((trainer, _TRAINER), (normalizer, _NORMALIZER)):
            for number, (name, default, needed) in expected.items():
                if (got := spec.get(number, default)) != needed:
                    raise ValueError(f"its {name} is {got!r}, T5's is {needed}")
        if unknown != 1:
            raise ValueError(f"it has {unknown} pieces for what is unknown, T5's has one")
        return pieces, _bytes(normalizer.get(2, b""))
    except ValueError as error:
        raise CheckpointError(f"not a sentencepiece model of T5's kind ({error}).", where=where, fix=CHECK) from None


def _piece(data: bytes) -> tuple[str, float, int]:
    found = dict(_fields(data))
    kind, score = found.get(3, _NORMAL), _bytes(found.get(2, bytes(4)))
    if not isinstance(kind, int) or len(score) != 4:
        raise ValueError("a piece has a score or a type that is none")
    return _bytes(found.get(1, b"")).decode(), struct.unpack("<f", score)[0], kind


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number stands where bytes are expected")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message's fields: whole numbers, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        size, at = {1: (8, at), 5: (4, at)}.get(kind) or _varint(data, at)
        if kind not in (1, 2, 5) or at + size > len(data):
            raise ValueError("it is cut, or no message")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(the number, where it ends)."""
    found = 0
    for place, byte in enumerate(data[at : at + 10]):
        found |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return found, at + place + 1
    raise ValueError("it is cut, or no message")
