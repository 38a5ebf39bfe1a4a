"""What a bundle is made of, and the checks each of its files must pass. The specification is docs/bundle.md.

A bundle is untrusted input: nothing in it is used before it went through a `Checker`. Every check raises `BundleError`
with the file, the place inside it, the value found and what was expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from math import isfinite, prod
from typing import Any, NoReturn

from ondevice.errors import BundleError
from ondevice.lower.program import DTYPES

FORMAT = "ondevice-bundle"
MAJOR, MINOR = 2, 3
MANIFEST = "bundle.json"
SCHEDULER = "scheduler/scheduler_config.json"
SHARD_BYTES = 256 << 20  # phones limit a single allocation: 887 MB was the largest on an Adreno 750, less on older ones

# Limits. Far above anything Stable Diffusion needs, low enough that a hostile file costs little time and memory.
MAX_JSON_BYTES = 64 << 20
MAX_JSON_VALUES = 2_000_000  # "[[],[],..." needs 20 times its own size as Python objects, so bytes alone are no bound
MAX_JSON_DEPTH = 32
MAX_TEXT_BYTES = 4 << 20  # a kernel or a prelude
MAX_FILES = 16_384
MAX_PLANS = 1_024
MAX_WEIGHTS = 65_536
MAX_OPERANDS = 65_536
MAX_DISPATCHES = 65_536
MAX_KERNELS = 4_096
MAX_ARGUMENTS = 64  # buffers, and as many scalars, of one kernel; also its defines
MAX_RULES = 256  # fusion rules whose outcome a component records
MAX_REASONS = 64  # for which one of them left matches alone
MAX_RANK = 8
MAX_NEEDS = 16
MAX_TARGETS = 64  # of which a bundle has plans; also the names that a target's devices have
MAX_SIZE = 65_536  # one of a plan's sizes
MAX_BYTES = 1 << 40
MAX_COUNT = 1 << 53  # flops and the like: the largest range in which a double holds every integer
MAX_GROUP = 1_024  # work-items in a work-group
# work-items of a launch; also a group's for each element of its operands, as none has less than one of its own
MAX_ITEMS = 1 << 31
INT32 = (-(1 << 31), (1 << 31) - 1)
FLOAT32_MAX = 3.4028234663852886e38

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")  # one part of a path: no slash, no leading dot, so no ".."
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})")

DAMAGED = "copy the bundle again, or write it again with `ondevice convert`"


def nbytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a dense tensor."""
    return prod(shape) * DTYPES[dtype]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {shown(next(key for key in keys if keys.count(key) > 1))} is there twice")
    return found


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def load_json(data: bytes, where: str) -> Any:
    """Parse strict JSON: UTF-8 without a mark, no repeated keys, no NaN or infinity, bounded size and depth.
    Raises BundleError."""
    if len(data) > MAX_JSON_BYTES:
        raise BundleError(
            f"is too large (got {len(data)} bytes, expected at most {MAX_JSON_BYTES}).", where=where, fix=DAMAGED
        )
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MAX_JSON_VALUES:
        raise BundleError(f"holds too many values (expected at most {MAX_JSON_VALUES}).", where=where, fix=DAMAGED)
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant
        )
        if b"\\u" in data:  # half of a surrogate pair parses, but can never be printed or written again
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise BundleError(
            f"is nested too deeply (expected at most {MAX_JSON_DEPTH} levels).", where=where, fix=DAMAGED
        ) from None
    except ValueError as exc:
        raise BundleError(f"is not valid JSON ({exc}).", where=where, fix=DAMAGED) from None
    depth, level = 0, [value]
    while level := [x for x in level if type(x) in (dict, list)]:
        if (depth := depth + 1) > MAX_JSON_DEPTH:
            raise BundleError(
                f"is nested too deeply (expected at most {MAX_JSON_DEPTH} levels).", where=where, fix=DAMAGED
            )
        level = [child for x in level for child in (x.values() if type(x) is dict else x)]
    return value


