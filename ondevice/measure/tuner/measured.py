"""Measurements to a tuning file and back: a default for each kernel, rows that differ from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ondevice import __version__
from ondevice.errors import NoKernelError
from ondevice.lower.kernel_file import KernelFile
from ondevice.target import FP32
from ondevice.target.tuning import KernelTuning, Row, Tuning

Key = tuple[tuple[str, int], ...]
MAKERS = ("AMD", "Intel")  # of CPUs that differ in what is fast on them


@dataclass(frozen=True, slots=True)
class Measured:
    """A case's best tunables, all of them, and microseconds of one launch with them and without."""

    kernel: KernelFile
    at: Mapping[str, int]
    choice: Mapping[str, int]
    us: float
    was_us: float
    runs: float

    @property
    def cost(self) -> float:
        """What a picture spends on it without them, in microseconds."""
        return self.was_us * self.runs

    @property
    def weight_at(self) -> dict[str, int]:
        return self.kernel.weight_at(self.at)


def device_family(facts: Mapping[str, Any], math: str = FP32) -> tuple[str, dict[str, str | int]]:
    """(file name, what it matches) of a device. CPUs of one maker with vectors of one width under one driver are a
    family, or of products in another math than float32 those with one matrix unit, too; a GPU is its own, and a person
    who knows it for one of many alike may shorten the name that it matches."""
    if facts.get("kind") == "cpu":
        maker = next((maker for maker in MAKERS if maker.lower() in str(facts.get("name", "")).lower()), "")
        named = f"{facts['platform']} cpu {facts['vector_floats']} {maker}"
        match = {name: facts[name] for name in ("kind", "platform", "vector_floats")}
        match |= {"name": maker} if maker else {}
        if math != FP32 and (unit := facts.get("matrix_unit")):
            named, match = f"{named} {unit}", match | {"matrix_unit": unit}
    else:
        named, match = str(facts["name"]), {name: facts[name] for name in ("name", "platform") if name in facts}
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(\w+\)", "", named.lower())).strip("-")
    return slug or "device", match


def about(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a file says of where it was measured."""
    named = {
        "device": facts.get("name"),
        "platform": facts.get("platform"),
        "driver": facts.get("driver"),
        "clock": facts.get("clock"),
        "version": __version__,
    }
    return {name: str(value) for name, value in named.items() if value}


def tuning_of(
    name: str,
    match: Mapping[str, str | int],
    measured: Mapping[str, str],
    rows: Iterable[Measured],
    kernels: Mapping[str, KernelFile],
    before: Tuning | None = None,
) -> Tuning:
    """The file of these measurements, and of those of `before` that they do not replace and
    that still fit the kernels."""
    new = list(rows)
    kept = _kept(before, kernels, new) if before else []
    by_kernel: dict[str, list[Measured]] = {}
    for row in (*kept, *new):
        by_kernel.setdefault(row.kernel.name, []).append(row)
    tables = {kernel: _table(found) for kernel, found in by_kernel.items()}
    return Tuning(name, match, measured, tables)


def _kept(before: Tuning, kernels: Mapping[str, KernelFile], new: Sequence[Measured]) -> list[Measured]:
    replaced = {(row.kernel.name, frozenset(row.at.items())) for row in new}
    stored = {_weight(row): _stored(row) for row in new if row.weight_at}
    kept = []
    for name, table in before.kernels.items():
        kernel = kernels.get(name)
        for row in table.shapes if kernel else ():
            assert kernel is not None
            try:
                said, _ = table.choice(row.at, kernel.weight_at(row.at), kernel.variant(row.at))
                choice = kernel.tuning(row.at, **said)
            except NoKernelError:
                continue  # of a kernel that has other tunables now
            measured = Measured(kernel, row.at, choice, row.us, row.was_us, row.runs)
            # What was measured with a weight stored otherwise says nothing now.
            if (name, frozenset(row.at.items())) not in replaced and stored.get(
                _weight(measured), _stored(measured)
            ) == _stored(measured):
                kept.append(measured)
    return kept


def _weight(row: Measured) -> tuple[str, frozenset[tuple[str, int]]]:
    return row.kernel.name, frozenset(row.weight_at.items())


def _stored(row: Measured) -> dict[str, int]:
    return {name: row.choice[name] for name in row.kernel.stored_by}


def _table(rows: Sequence[Measured]) -> KernelTuning:
    """A default, one for each set of defines of the header's `with`, is the choice under which most of a picture's time
    falls; a weight's row is its costliest call's choice."""
    defaults = {key: _costliest(found) for key, found in _grouped(rows, lambda row: row.kernel.variant(row.at)).items()}
    weights = {key: max(found, key=_heavy) for key, found in _grouped(rows, lambda row: row.weight_at).items() if key}

    def default(row: Measured) -> Mapping[str, int]:
        return defaults[_key(row.kernel.variant(row.at))]

    shapes = []
    for row in rows:
        of_weight = weights.get(_key(row.weight_at))
        use = _other(row.choice, of_weight.choice if of_weight else default(row))
        shapes.append(Row(dict(row.at), use, round(row.us, 1), round(row.was_us, 1), row.runs))
    common = defaults.get((), {})
    return KernelTuning(
        common,
        [Row(dict(key), _other(row.choice, default(row))) for key, row in sorted(weights.items())],
        sorted(shapes, key=lambda row: sorted(row.at.items())),
        [Row(dict(key), _other(choice, common)) for key, choice in sorted(defaults.items()) if key],
    )


def _key(at: Mapping[str, int]) -> Key:
    return tuple(sorted(at.items()))


def _grouped(rows: Sequence[Measured], part: Callable[[Measured], Mapping[str, int]]) -> dict[Key, list[Measured]]:
    groups: dict[Key, list[Measured]] = {}
    for row in rows:
        groups.setdefault(_key(part(row)), []).append(row)
    return groups


def _heavy(row: Measured) -> tuple[float, Key]:
    return row.cost, _key(row.at)


def _costliest(rows: Sequence[Measured]) -> dict[str, int]:
    sums: dict[Key, float] = {}
    for row in rows:
        key = _key(row.choice)
        sums[key] = sums.get(key, 0.0) + row.cost
    return dict(max(sums.items(), key=lambda item: (item[1], item[0]))[0])


def _other(choice: Mapping[str, int], base: Mapping[str, int]) -> dict[str, int]:
    return {name: value for name, value in sorted(choice.items()) if base.get(name) != value}
