"""Measurements to a tuning file and back: a default for each kernel, rows that differ from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ondevice import __version__
from ondevice.errors import NoKernelError
from ondevice.lower.kernel_file import KernelFile
from ondevice.target import FP32
from ondevice.target.tuning import KernelTuning, Row, Tuning

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
                choice = kernel.tuning(row.at, **table.choice(row.at, kernel.weight_at(row.at))[0])
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
    """The default is the choice under which most of a picture's time falls;
    a weight's row is its costliest call's choice."""
    default = dict(_costliest(rows))
    weights: dict[frozenset[tuple[str, int]], list[Measured]] = {}
    for row in rows:
        if row.weight_at:
            weights.setdefault(frozenset(row.weight_at.items()), []).append(row)
    of_weight = {key: default | dict(max(found, key=_heavy).choice) for key, found in weights.items()}
    shapes = []
    for row in rows:
        base = of_weight.get(frozenset(row.weight_at.items()), default)
        shapes.append(Row(dict(row.at), _other(row.choice, base), round(row.us, 1), round(row.was_us, 1), row.runs))
    return KernelTuning(
        default,
        [
            Row(dict(sorted(key)), _other(choice, default))
            for key, choice in sorted(of_weight.items(), key=lambda item: sorted(item[0]))
        ],
        sorted(shapes, key=lambda row: sorted(row.at.items())),
    )


def _heavy(row: Measured) -> tuple[float, list[tuple[str, int]]]:
    return row.cost, sorted(row.at.items())


def _costliest(rows: Sequence[Measured]) -> dict[str, int]:
    sums: dict[tuple[tuple[str, int], ...], float] = {}
    for row in rows:
        key = tuple(sorted(row.choice.items()))
        sums[key] = sums.get(key, 0.0) + row.cost
    return dict(max(sums.items(), key=lambda item: (item[1], item[0]))[0])


def _other(choice: Mapping[str, int], base: Mapping[str, int]) -> dict[str, int]:
    return {name: value for name, value in sorted(choice.items()) if base.get(name) != value}
