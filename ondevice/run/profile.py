"""Where the time went: one row per dispatch, summed by kernel, op or node;
and, where asked for, when each launch ran (trace.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from ondevice.lower.program import math_of
from ondevice.plan.plan import Dispatch, Plan
from ondevice.target import FP32


@dataclass(slots=True)
class Row:
    """One dispatch over all runs so far. Rates are those of the device's own clock."""

    component: str
    sizes: str
    number: int  # of the dispatch in its plan
    node: str
    op: str
    kernel: str
    grid: tuple[int, int, int]
    group: tuple[int, int, int]
    flops: int  # of one run
    nbytes: int  # read and written by one run
    math: str = FP32  # what it multiplies in
    runs: int = 0
    seconds: float = 0.0  # of all runs


@dataclass(frozen=True, slots=True)
class Launch:
    """A dispatch in one run: seconds of the device's own clock."""

    row: Row
    start: float
    end: float


@dataclass(slots=True)
class Profile:
    """Times of a session's dispatches.
    `device` says what they were measured on; `launches` is None unless every one is kept."""

    device: dict[str, Any]
    rows: dict[tuple[str, str, int, Dispatch], Row] = field(default_factory=dict)
    launches: list[list[Launch]] | None = None  # one list per run

    def add(self, plan: Plan, spans: Sequence[tuple[float, float]]) -> None:
        """Count one run of `plan`, with begin and end of each dispatch."""
        sizes = " ".join(f"{name}={size}" for name, size in plan.sizes.items())
        run: list[Launch] = []
        for number, (d, (start, end)) in enumerate(zip(plan.dispatches, spans, strict=True)):
            key = (plan.component, sizes, number, d)  # a plan that is mended (guard.py) has others
            if key not in self.rows:
                kernel = plan.kernels[d.kernel]
                where = (plan.component, sizes, number, d.node, d.op, kernel.file, d.grid, d.group)
                self.rows[key] = Row(*where, d.flops, d.reads + d.writes, math_of(kernel.defines))
            self.rows[key].runs += 1
            self.rows[key].seconds += end - start
            run.append(Launch(self.rows[key], start, end))
        if self.launches is not None:
            self.launches.append(run)

    def clear(self) -> None:
        """Forget all times."""
        self.rows.clear()
        if self.launches is not None:
            self.launches.clear()

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """What runs in the block is not counted: a warm-up."""
        rows, self.rows = self.rows, {}
        launches, self.launches = self.launches, None
        try:
            yield
        finally:
            self.rows, self.launches = rows, launches

    def by(self, *fields: str) -> list[dict[str, Any]]:
        """Sums over rows that agree in `fields` (names of Row's), slowest first:
        launches, seconds, GFLOP/s, GB/s, share of all time."""
        total = sum(row.seconds for row in self.rows.values()) or 1.0
        sums: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in self.rows.values():
            names = tuple(getattr(row, name) for name in fields)
            entry = sums.setdefault(
                names, {**dict(zip(fields, names, strict=True)), "launches": 0, "seconds": 0.0, "flops": 0, "bytes": 0}
            )
            entry["launches"] += row.runs
            entry["seconds"] += row.seconds
            entry["flops"] += row.flops * row.runs
            entry["bytes"] += row.nbytes * row.runs
        for entry in sums.values():
            entry["gflops"], entry["gbytes"] = (rate(entry.pop(name), entry["seconds"]) for name in ("flops", "bytes"))
            entry["share"] = entry["seconds"] / total
        return sorted(sums.values(), key=lambda entry: -entry["seconds"])

    def to_table(self, *fields: str, top: int | None = None) -> str:
        """A table by `fields` (component and kernel by default), the `top` slowest entries; by what is multiplied in,
        too, where that is not float32 alone."""
        others = any(row.math != FP32 for row in self.rows.values())
        fields = (*(fields or ("component", "kernel")), *["math"] * others)
        entries = self.by(*fields)[:top]
        widths = [max([len(name), *(len(str(entry[name])) for entry in entries)]) for name in fields]
        head = " ".join(f"{name:<{width}}" for name, width in zip(fields, widths, strict=True))
        lines = [f"{head} {'launches':>8} {'ms':>10} {'share':>6} {'GFLOP/s':>8} {'GB/s':>6}"]
        for e in entries:
            names = " ".join(f"{e[name]!s:<{width}}" for name, width in zip(fields, widths, strict=True))
            lines.append(
                f"{names} {e['launches']:>8} {e['seconds'] * 1e3:>10.1f} {e['share']:>6.1%} "
                f"{e['gflops']:>8.1f} {e['gbytes']:>6.1f}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Device facts and every dispatch; `us` and the rates are of one run on average."""
        rows = []
        for row in self.rows.values():
            once = row.seconds / row.runs
            rows.append(
                asdict(row) | {"us": once * 1e6, "gflops": rate(row.flops, once), "gbytes": rate(row.nbytes, once)}
            )
        return {"device": self.device, "dispatches": rows}


def rate(count: int, seconds: float) -> float:
    """Billions per second; 0 where the clock saw no time pass."""
    return count / seconds / 1e9 if seconds > 0 else 0.0
