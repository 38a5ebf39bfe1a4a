"""Changes of values: JSON, lines of JSON, TOML and plain lines."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from random import Random
from typing import Any

from benchmarks.fuzz.mutate.data import havoc, number, text
from benchmarks.fuzz.reader import Words

# Spellings that no value has: written as a text, and put in its place once the rest is written.
_RAW = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "1e39",
        "1e-400",
        "-0",
        "-0.0",
        "1.0",
        "0.5",
        "1E5",
        "tru",
        "",
        "01",
    ),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', "1" * 400, "1" * 5000, "0." + "3" * 600, "1e" + "9" * 30),
    *("[" * deep + "]" * deep for deep in (3, 33, 500, 3000)),
    *('{"a":' * deep + "0" + "}" * deep for deep in (3, 33, 3000)),
)
_AT, _TWICE = "@raw:", "@twice@"
_TOML = (
    *(raw for raw in _RAW if raw[:1] not in ("{", "N", "I")),
    "inf",
    "nan",
    "-inf",
    "0x1f",
    "1979-05-27",
    "07:32:00",
    "'''a'''",
)
Place = tuple[Any, Any]


def scalar(rng: Random, words: Words) -> Any:
    """Something that is no container, or a small one."""
    match rng.randrange(8):
        case 0 | 1:
            return number(rng, words)
        case 2 | 3:
            return text(rng, words)
        case 4:
            return rng.choice((None, True, False, [], {}))
        case 5:
            return rng.choice((0.5, -1.5, 1e-7, 1e6, 1e30, 3.5e38, 1e300, 5e-324, -0.0))
        case 6:
            return [number(rng, words) for _ in range(rng.choice((1, 2, 3, 4, 9)))]
        case _:
            return rng.choice((rng.random(), rng.uniform(-100, 100), rng.randrange(100)))


def change(value: Any, rng: Random, other: Any, words: Words) -> Any:
    """`value`, changed in place somewhere, or another value. It must be the caller's own."""
    place = _somewhere(value, rng)
    if place is None:
        return scalar(rng, words) if rng.random() < 0.5 else other
    holder, key = place
    old = holder[key]
    match rng.randrange(14):
        case 0 | 1:
            holder[key] = scalar(rng, words)
        case 2 | 3 | 4:
            holder[key] = _tweaked(old, rng, words)
        case 5:
            del holder[key]
        case 6:
            _insert(holder, key, _copy(old), rng, words)
        case 7 | 8:
            given = _somewhere(other, rng)
            found = given[0][given[1]] if given else other
            if rng.random() < 0.5:
                holder[key] = _copy(found)
            else:
                _insert(holder, key, _copy(found), rng, words)
        case 9:
            again = _somewhere(value, rng)
            if again is not None:
                holder[key] = _copy(again[0][again[1]])
        case 10:
            if isinstance(holder, dict):
                again = rng.choice(list(holder))
                name = rng.choice((f"{key}{_TWICE}", str(again) + _TWICE, text(rng, words), f"{key} ", key.upper()))
                holder[name] = old if rng.random() < 0.5 else holder.pop(key)
            else:
                rng.shuffle(holder)
        case 11:
            holder[key] = f"{_AT}{rng.randrange(len(_RAW))}"
        case 12:
            holder[key] = [old] if rng.random() < 0.5 else {text(rng, words): old}
        case _:
            if isinstance(old, list) and old:
                holder[key] = old * rng.choice((2, 3, 20)) if len(old) < 200 else old[: rng.randrange(len(old))]
            else:
                _insert(holder, key, scalar(rng, words), rng, words)
    return value


def _somewhere(value: Any, rng: Random) -> Place | None:
    """A container inside `value` and a key in it; deeper ones as well as near ones."""
    place = None
    while isinstance(value, dict | list) and value and (place is None or rng.random() < 0.8):
        key = rng.randrange(len(value)) if isinstance(value, list) else rng.choice(list(value))
        place, value = (value, key), value[key]
    return place


def _insert(holder: Any, key: Any, value: Any, rng: Random, words: Words) -> None:
    if isinstance(holder, list):
        holder.insert(key, value)
    else:
        holder[text(rng, words)] = value


