"""What the harness must know of one reader of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ondevice.errors import OnDeviceError

Mutate = Callable[[bytes, Random, bytes, "Words"], bytes]


class Broken(Exception):
    """A reader took an input, and what it made of it does not hold what it promises."""


def holds(true: object, what: str) -> None:
    """Raise Broken, saying `what` does not hold, unless it does.
    An `assert` would look like one of the reader's own."""
    if not true:
        raise Broken(what)


@dataclass(frozen=True, slots=True)
class Words:
    """Constants from the code of a reader, to be put into its inputs."""

    texts: tuple[str, ...] = ("",)
    bytes: tuple[bytes, ...] = (b"",)
    numbers: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Reader:
    """One reader.

    Attributes:
        name: what `--reader` takes.
        seeds: makes the inputs to begin from. They are accepted by the reader, or nearly.
        mutate: an input changed as its format allows; it is given another input, to take parts from, and words of the
            reader's code.
        read: gives an input to the reader and checks what it returns (`holds`). May write into the folder, which it
            has for itself.
        refuses: exceptions by which the reader says no.
        memory: bytes that an input may take at most, beyond `growth` times its own size.
        growth: Python objects take many times the room of the text that they are parsed from.
        limit: bytes of an input.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: Mutate
    read: Callable[[bytes, Path], object]
    refuses: tuple[type[Exception], ...] = (OnDeviceError,)
    memory: int = 32 << 20
    growth: int = 64
    limit: int = 1 << 15
