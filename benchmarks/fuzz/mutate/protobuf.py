"""Changes of protobuf messages without their schema: fields as a tree, lengths made right again."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from benchmarks.fuzz.mutate.data import havoc, number, text
from benchmarks.fuzz.reader import Words

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DEPTH = 12


@dataclass(slots=True)
class Field:
    """A field: `value` is a number (VARINT), bytes, or a message."""

    number: int
    wire: int
    value: int | bytes | list[Field]


def parse(data: bytes, depth: int = 0) -> list[Field] | None:
    """The fields, or None where it is no message. Bytes that look like a message are taken for one."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire, value = tag & 7, None
        if at < 0 or tag >> 3 == 0:
            return None
        if wire == VARINT:
            value, at = _varint(data, at)
        elif wire == BYTES:
            length, at = _varint(data, at)
            value = data[at : at + length]
            at = at + length if at >= 0 else at
            if 1 < length <= 1 << 14 and depth < DEPTH and value and (inner := parse(value, depth + 1)):
                value = inner
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
            value, at = data[at : at + size], at + size
        if value is None or not 0 <= at <= len(data):
            return None
        fields.append(Field(tag >> 3, wire, value))
    return fields


def write(fields: list[Field]) -> bytes:
    """The message."""
    encoded = bytearray()
    for field in fields:
        encoded += _packed(field.number << 3 | field.wire)
        if isinstance(field.value, int):
            encoded += _packed(field.value)
            continue
        content = write(field.value) if isinstance(field.value, list) else field.value
        encoded += (_packed(len(content)) if field.wire == BYTES else b"") + content
    return bytes(encoded)


def message(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of one field, at any depth."""
    fields, others = parse(data), parse(other)
    if not fields:
        return havoc(data, rng, other, words)
    inner = _somewhere(fields, rng)
    given = _somewhere(others, rng) if others else inner
    at = rng.randrange(len(inner))
    match rng.randrange(9):
        case 0:
            del inner[at]
        case 1:
            inner.insert(rng.randrange(len(inner) + 1), inner[at])
        case 2 if given:
            inner.insert(at, rng.choice(given))
        case 3 if given:
            inner[at] = rng.choice(given)
        case 4:
            inner[at] = Field(
                rng.choice((number(rng, words) % 40 + 1, inner[at].number + 1)), inner[at].wire, inner[at].value
            )
        case 5:
            to = rng.randrange(len(inner))
            inner[at], inner[to] = inner[to], inner[at]
        case _:
            inner[at] = _changed(inner[at], rng, words)
    return write(fields)


def _somewhere(fields: list[Field], rng: Random) -> list[Field]:
    """A message inside: its fields."""
    while rng.random() < 0.85:
        below = [field.value for field in fields if isinstance(field.value, list) and field.value]
        if not below:
            break
        fields = rng.choice(below)
    return fields


def _changed(field: Field, rng: Random, words: Words) -> Field:
    if isinstance(field.value, int):
        near = field.value + rng.choice((-1, 1, 1))
        return Field(field.number, VARINT, rng.choice((near, number(rng, words), rng.randrange(32))) % (1 << 64))
    content = write(field.value) if isinstance(field.value, list) else field.value
    if field.wire == BYTES and rng.random() < 0.5:
        content = text(rng, words).encode("utf-8", "surrogatepass")
    elif len(content) < 1 << 14:
        content = havoc(content, rng, content, words)
    return Field(
        field.number,
        field.wire,
        content if field.wire == BYTES else content.ljust(8, b"\0")[: 8 if field.wire == FIXED64 else 4],
    )


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, place after it); the place is -1 where there is none."""
    value = 0
    for shift in range(0, 70, 7):
        if not 0 <= at < len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    return 0, -1


def _packed(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))
