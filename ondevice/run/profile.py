"""Where the time went: one row a dispatch, summed by kernel or op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ondevice.plan.plan import Plan


@dataclass(slots=True)
class Row:
    """One dispatch over all runs so far."""

    component: str
    node: str
    op: str
    kernel: str
    grid: tuple[int, int, int]
    flops: int  # of one run
    nbytes: int  # read and written by one run
    runs: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Profile:
    """Times of a session's dispatches. `device` says what they were measured on."""

    device: dict[str, Any]
    rows: dict[tuple[str, tuple[tuple[str, int], ...], int], Row] = field(default_factory=dict)

    def add(self, plan: Plan, seconds: Sequence[float]) -> None:
        """Count one run of `plan`, with a time for each dispatch."""
        sizes = tuple(sorted(plan.sizes.items()))
        for number, (d, took) in enumerate(zip(plan.dispatches, seconds, strict=True)):
            key = (plan.component, sizes, number)
            if key not in self.rows:
                kernel = plan.kernels[d.kernel].file
                self.rows[key] = Row(plan.component, d.node, d.op, kernel, d.grid, d.flops, d.reads + d.writes)
            self.rows[key].runs += 1
            self.rows[key].seconds += took

    def by(self, *fields: str) -> list[dict[str, Any]]:
        """Sums over rows that agree in `fields`, slowest first: launches, seconds, GFLOP/s, GB/s, share."""
        total = sum(row.seconds for row in self.rows.values()) or 1.0
        sums: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in self.rows.values():
            names = tuple(getattr(row, name) for name in fields)
            entry = sums.setdefault(names, {**dict(zip(fields, names, strict=True)), "launches": 0, "seconds": 0.0, "flops": 0, "bytes": 0})
            entry["launches"] += row.runs
            entry["seconds"] += row.seconds
            entry["flops"] += row.flops * row.runs
            entry["bytes"] += row.nbytes * row.runs
        for entry in sums.values():
            time = entry["seconds"] or 1e-12
            entry |= {"gflops": entry.pop("flops") / time / 1e9, "gbytes": entry.pop("bytes") / time / 1e9, "share": entry["seconds"] / total}
        return sorted(sums.values(), key=lambda entry: -entry["seconds"])

    def to_table(self) -> str:
        """A table by component and kernel."""
        lines = [f"{'component':<13} {'kernel':<16} {'launches':>8} {'ms':>10} {'share':>6} {'GFLOP/s':>8} {'GB/s':>6}"]
        for e in self.by("component", "kernel"):
            lines.append(
                f"{e['component']:<13} {e['kernel']:<16} {e['launches']:>8} {e['seconds'] * 1e3:>10.1f} {e['share']:>6.1%} "
                f"{e['gflops']:>8.1f} {e['gbytes']:>6.1f}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Device facts and every dispatch."""
        return {"device": self.device, "dispatches": [asdict(row) for row in self.rows.values()]}