def _copy(value: Any) -> Any:
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def _tweaked(old: Any, rng: Random, words: Words) -> Any:
    """Near the old value: the checks are."""
    if isinstance(old, bool) or old is None:
        return not old
    if isinstance(old, int | float):
        if isinstance(old, float) and not math.isfinite(old):
            return 0.0
        near = old + rng.choice((-1, 1, 1, 2, -2, 8, 512))
        return rng.choice(
            (near, near, -old, old * 2, old * 512, float(old) if abs(old) < 1 << 60 else 1.0, str(old), old // 2)
        )
    if isinstance(old, str):
        at = rng.randrange(len(old) + 1)
        letter = chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xD800), 0xDC80, 0)))
        cut = old[:at] + old[at + 1 :]
        return rng.choice(
            (old[:at] + letter + old[at:], cut, old[:at] + text(rng, words) + old[at:], old.swapcase(), old + old)
        )
    if isinstance(old, list | tuple):
        return [*old, scalar(rng, words)]
    return {**old, text(rng, words): scalar(rng, words)} if isinstance(old, dict) else scalar(rng, words)


def _spelled(written: str) -> str:
    """JSON with the odd spellings in the place of their texts."""
    if _TWICE in written:
        written = written.replace(_TWICE, "")
    if _AT in written:
        for number_, raw in enumerate(_RAW):
            written = written.replace(f'"{_AT}{number_}"', raw)
    return written


def json_bytes(value: Any, *, ascii_only: bool = True) -> bytes:
    """JSON text of a changed value."""
    return _spelled(json.dumps(value, ensure_ascii=ascii_only)).encode("utf-8", "surrogatepass")


def json_value(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of a JSON text's value."""
    try:
        value, given = json.loads(data), json.loads(other)
        return json_bytes(change(value, rng, given, words), ascii_only=rng.random() < 0.8)
    except (ValueError, RecursionError, OverflowError):
        return havoc(data, rng, other, words)


def lines_of(inner: Callable[[bytes, Random, bytes, Words], bytes]) -> Callable[[bytes, Random, bytes, Words], bytes]:
    """Changes of a text's lines, or of one line by `inner`."""

    def mutate(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
        lines, others = data.split(b"\n"), other.split(b"\n")
        at = rng.randrange(len(lines))
        match rng.randrange(8):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, rng.choice(lines))
            case 2:
                lines.insert(at, rng.choice(others))
            case 3:
                lines[at], lines[-1] = lines[-1], lines[at]
            case _:
                lines[at] = inner(lines[at], rng, rng.choice(others), words)
        return b"\n".join(lines)

    return mutate


def words_of_line(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of one word in a line, or of what stands between words."""
    parts = data.split(b" ")
    at = rng.randrange(len(parts))
    match rng.randrange(5):
        case 0:
            parts[at] = rng.choice(other.split(b" "))
        case 1:
            parts[at] = text(rng, words).encode("utf-8", "surrogatepass")
        case 2:
            del parts[at]
        case 3:
            parts.insert(at, rng.choice(parts))
        case _:
            parts[at] = havoc(parts[at], rng, other, words)
    return rng.choice((b" ", b" ", b" ", b"  ", b"\t", b"\xc2\xa0", b"\r")).join(parts)


def toml_bytes(value: dict[str, Any]) -> bytes:
    """TOML text: tables of tables as [a.b], all below them inline."""
    plain = {key: item for key, item in value.items() if not _is_tables(item)}
    lines = [f"{_toml_key(key)} = {_toml(item)}" for key, item in plain.items()]
    for key, item in value.items():
        if key not in plain:
            for name, table in item.items():
                lines.append(f"[{_toml_key(key)}.{_toml_key(name)}]")
                lines += [f"{_toml_key(inner)} = {_toml(entry)}" for inner, entry in table.items()]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _is_tables(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(item, dict) for item in value.values())


def _toml_key(key: Any) -> str:
    return (
        str(key).replace(_TWICE, "")
        if str(key).replace("_", "a").isalnum() and str(key).isascii()
        else json.dumps(str(key))
    )


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str) and value.startswith(_AT):
        return _TOML[int(value.removeprefix(_AT)) % len(_TOML)] if value.removeprefix(_AT).isdecimal() else '""'
    if value is None or isinstance(value, int | float | str):
        return json.dumps(value, ensure_ascii=False) if value is not None else "null"
    return json.dumps(str(value))


def toml_value(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of a TOML text's value."""
    try:
        value, given = tomllib.loads(data.decode()), tomllib.loads(other.decode())
        mutant = change(value, rng, given, words)
        return toml_bytes(mutant) if isinstance(mutant, dict) else havoc(data, rng, other, words)
    except (ValueError, RecursionError, OverflowError, TypeError):
        return lines_of(words_of_line)(data, rng, other, words)
