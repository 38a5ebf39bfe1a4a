"""What a recipe can be told: each setting once, with its type, default and bounds, as a flag and as a key of a JSON
file. Names and defaults are those of the scripts that people train with today."""

from __future__ import annotations

import argparse
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ondevice.errors import UsageError

NEEDED = object()
"""The default of a setting that has none."""
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_MOST = 1 << 20  # bytes of a file of settings
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that a recipe can be told.

    Args:
        name: of the flag, behind two dashes, and of the key.
        default: NEEDED where there is none; None where it may be left out, and then means what `about` says.
        kind: int, float, bool or str. A flag of a bool may stand alone.
        low, high: the least and the most of a number.
        choices: the words that a text may be.
        several: whether it is a list.
        also: other names that it has elsewhere, as flags and as keys.
    """

    name: str
    default: Any
    kind: type
    about: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    several: bool = False
    also: tuple[str, ...] = ()

    def flag(self, group: argparse._ArgumentGroup) -> None:
        """Declare it. It is in the result only where it is given."""
        default = "" if self.default in (NEEDED, None) else f" (default {self._shown()})"
        more: dict[str, Any] = {"nargs": "+"} if self.several else {}
        if self.kind is bool:
            more = {"nargs": "?", "const": "true"}
        group.add_argument(
            *(f"--{name}" for name in (self.name, *self.also)),
            dest=self.name,
            default=argparse.SUPPRESS,
            metavar="|".join(self.choices) or {int: "N", float: "X", bool: "true|false"}.get(self.kind, "TEXT"),
            help=(self.about + default).replace("%", "%%"),
            **more,
        )

    def _shown(self) -> str:
        if self.several:
            return " ".join(self.default)
        return str(self.default).lower() if self.kind is bool else str(self.default)

    def of(self, value: Any, where: str) -> Any:
        """A value of a flag (text) or of a JSON file, checked. Raises UsageError for one that it cannot be."""
        if self.default is None and (value is None or (value is False and self.kind is str)):
            return None  # of a text false says it, too, as "resume_from_checkpoint" of published files does
        if self.several:
            given = value if isinstance(value, list) else [value]
            return tuple(replace(self, several=False).of(one, where) for one in given)
        found = self._read(value)
        shown = json.dumps(value) if isinstance(value, bool | None) else value
        if found is None:
            what = f"{self.name} is not {_WORDS[self.kind]} (got {shown})."
            raise UsageError(what, where=where, fix="correct it")
        if self.choices and found not in self.choices:
            what = f"{self.name} is unknown (got {shown}, expected one of {', '.join(self.choices)})."
            raise UsageError(what, where=where, fix=f"use {self.choices[0]}")
        if self.kind in (int, float) and not self.low <= found <= self.high:
            most = "" if self.high == math.inf else f" to {self.high:g}"
            what = f"{self.name} is out of range (got {shown}, expected {self.low:g}{most or ' or more'})."
            raise UsageError(what, where=where, fix="correct it")
        return found

    def _read(self, value: Any) -> Any:
        if self.kind is bool:
            return value if isinstance(value, bool) else _TRUTH.get(str(value).lower())
        if self.kind is str:
            return value if isinstance(value, str) else None
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = float(value) if self.kind is float or isinstance(value, float) else int(value)
            if not math.isfinite(number) or (self.kind is int and number != int(number)):
                return None
        except (ValueError, OverflowError):  # no number, or one past the largest float
            return None
        return self.kind(number)


def changed(settings: Iterable[Setting], **defaults: Any) -> tuple[Setting, ...]:
    """The settings with other defaults."""
    by_name = {one.name: one for one in settings}
    assert defaults.keys() <= by_name.keys(), defaults.keys() - by_name.keys()
    return tuple(replace(one, default=defaults.get(name, one.default)) for name, one in by_name.items())


def renamed(settings: Iterable[Setting], **names: str) -> tuple[Setting, ...]:
    """The settings, some of which have another name, too."""
    by_name = {one.name: one for one in settings}
    assert names.keys() <= by_name.keys(), names.keys() - by_name.keys()
    more = {name: (*by_name[name].also, other) for name, other in names.items()}
    return tuple(replace(one, also=more.get(name, one.also)) for name, one in by_name.items())


def add_flags(parser: argparse.ArgumentParser, groups: Mapping[str, Iterable[Setting]]) -> None:
    """Declare a recipe's settings as flags, by group, and the file that they may come from."""
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.json", help="settings by name; flags go before what it says"
    )
    for title, settings in groups.items():
        group = parser.add_argument_group(title)
        for one in settings:
            one.flag(group)


def settings_of(args: argparse.Namespace, groups: Mapping[str, Iterable[Setting]]) -> argparse.Namespace:
    """Every setting of a recipe: as a flag says it, else the file, else its default.

    Raises:
        UsageError: the file cannot be read, or has a key that is none; a value is none of its setting's; or one that is
            needed is missing.
    """
    known = {one.name: one for settings in groups.values() for one in settings}
    given = {} if args.config is None else _read(args.config, known)
    given |= {name: (value, f"--{name}") for name, value in vars(args).items() if name in known}
    if missing := [name for name, one in known.items() if one.default is NEEDED and name not in given]:
        what = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not given."
        raise UsageError(what, where="train", fix=f"give --{missing[0]}, or put it into CONFIG.json")
    found = {name: one.of(*given[name]) if name in given else one.default for name, one in known.items()}
    return argparse.Namespace(**found)


def _read(path: Path, known: Mapping[str, Setting]) -> dict[str, tuple[Any, str]]:
    """{name: (value, where it was read)} of a JSON file."""
    where = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
        text = data.decode("utf-8") if len(data) <= _MOST else "the file is too large"
        values = json.loads(text)
    except OSError as error:
        what = f"it cannot be read ({error.strerror})."
        raise UsageError(what, where=where, fix="give a JSON file of settings") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"it is no JSON ({error}).", where=where, fix="give a JSON file of settings") from error
    if not isinstance(values, dict):
        raise UsageError("it is no JSON object of settings.", where=where, fix='write such as {"rank": 8}')
    names = {other: name for name, one in known.items() for other in (name, *one.also)}
    found: dict[str, tuple[Any, str]] = {}
    for key, value in values.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            fix = f"write {near[0]}" if near else "take it out; --help lists the settings"
            raise UsageError(f"{key!r} is no setting of this recipe.", where=where, fix=fix)
        if names[key] in found:
            raise UsageError(
                f"{key} is another name of {names[key]}, and both are there.", where=where, fix="take one out"
            )
        found[names[key]] = (value, where)
    return found
