"""Tables for a terminal, and for a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def columns(table: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lines of a table: the first `left` columns to the left, the others to the right;
    columns with nothing but a head are left out."""
    kept = [i for i in range(len(table[0])) if any(row[i] for row in table[1:]) or len(table) == 1]
    widths = {i: max(len(row[i]) for row in table) for i in kept}
    return ["  ".join(f"{row[i]:{'<' if i < left else '>'}{widths[i]}}" for i in kept).rstrip() for row in table]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A table for a page, aligned as `columns` does."""
    lines = [f"| {' | '.join(head)} |", "|---" * left + "|" + "---:|" * (len(head) - left)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
