"""Reads what a pipeline takes from its user: numbers, texts and pictures (docs/pipeline.md, "Keys")."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ondevice.bundle import format as f
from ondevice.bundle.pipeline import PREPARE, RESERVED, Given, Number

MAX_NUMBERS, MAX_GIVEN = 64, 16
Path = tuple[str | int | tuple[str], ...]


class GivenReader:
    """What was read so far, by name."""

    def __init__(self, check: f.Checker) -> None:
        self.check = check
        self.numbers: dict[str, Number] = {}
        self.texts: dict[str, bool] = {}
        self.pictures: dict[str, Given] = {}

    def name(self, value: Any, taken: Collection[str], *path: str | int | tuple[str]) -> str:
        """A new identifier."""
        self.check.identifier(value, *path)
        if value in RESERVED or value in taken:
            self.check.fail(f"is {f.shown(value)}, a name that is taken", *path)
        return str(value)

    def number(self, value: Any, low: float, high: float, *path: str | int | tuple[str]) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            self.check.fail(f"is {f.shown(value)} (expected a number {low:g}..{high:g})", *path)
        return float(value)

    def constant_or_number(self, value: Any, *path: str | int | tuple[str]) -> float | str:
        """A constant, or the name of a number (not a ramp), `width` or `height`."""
        if type(value) is not str:
            return self.number(value, -f.FLOAT32_MAX, f.FLOAT32_MAX, *path)
        return self.check.one_of(value, (*self.plain(), "width", "height"), *path)

    def plain(self, *, windowed: bool = True) -> list[str]:
        """Numbers that are one number, not one per frame; without `windowed` only those that no call changes."""
        return [
            name for name, number in self.numbers.items() if number.ramp is None and (windowed or number.window is None)
        ]

    def read_numbers(self, value: Any) -> None:
        for name, row in self.check.table(value, MAX_NUMBERS, "pipeline", "numbers").items():
            at: Path = ("pipeline", "numbers", (name,))
            self.name(name, self.numbers, *at)
            self.check.record(row, (), *at)
            if "ramp" in row:
                pair = self.pair(row["ramp"], *at, "ramp")
                self.numbers[name] = Number(None, -f.FLOAT32_MAX, f.FLOAT32_MAX, ramp=pair)
                continue
            low = self.number(row.get("low", -f.FLOAT32_MAX), -f.FLOAT32_MAX, f.FLOAT32_MAX, *at, "low")
            high = self.number(row.get("high", f.FLOAT32_MAX), low, f.FLOAT32_MAX, *at, "high")
            (usual,) = self.check.record(row, ("default",), *at)
            default = self.constant_or_number(usual, *at, "default")
            if isinstance(default, float):
                self.number(usual, low, high, *at, "default")
            window = self.pair(row["window"], *at, "window") if "window" in row else None
            self.numbers[name] = Number(default, low, high, window=window)

    def pair(self, value: Any, *path: str | int | tuple[str]) -> tuple[str, str]:
        """Two numbers that were read before."""
        first, second = self.check.array(value, (2, 2), *path)
        known = self.plain()
        return self.check.one_of(first, known, *path, 0), self.check.one_of(second, known, *path, 1)

    def read_texts(self, value: Any) -> None:
        for name, row in self.check.table(value, MAX_GIVEN, "pipeline", "texts").items():
            at: Path = ("pipeline", "texts", (name,))
            self.name(name, self.numbers, *at)
            self.texts[name] = self.flag(self.check.table(row, MAX_GIVEN, *at), "optional", at)

    def flag(self, row: Mapping[str, Any], key: str, at: Path) -> bool:
        value = row.get(key, False)
        if type(value) is not bool:
            self.check.fail(f"is {f.shown(value)} (expected true or false)", *at, key)
        return value

    def read_pictures(self, value: Any) -> None:
        for name, row in self.check.table(value, MAX_GIVEN, "pipeline", "pictures").items():
            at: Path = ("pipeline", "pictures", (name,))
            self.name(name, (*self.numbers, *self.texts), *at)
            prepare = self.check.one_of(self.check.record(row, ("prepare",), *at)[0], PREPARE, *at, "prepare")
            given = [other for other, read in self.pictures.items() if not read.of]
            of = tuple(
                self.check.one_of(other, given, *at, "of", i)
                for i, other in enumerate(self.check.array(row.get("of", []), (0, 2), *at, "of"))
            )
            if (prepare == "masked") != (len(of) == 2):
                what = "is wrong (expected a picture and its mask for masked, and for other words at most one picture)"
                self.check.fail(what, *at, "of")
            optional = any(self.pictures[other].optional for other in of) or self.flag(row, "optional", at)
            self.pictures[name] = Given(prepare, optional, of)

    def prepared(self, value: Any, prepare: str, *path: str | int | tuple[str]) -> str:
        """The name of a picture that is prepared so."""
        known = [name for name, given in self.pictures.items() if given.prepare == prepare]
        return self.check.one_of(value, known, *path)
