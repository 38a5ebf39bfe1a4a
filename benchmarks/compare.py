"""Old and new results side by side: `python -m benchmarks.compare OLD.jsonl NEW.jsonl [--tolerance 0.05]`.

Rows of `ondevice bench ... --rows` and `benchmarks.kernels --rows` are matched by machine and name; the last of a name
counts. A time is compared as a ratio, new over old; of a peer, which was timed in turns with ours, the ratio of the two
is what is compared, since a busy machine slows both. Exits with 1 where something of ours got slower by more than the
tolerance and both spreads; rows that do not count (a spread above 0.1) are listed and fail nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import Row, read_rows
from ondevice.base.machine import same
from ondevice.errors import UsageError
from ondevice.run.timing import STEADY

TOLERANCE = 0.05
Key = tuple[tuple[str, int, str], str]


@dataclass(frozen=True, slots=True)
class Change:
    """One name on one machine. `ratio` above 1 is worse for us."""

    key: Key
    what: str  # "time", or "of peer" where the ratio to ours is compared
    old: float  # ms, or the peer's time over ours
    new: float
    ratio: float
    allowed: float
    counts: bool

    @property
    def worse(self) -> bool:
        """Whether it got slower by more than it may."""
        return self.counts and self.ratio > 1 + self.allowed


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 where something got worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help=f"part by which a time may grow beyond both spreads ({TOLERANCE})",
    )
    args = parser.parse_args(argv)
    if not 0 <= args.tolerance <= 100:
        parser.error(f"--tolerance: not a part from 0 to 100 (got {args.tolerance})")
    try:
        old, new = (read(path) for path in (args.old, args.new))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    changes = compare(old, new, args.tolerance)
    print("\n".join(table(changes, old, new)))
    return int(any(change.worse for change in changes))


def read(path: Path) -> dict[Key, Row]:
    """Rows by machine and name. Raises UsageError for a file or a line that is none of results."""
    return {(same(row["machine"]), row["name"]): row for row in read_rows(path)}


def compare(old: dict[Key, Row], new: dict[Key, Row], tolerance: float = TOLERANCE) -> list[Change]:
    """A change for each name that both have, worst first."""
    changes = []
    for key in old.keys() & new.keys():
        before, after = old[key], new[key]
        if before.get("ratio") and after.get("ratio"):  # of a peer: its time over ours, so smaller is worse for us
            a, b = before["ratio"], after["ratio"]
            what, noise, values = (
                "of peer",
                [(r["high"] - r["low"]) / r["median"] for r in (a, b)],
                (a["median"], b["median"]),
            )
            ratio = values[0] / values[1]
        else:
            what, noise, values = (
                "time",
                [row["spread"] for row in (before, after)],
                (before["median_ms"], after["median_ms"]),
            )
            ratio = values[1] / values[0]
        changes.append(Change(key, what, *values, ratio, tolerance + sum(noise) / 2, max(noise) <= STEADY))
    return sorted(changes, key=lambda change: (-change.ratio, change.key))


def table(changes: Iterable[Change], old: dict[Key, Row], new: dict[Key, Row]) -> list[str]:
    """Lines to print: every change, and what only one file has."""
    lines = [f"{'old':>10} {'new':>10} {'ratio':>6} {'may':>5}  name"]
    for change in changes:
        verdict = "  SLOWER" if change.worse else "" if change.counts else "  does not count: the machine was busy"
        unit = "" if change.what == "time" else "  (its time over ours)"
        row = f"{change.old:>10.3f} {change.new:>10.3f} {change.ratio:>6.2f} {1 + change.allowed:>5.2f}"
        lines.append(f"{row}  {change.key[1]}{unit}{verdict}")
    for word, only in (("old", old.keys() - new.keys()), ("new", new.keys() - old.keys())):
        lines += [f"only in {word}: {name} ({', '.join(map(str, machine))})" for machine, name in sorted(only)]
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
