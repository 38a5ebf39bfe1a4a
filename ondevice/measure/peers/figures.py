"""What a comparison measured: times, ratios round by round, differences between outputs,
and the tables they are shown in."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ondevice.base.columns import columns
from ondevice.measure.peers.peer import Peer, Task
from ondevice.run.timing import Timing, summary

HEAD = (
    "peer", "median ms", "spread", "CPU ms", "ratio", "(range)", "by CPU", "max diff", "rms diff", "peak RSS MB",
    "load s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an output is from another runtime's. `scale` is the largest value there."""

    to: str
    max_abs: float
    rms: float
    scale: float


def difference(got: np.ndarray, reference: np.ndarray, to: str) -> Difference:
    """Of two outputs with as many elements; infinite where a value is not finite or the sizes differ."""
    scale = float(np.abs(reference).max())
    if got.size != reference.size or not np.isfinite(got).all():
        return Difference(to, float("inf"), float("inf"), scale)
    apart = got.reshape(-1).astype(np.float64) - reference.reshape(-1)
    return Difference(to, float(np.abs(apart).max()), float(np.sqrt(np.mean(apart**2))), scale)


@dataclass(frozen=True, slots=True)
class Turn:
    """One run, in seconds: by the wall, and of all threads of the process.
    On a core that others want, the first is the longer one."""

    seconds: float
    cpu: float


@dataclass(slots=True)
class Measured:
    """One peer. `ratios` are its time over the first peer's, one per round; the first peer has none. `cpu_ratios` are
    of CPU time: on a core that others want, too, the wall clock counts their work and this one does not."""

    peer: Peer
    turns: list[Turn] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)
    peak: int = 0  # bytes of the worker, at its most
    load_s: float = 0.0
    once_s: float = 0.0  # that it takes once per text, outside of its runs; 0 where a run is all
    difference: Difference | None = None

    def timing(self, task: Task) -> Timing:
        """By the one timer's rules."""
        return summary(f"{task.name()} {self.peer.name}", [turn.seconds for turn in self.turns])

    def cpu_s(self) -> float:
        """Median seconds of processor that a run took, all threads together."""
        return statistics.median(turn.cpu for turn in self.turns)

    def row(self, task: Task, base: str) -> dict[str, Any]:
        """As plain data. JSON has no infinity: a difference that is not finite is null."""
        row: dict[str, Any] = {"kind": "peers", "peer": self.peer.name, "what": self.peer.what, **asdict(task)}
        row |= self.timing(task).row()
        row["name"] = f"peers: {task.source.model} {row['name']}"
        del row["gflop_per_s"], row["gb_per_s"]
        row |= {"seconds": [turn.seconds for turn in self.turns], "cpu_seconds": [turn.cpu for turn in self.turns]}
        for name, ratios in (("ratio", self.ratios), ("cpu_ratio", self.cpu_ratios)):
            row[name] = {"to": base, **ratio_of(ratios)} if ratios else None
        row |= {"peak_rss_bytes": self.peak, "load_s": self.load_s, "once_s": self.once_s}
        row["versions"] = self.peer.versions()
        apart = asdict(self.difference) if self.difference else None
        row["difference"] = (
            apart if apart is None or np.isfinite(apart["max_abs"]) else apart | {"max_abs": None, "rms": None}
        )
        return row


def ratio_of(ratios: Sequence[float]) -> dict[str, float]:
    """Median and range of ratios that were each taken in one round: drift of the machine is in both of their times."""
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def to_text(
    task: Task, cores: Sequence[int], found: Sequence[Measured], skipped: Mapping[str, str], apart: bool = False
) -> str:
    """A table, and what must be known to read it."""
    base = found[0].peer.name
    table = [tuple(f"x {base}" if text == "ratio" else text for text in HEAD)]
    busy = []
    for one in found:
        timing, ratio = one.timing(task), ratio_of(one.ratios) if one.ratios else None
        off = one.difference
        table.append(
            (
                one.peer.name,
                f"{timing.median_ms:,.1f}",
                f"{timing.spread:.2f}",
                f"{one.cpu_s() * 1e3:,.1f}",
                f"{ratio['median']:.2f}x" if ratio else "1",
                f"{ratio['low']:.2f}..{ratio['high']:.2f}" if ratio else "",
                f"{ratio_of(one.cpu_ratios)['median']:.2f}x" if ratio else "",
                f"{off.max_abs:.1e}" if off else "",
                f"{off.rms:.1e}" if off else "",
                f"{one.peak / 1e6:,.0f}",
                f"{one.load_s:.1f}",
            )
        )
        busy += [] if timing.counts else [one.peer.name]
    turns = f"{base} before and after each other peer" if apart else f"{base} and one other peer at a time in turns"
    how = f"{len(found[-1].turns)} rounds, {turns}"
    lines = [f"{task.name()}, {_cores(cores)}: {how}", *columns(table)]
    if found[0].difference:
        lines.append(f"differences to {found[0].difference.to}, whose largest value is {found[0].difference.scale:.2f}")
    lines += [
        f"{one.peer.name} takes {one.once_s * 1e3:,.1f} ms more once per text, for what depends on the text alone"
        for one in found
        if one.once_s
    ]
    lines += [f"the machine was busy: {name} does not count" for name in busy]
    return "\n".join([*lines, *(f"{name} is left out: {why}" for name, why in skipped.items())])


def _cores(cores: Sequence[int]) -> str:
    return f"core{'s' * (len(cores) > 1)} {','.join(map(str, cores))}"
