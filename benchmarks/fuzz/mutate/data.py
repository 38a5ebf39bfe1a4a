"""Changes of any bytes, and of several files in one input."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from random import Random

from benchmarks.fuzz.reader import Mutate, Words

EDGES = (
    0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 64, 127, 128, 255, 256, 511, 512, 1023, 1024, 4095, 4096, 32767, 32768, 65535,
    65536,
)  # fmt: skip
BIG = (
    (1 << 24), 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 48, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
    1 << 64,
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "\n", "é", "\U0001f600", "\udc80", "\x1b[31m", "\u202e", "../x", "/etc/passwd", "a" * 300,
    "x" * 6000,
    "%s%n", "{}",
)  # fmt: skip


def number(rng: Random, words: Words) -> int:
    """A whole number that code may stumble over."""
    kind = rng.random()
    value = rng.choice(EDGES) if kind < 0.4 else rng.choice(words.numbers) if kind < 0.8 else rng.choice(BIG)
    return (value + rng.choice((0, 0, 0, -1, 1))) * rng.choice((1, 1, 1, 1, -1))


def text(rng: Random, words: Words) -> str:
    """A string likewise."""
    return rng.choice(TEXTS) if rng.random() < 0.3 else rng.choice(words.texts)


def havoc(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """One change of bytes: a bit, a byte, a number in some width, a word;
    a part cut out, repeated, moved, taken from `other`."""
    mutant = bytearray(data)
    at = rng.randrange(len(mutant) + 1)
    span = min(len(mutant) - at, 1 + int(rng.expovariate(0.1)))
    match rng.randrange(13):
        case 0 if mutant:
            mutant[at % len(mutant)] ^= 1 << rng.randrange(8)
        case 1 | 2 if mutant:
            mutant[at % len(mutant)] = rng.randrange(256)
        case 3 if mutant:
            mutant[at % len(mutant)] = (mutant[at % len(mutant)] + rng.randint(-16, 16)) & 255
        case 4:
            form, bits = rng.choice(
                (("B", 8), ("B", 8), ("<H", 16), (">H", 16), ("<I", 32), (">I", 32), ("<Q", 64), (">Q", 64))
            )
            piece = struct.pack(form, number(rng, words) & ((1 << bits) - 1))
            mutant[at : at + len(piece)] = piece
        case 5:
            del mutant[at : at + span]
        case 6:
            mutant[at:at] = mutant[at : at + span] * rng.choice((1, 1, 2, 50))
        case 7:
            begin = rng.randrange(len(other) + 1)
            mutant[at : at + rng.choice((0, span))] = other[begin : begin + 1 + int(rng.expovariate(0.05))]
        case 8:
            word = rng.choice(words.bytes) if rng.random() < 0.4 else text(rng, words).encode("utf-8", "surrogatepass")
            mutant[at : at + rng.choice((0, len(word)))] = word
        case 9:
            del mutant[at:]
        case 10:
            mutant[at:at] = bytes([rng.randrange(256)]) * rng.choice((1, 2, 8, 64))
        case _:
            piece = bytes(mutant[at : at + span])
            del mutant[at : at + span]
            to = rng.randrange(len(mutant) + 1)
            mutant[to:to] = piece
    return bytes(mutant)


def pack(files: Mapping[str, bytes]) -> bytes:
    """Several files as one input that people can read: a line with names and sizes, then the files."""
    return json.dumps([[name, len(data)] for name, data in files.items()]).encode() + b"\n" + b"".join(files.values())


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of an input; sizes that do not fit are cut. An input whose first line is damaged has none."""
    head, _, rest = data.partition(b"\n")
    try:
        sizes = [(str(name), int(size)) for name, size in json.loads(head)]
    except (ValueError, TypeError, RecursionError):
        return {}
    files, at = {}, 0
    for name, size in sizes:
        files[name] = rest[at : at + max(size, 0)]
        at += max(size, 0)
    return files


def of_files(by_name: Callable[[str], Mutate], *, optional: bool = False) -> Mutate:
    """Changes one file of a packed input, as its name says;
    with `optional`, one may be left out or taken from the other input."""

    def mutate(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
        files, others = unpack(data), unpack(other)
        if not files:
            return other
        name = rng.choice(sorted(files))
        if optional and rng.random() < 0.05:
            if rng.random() < 0.5 and name in others:
                files[name] = others[name]
            else:
                files.pop(name)
        else:
            files[name] = by_name(name)(files[name], rng, others.get(name, files[name]), words)
        return pack(files)

    return mutate
