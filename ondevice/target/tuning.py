"""What `ondevice tune` measured: `shaders/tuning/NAME.toml`, which devices it is for,
and which tunables it has for a call of some sizes.

A file has a table per kernel: a `default`, others for calls with defines for which the kernel's own differ (`with`),
rows for weights of some size (tunables that say how a weight is stored depend on nothing else, so that it is stored
once whatever calls read it), and rows for calls of some sizes. The most specific one that is there wins.
"""

from __future__ import annotations

import functools
import json
import re
import reprlib
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ondevice.base.paths import TUNING
from ondevice.base.publish import published_file
from ondevice.base.text.toml import parse_toml
from ondevice.errors import PlanError, UsageError

FACTS = (
    "kind",
    "name",
    "platform",
    "vendor",
    "vector_floats",
    "matrix_unit",
)  # of a device, by which a file says what it is for
MAKERS = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}  # of CPUs -> the ends of their files' names
BY_SHAPE, BY_WEIGHT, BY_DEFAULT, NOT_SAID = "by shape", "by weight", "by default", ""
HEAD = """\
# Tunables that `ondevice tune` measured; docs/tuning.md says how they are chosen and used. `us` and `was_us` are
# microseconds of one launch with these tunables and without; `runs` is how often a picture launches it.
"""
_NAME = re.compile(r"[A-Za-z_]\w*")
_MOST_BYTES = 1 << 20  # of a file; the package's have some thousand
_MOST = (1 << 31) - 1  # a size, a tunable, a fact
_LONGEST = 1e15  # microseconds, launches


@dataclass(frozen=True, slots=True)
class Row:
    """At these sizes, use these tunables. Times are microseconds of one launch; 0 where none was measured."""

    at: Mapping[str, int]
    use: Mapping[str, int]
    us: float = 0.0
    was_us: float = 0.0
    runs: float = 0.0  # launches per picture


@dataclass(frozen=True, slots=True)
class KernelTuning:
    """One kernel's table: a default, changed by the row of a weight, changed by the row of a call.

    `default` is for calls with none of the defines that the kernel's header has a `with` for. A row of `variants` is
    for those with just its defines, and says what differs from `default`; of such calls without a row the table has no
    default, and the header's own stand.
    """

    default: Mapping[str, int]
    weights: Sequence[Row] = ()
    shapes: Sequence[Row] = ()
    variants: Sequence[Row] = ()
    _rows: dict[frozenset[tuple[str, int]], Row] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A weight's sizes and a call's are never the same: a call has those of its result, too.
        object.__setattr__(self, "_rows", {frozenset(row.at.items()): row for row in (*self.weights, *self.shapes)})

    def base(self, variant: Mapping[str, int]) -> dict[str, int] | None:
        """The default of calls with these defines of the header's `with`; None where the table has none."""
        if not variant:
            return dict(self.default)
        row = next((row for row in self.variants if row.at == variant), None)
        return None if row is None else {**self.default, **row.use}

    def choice(
        self, at: Mapping[str, int], weight_at: Mapping[str, int], variant: Mapping[str, int]
    ) -> tuple[dict[str, int], str]:
        """(tunables that it says, which rule gave them) of a call."""
        weight = self._rows.get(frozenset(weight_at.items())) if weight_at else None
        shape, base = self._rows.get(frozenset(at.items())), self.base(variant)
        how = BY_SHAPE if shape else BY_WEIGHT if weight else NOT_SAID if base is None else BY_DEFAULT
        return (base or {}) | dict(weight.use if weight else {}) | dict(shape.use if shape else {}), how


@dataclass(frozen=True, slots=True)
class Tuning:
    """One file. `match` holds facts of the devices it is for (text: a part of the fact),
    `measured` says on what, in words."""

    name: str
    match: Mapping[str, str | int]
    measured: Mapping[str, str]
    kernels: Mapping[str, KernelTuning]

    def fits(self, facts: Mapping[str, Any]) -> bool:
        """Whether it is for a device with these facts."""
        return all(
            str(wanted).lower() in str(facts.get(fact, "")).lower()
            if isinstance(wanted, str)
            else wanted == facts.get(fact)
            for fact, wanted in self.match.items()
        )

    def to_toml(self) -> str:
        """The file's text: sorted, a row per line, so that two measurements can be compared by eye and by diff."""
        lines = [HEAD, f"match = {_inline(self.match)}", f"measured = {_inline(self.measured)}"]
        for name, kernel in sorted(self.kernels.items()):
            lines += ["", f"[kernel.{name}]", f"default = {_inline(kernel.default)}"]
            for key, rows in (("with", kernel.variants), ("weight", kernel.weights), ("shape", kernel.shapes)):
                if rows:
                    lines += [f"{key} = [", *(f"  {_row_text(row)}," for row in sorted(rows, key=_order)), "]"]
        return "\n".join(lines) + "\n"


def _order(row: Row) -> list[tuple[str, int]]:
    return sorted(row.at.items())


def _inline(table: Mapping[str, Any]) -> str:
    values = {name: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for name, value in table.items()}
    return "{" + ", ".join(f"{name} = {value}" for name, value in sorted(values.items())) + "}"


def _row_text(row: Row) -> str:
    timed = f", us = {row.us:.1f}, was_us = {row.was_us:.1f}, runs = {row.runs:g}" if row.was_us else ""
    return f"{{at = {_inline(row.at)}, use = {_inline(row.use)}{timed}}}"


