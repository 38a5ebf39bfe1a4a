"""What launches give, in a file that a player compares its own results with where the reference cannot be
(docs/doctor.md, "Golden files")."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ondevice.bundle.format import MANIFEST, MAX_JSON_BYTES
from ondevice.bundle.reader import Bundle
from ondevice.errors import DeviceError, KernelBuildError
from ondevice.measure.doctor.content import bits
from ondevice.measure.doctor.examine import RIGHT, UNKNOWN, Finding, Say, expected
from ondevice.measure.doctor.launches import Launch
from ondevice.measure.doctor.runner import LaunchRunner
from ondevice.measure.doctor.verdict import Bound, bound_of

FORMAT, VERSION = "ondevice-golden", 1
BLOCKS = 1024  # sums of a result
SIGNS = 255  # the seed of signs: no operand has this place
SPREADS = 4  # standard deviations of a sum of errors
FACTS = ("name", "platform", "version", "driver")  # of the reference
DOUBLE = 2.0**-40  # of a sum in double precision


def blocks_of(values: np.ndarray, bound: Bound) -> dict[str, Any]:
    """Sums of a result over BLOCKS blocks of neighbouring elements, each with a sign of its own, and how far each may
    be off; elements that are not finite are counted instead. Of at most BLOCKS elements a block has one."""
    flat = values.reshape(-1).astype(np.float64)
    finite = np.isfinite(flat)
    block = max(1, -(-flat.size // BLOCKS))
    sizes = np.where(finite, np.abs(flat), 0.0)
    limits = np.where(finite, bound.at(sizes, float(sizes.max(initial=0.0))), 0.0)
    signed = np.where(finite, flat, 0.0) * signs(flat.size)
    worst = np.minimum(_sums(limits, block), SPREADS * np.sqrt(_sums(limits**2, block)))
    slack = worst + DOUBLE * _sums(sizes, block)
    odd = int((~finite).sum())
    return {"block": block, "odd": odd, "sums": _sums(signed, block).tolist(), "slack": slack.tolist()}


def signs(count: int) -> np.ndarray:
    """1 or -1 of each element, float64."""
    return 1.0 - 2.0 * (bits(count, SIGNS) & 1)


def _sums(values: np.ndarray, block: int) -> np.ndarray:
    return np.add.reduceat(values, np.arange(0, values.size, block))


class Golden:
    """Results of a reference for `launches`; of those that it does not run, `unknown` says why."""

    def __init__(self, bundle: Bundle, reference: LaunchRunner, launches: Sequence[Launch]) -> None:
        self.bundle, self.reference, self.launches = bundle, reference, list(launches)
        self.rows: list[dict[str, Any]] = []
        self.placed: list[Launch] = []  # that of each row
        self.unknown: list[Finding] = []

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the reference."""
        return self.reference.device.facts()

    def make(self, say: Say | None = None) -> Golden:
        """Run them. Raises BundleError where the bundle is damaged."""
        for number, launch in enumerate(self.launches):
            try:
                fill, results = expected(self.reference, launch)
            except (KernelBuildError, DeviceError) as error:
                self.unknown.append(Finding(launch, UNKNOWN, why=str(error).splitlines()[0]))
                continue
            made = [
                {"operand": place} | blocks_of(array, bound_of(launch, place))
                for place, array in zip(launch.compared, results, strict=True)
            ]
            self.rows.append({"plan": launch.file, "dispatch": launch.number, "fill": fill, "results": made})
            self.placed.append(launch)
            if say:
                say(number + 1, len(self.launches))
        return self

    def dump(self) -> bytes:
        """The file's text."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "bundle": hashlib.sha256(self.bundle.files.read(MANIFEST)).hexdigest(),
            "target": self.bundle.target,
            "reference": {key: self.facts[key] for key in FACTS if key in self.facts},
        }
        rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in self.rows)
        data = f'{json.dumps(head)[:-1]}, "launches": [\n{rows}\n]}}\n'.encode()
        assert len(data) <= MAX_JSON_BYTES, "a result has at most BLOCKS sums"
        return data

    def findings(self, said: Sequence[Mapping[str, Any]]) -> list[Finding]:
        """A finding per launch, from what a player said of those that are not right: its rows of `launch` (the number
        of a row), `verdict` and `why`."""
        by_row = {row["launch"]: row for row in said}
        found = [self._finding(launch, by_row.get(number)) for number, launch in enumerate(self.placed)]
        order = {id(launch): number for number, launch in enumerate(self.launches)}
        return sorted([*found, *self.unknown], key=lambda one: order[id(one.launch)])

    def _finding(self, launch: Launch, row: Mapping[str, Any] | None) -> Finding:
        if row is None:
            return Finding(launch, RIGHT)
        return Finding(launch, row["verdict"], why=row["why"])