def dump_json(value: Any, where: str) -> bytes:
    """JSON text with one item per line at the top two levels, so that two bundles can be compared with `diff`.

    Raises BundleError where the value cannot be JSON (NaN, infinity, a type JSON has no word for).
    """

    def flat(x: Any) -> str:
        return json.dumps(x, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    def block(x: Any) -> str:
        if isinstance(x, dict) and x:
            return "{\n" + ",\n".join(f"{flat(key)}:{flat(item)}" for key, item in x.items()) + "\n}"
        if isinstance(x, list) and x and isinstance(x[0], (dict, list)):
            return "[\n" + ",\n".join(map(flat, x)) + "\n]"
        return flat(x)

    try:
        if not isinstance(value, dict):
            return (flat(value) + "\n").encode()
        return ("{\n" + ",\n".join(f"{flat(key)}:{block(item)}" for key, item in value.items()) + "\n}\n").encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise BundleError(
            f"cannot be written as JSON ({exc}).", where=where, fix="give finite numbers, text, lists and mappings"
        ) from None


def shown(value: object) -> str:
    """A value for an error message: its JSON, cut short."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Checker:
    """Checks one JSON file. Each method gives the value back, or raises BundleError naming `path` in the file `where`.

    A path is made of field names (`str`), list indices (`int`) and keys of tables (1-tuples, shown quoted): it is
    turned into text only when a check fails, so that checking a plan of thousands of dispatches stays quick.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def fail(self, what: str, *path: str | int | tuple[str]) -> NoReturn:
        text = ""
        for part in path:
            if isinstance(part, str):
                text += ("." if text else "") + part
            else:
                text += f"[{shown(part[0]) if isinstance(part, tuple) else part}]"
        raise BundleError(f"{text} {what}.".strip(), where=self.where, fix=DAMAGED)

    def integer(self, value: Any, low: int, high: int, *path: str | int | tuple[str]) -> int:
        if type(value) is not int or not low <= value <= high:  # bool is a subclass of int
            self.fail(f"is {shown(value)} (expected {low}..{high})", *path)
        return value

    def integers(
        self, value: Any, low: int, high: int, count: tuple[int, int], *path: str | int | tuple[str]
    ) -> tuple[int, ...]:
        return tuple(self.integer(item, low, high, *path, i) for i, item in enumerate(self.array(value, count, *path)))

    def array(self, value: Any, count: tuple[int, int], *path: str | int | tuple[str]) -> list[Any]:
        low, high = count
        if type(value) is not list or not low <= len(value) <= high:
            self.fail(f"is {shown(value)} (expected a list of {low if low == high else f'{low}..{high}'})", *path)
        return value

    def table(self, value: Any, most: int, *path: str | int | tuple[str]) -> dict[str, Any]:
        if type(value) is not dict or len(value) > most:
            self.fail(f"is {shown(value)} (expected an object of at most {most})", *path)
        return value

    def record(self, value: Any, keys: tuple[str, ...], *path: str | int | tuple[str]) -> list[Any]:
        """The fields `keys` of an object, all required. Others are ignored: a later minor version may add some."""
        if type(value) is not dict:
            self.fail(f"is {shown(value)} (expected an object)", *path)
        try:
            return [value[key] for key in keys]
        except KeyError as exc:
            self.fail("is missing", *path, exc.args[0])

    def text(self, value: Any, *path: str | int | tuple[str]) -> str:
        """A name for people: 1..512 printable characters."""
        if type(value) is not str or not 1 <= len(value) <= 512 or not value.isprintable():
            self.fail(f"is {shown(value)} (expected 1..512 printable characters)", *path)
        return value

    def match(self, value: Any, pattern: re.Pattern[str], expected: str, *path: str | int | tuple[str]) -> str:
        if type(value) is not str or not pattern.fullmatch(value):
            self.fail(f"is {shown(value)} (expected {expected})", *path)
        return value

    def name(self, value: Any, *path: str | int | tuple[str]) -> str:
        return self.match(value, NAME, "a file name of letters, digits and ._+-", *path)

    def identifier(self, value: Any, *path: str | int | tuple[str]) -> str:
        return self.match(value, IDENTIFIER, "an identifier", *path)

    def one_of(self, value: Any, known: Collection[str], *path: str | int | tuple[str]) -> str:
        if type(value) is not str or value not in known:
            listed = ", ".join(sorted(known)[:8]) + (", ..." if len(known) > 8 else "")
            self.fail(
                f"is {shown(value)} (expected one of: {listed})"
                if known
                else f"is {shown(value)} (expected nothing here)",
                *path,
            )
        return value

    def distinct(self, values: list[str] | tuple[str, ...], *path: str | int | tuple[str]) -> None:
        """Refuse a name that is there twice; names that differ by case only are one file
        on some phones and desktops."""
        seen: set[str] = set()
        for value in values:
            if (folded := value.casefold()) in seen:
                self.fail(f"names {shown(value)} twice", *path)
            seen.add(folded)

    def shape(self, value: Any, dtype: str, *path: str | int | tuple[str]) -> tuple[int, ...]:
        """A shape whose tensor of `dtype` has at most MAX_BYTES."""
        shape = self.integers(value, 1, INT32[1], (0, MAX_RANK), *path)
        if nbytes(shape, dtype) > MAX_BYTES:
            self.fail(f"is {list(shape)} (expected at most {MAX_BYTES} bytes)", *path)
        return shape

    def needs(self, value: Any, known: Collection[str], *path: str | int | tuple[str]) -> tuple[str, ...]:
        """Words of later minor versions, all of which a reader must know."""
        words = tuple(
            self.identifier(word, *path, i) for i, word in enumerate(self.array(value, (0, MAX_NEEDS), *path))
        )
        for i, word in enumerate(words):
            if word not in known:
                self.fail(
                    f"asks for {shown(word)}, which this version does not know; install a newer ondevice", *path, i
                )
        return words

    def sizes(self, value: Any, *path: str | int | tuple[str]) -> dict[str, int]:
        table = self.table(value, MAX_RANK, *path)
        return {
            self.identifier(key, *path): self.integer(item, 1, MAX_SIZE, *path, (key,)) for key, item in table.items()
        }