def read_tuning(path: Path, where: str = "--tuning") -> Tuning:
    """The file at `path`.

    Raises:
        UsageError: there is none.
        PlanError: it is damaged; says where.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for
            raise OSError(0, "it is no file")
        return _read(path, facts.st_mtime_ns)
    except OSError as error:
        what = f"{path} cannot be read ({error.strerror})."
        raise UsageError(what, where=where, fix="name a file that `ondevice tune` wrote") from None


@functools.lru_cache(maxsize=32)
def _read(path: Path, _changed: int) -> Tuning:
    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise _damaged(path.name, f"it is too large (expected at most {_MOST_BYTES} bytes)")
    try:
        content = parse_toml(data)
    except ValueError as error:
        raise _damaged(path.name, f"it is not TOML: {error}") from None
    match, measured, kernels = (content.pop(key, {}) for key in ("match", "measured", "kernel"))
    if content or not all(isinstance(table, dict) for table in (match, measured, kernels)):
        raise _damaged(
            path.name,
            f"it has tables `match`, `measured` and [kernel.NAME] only (got also {reprlib.repr(sorted(content))})",
        )
    if not all(fact in FACTS and (type(value) is str or _is_number(value)) for fact, value in match.items()):
        raise _damaged(
            path.name, f"`match` has texts and whole numbers of {', '.join(FACTS)} (got {reprlib.repr(match)})"
        )
    if not all(isinstance(value, str) for value in measured.values()):
        raise _damaged(path.name, f"`measured` has texts only (got {reprlib.repr(measured)})")
    if wrong := [name for name in kernels if not _NAME.fullmatch(name)]:
        raise _damaged(path.name, f"a kernel's name is letters, digits and _ (got {reprlib.repr(wrong[0])})")
    return Tuning(
        path.stem,
        match,
        measured,
        {name: _kernel(table, f"{path.name}: kernel.{name}") for name, table in kernels.items()},
    )


def _kernel(table: object, where: str) -> KernelTuning:
    if (
        not isinstance(table, dict)
        or not table.keys() <= {"default", "with", "weight", "shape"}
        or not _numbers(table.get("default"))
    ):
        raise _damaged(
            where, "it needs `default`, tunables with whole numbers, and may have lists `with`, `weight` and `shape`"
        )
    weights, shapes, variants = (_rows(table.get(key, []), f"{where}.{key}") for key in ("weight", "shape", "with"))
    return KernelTuning(table["default"], weights, shapes, variants)


def _rows(rows: object, where: str) -> list[Row]:
    if not isinstance(rows, list):
        raise _damaged(where, "it is no list")
    read_rows, seen = [], set()
    for number, row in enumerate(rows):
        timed = isinstance(row, dict) and all(_is_time(row.get(name, 0)) for name in ("us", "was_us", "runs"))
        if (
            not timed
            or not row.keys() <= {"at", "use", "us", "was_us", "runs"}
            or not _numbers(row.get("at"))
            or not _numbers(row.get("use"))
        ):
            what = (
                f"row {number} needs `at` and `use`, tables of numbers, and may have `us`, "
                f"`was_us` and `runs` (got {reprlib.repr(row)})"
            )
            raise _damaged(where, what)
        if (key := frozenset(row["at"].items())) in seen:
            raise _damaged(where, f"two rows are for {_inline(row['at'])[:200]}")
        seen.add(key)
        read_rows.append(Row(row["at"], row["use"], *(float(row.get(name, 0)) for name in ("us", "was_us", "runs"))))
    return read_rows


def _numbers(table: object) -> bool:
    return isinstance(table, dict) and all(_NAME.fullmatch(name) and _is_number(value) for name, value in table.items())


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_time(value: object) -> bool:
    # compared as it is: it may be past float
    return isinstance(value, int | float) and type(value) is not bool and 0 <= value <= _LONGEST


def _damaged(where: str, what: str) -> PlanError:
    return PlanError(f"{what}.", where=where, fix="write it again with `ondevice tune`, or choose another --tuning")


def write_tuning(tuning: Tuning, path: Path) -> None:
    """Write the file, whole or not at all.

    Raises:
        UsageError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with published_file(path) as file:
            file.write(tuning.to_toml().encode())
    except OSError as error:
        fix = "choose a file of yours with --out, and give it to `ondevice convert --tuning`"
        raise UsageError(f"{path} cannot be written ({error.strerror}).", where="--out", fix=fix) from None


def named(name: str) -> Tuning:
    """A file of the package. Raises UsageError where there is none."""
    return read_tuning(TUNING / f"{name}.toml", where=f"tuning {name!r}")


def made_for(names: Iterable[str], maker: str, unit: str = "") -> list[Tuning]:
    """Those of the package's files of these names that were measured on CPUs of a maker, as Linux names it, and those
    of products in their matrix unit before them."""
    known = [f"{name}-{MAKERS[maker]}" for name in names if maker in MAKERS]
    wanted = [*(f"{name}-{unit}" for name in known if unit), *known]
    return [named(name) for name in wanted if (TUNING / f"{name}.toml").exists()]


def measured_for(facts: Mapping[str, Any]) -> list[Tuning]:
    """The package's files for a device with these facts, the one that asks for most facts first:
    a device's before its family's."""
    found = [tuning for path in sorted(TUNING.glob("*.toml")) if (tuning := read_tuning(path)).fits(facts)]
    return sorted(found, key=lambda tuning: (-len(tuning.match), -len(repr(sorted(tuning.match.items()))), tuning.name))
