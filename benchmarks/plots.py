"""Draw committed results: `python -m benchmarks.plots RESULTS.jsonl... --out docs/images` (needs the extra `plots`).

`peers.svg`: the time of each peer, one panel per component. `ablation.svg`: latency as the paper's optimizations are
added. The last row of a name counts; one machine per drawing. Backgrounds are transparent, and ink is of a grey that
reads on GitHub's white and on its black.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, read_rows
from ondevice.base.machine import same
from ondevice.errors import UsageError

INK = "#848d97"  # contrast of 3.4 to white and 5.6 to GitHub's dark background
OURS, OTHERS = "#2f81f7", "#a371f7"  # read on both, and apart for the colour-blind, too
LETTERS = 14  # of the smallest size in an inch
TITLES = {"unet": "UNet step", "vae_decoder": "VAE decode", "vae_encoder": "VAE encode", "text_encoder": "text encoder"}
STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
    "svg.fonttype": "path",  # the same letters wherever it is shown
    "svg.hashsalt": "ondevice",  # the same file from the same rows
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def main(argv: list[str] | None = None) -> int:
    """Draw what the rows have; 2 where a file has none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    args = parser.parse_args(argv)
    try:
        rows = [row for path in args.results for row in read_rows(path)]
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for kind, draw in (("peers", draw_peers), ("ablation", draw_ablation)):
        chosen = latest(rows, kind)
        if chosen:
            path = args.out / f"{kind}.{args.format}"
            draw(chosen, path)
            print(path)
    return 0


def latest(rows: Sequence[Row], kind: str) -> list[Row]:
    """The last row of each name, of the machine that the last row of that kind is of,
    in the order of first appearance."""
    of_kind = [row for row in rows if row.get("kind") == kind]
    machine = same(of_kind[-1]["machine"]) if of_kind else None
    return list({row["name"]: row for row in of_kind if same(row["machine"]) == machine}.values())


def panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by component, the UNet first: most of a picture's time is its."""
    found: dict[str, list[Row]] = {}
    for name in sorted({row["component"] for row in rows}, key=lambda name: [*TITLES, name].index(name)):
        found[name] = [row for row in rows if row["component"] == name]
    return found


def draw_peers(rows: Sequence[Row], path: Path) -> None:
    """Bars of seconds, the fastest on top, with the ratio to ours."""
    parts = panels(rows)
    figure, axes = _figure(len(parts), max(map(len, parts.values())))
    for axis, (component, times) in zip(axes, parts.items(), strict=True):
        ordered = sorted(times, key=lambda row: -row["median_ms"])
        labels = [
            f"{row['median_ms'] / 1e3:,.3g} s" + (f", {row['ratio']['median']:.2f}x" if row.get("ratio") else "")
            for row in ordered
        ]
        colours = [OURS if row["peer"].startswith("ours") else OTHERS for row in ordered]
        _bars(axis, [row["peer"] for row in ordered], [row["median_ms"] / 1e3 for row in ordered], labels, colours)
        axis.set_title(TITLES.get(component, component))
    _save(figure, path, _about(rows, "seconds per run, batch 1, and the time over that of ours"))


def draw_ablation(rows: Sequence[Row], path: Path) -> None:
    """Bars of seconds by step, in the steps' order, with the part of the plain graph's time."""
    parts = panels(rows)
    figure, axes = _figure(len(parts), max(map(len, parts.values())))
    for axis, (component, steps) in zip(axes, parts.items(), strict=True):
        first, ordered = steps[0]["median_ms"], steps[::-1]
        names = [row["rules"] if row in (steps[0], steps[-1]) else f"+ {row['rules']}" for row in ordered]
        labels = [f"{row['median_ms'] / 1e3:,.3g} s, {row['median_ms'] / first:.0%}" for row in ordered]
        _bars(axis, names, [row["median_ms"] / 1e3 for row in ordered], labels, [OURS] * len(ordered))
        axis.set_title(TITLES.get(component, component))
    sizes = re.sub(r" (f16|f32) .*", r" \1", rows[0]["name"].partition(": ")[2])
    _save(figure, path, _about(rows, f"seconds per run as optimizations are added ({sizes} and so on)"))


def _figure(count: int, bars: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib import pyplot, use

    use("Agg")
    pyplot.rcParams.update(STYLE)
    figure, axes = pyplot.subplots(
        1, count, figsize=(4.6 * count, 0.42 * bars + 1.4), squeeze=False, layout="constrained"
    )
    return figure, axes[0]


def _bars(
    axis: Any, names: Sequence[str], values: Sequence[float], labels: Sequence[str], colours: Sequence[str]
) -> None:
    bars = axis.barh(range(len(names)), values, color=colours, height=0.62)
    axis.bar_label(bars, labels, padding=4, color=INK, fontsize=9)
    axis.set_yticks(range(len(names)), names)
    axis.set_xlim(0, 1.45 * max(values))  # the longest bar's label stands beside it
    axis.tick_params(length=0)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)


def _about(rows: Sequence[Row], what: str) -> str:
    """The line under a drawing: what was measured, on what, at which commit; and what does not count."""
    machine = rows[-1]["machine"]
    cores = f"{machine['cores']} core{'s' * (machine['cores'] > 1)}"
    busy = sum(not row["counts"] for row in rows)
    doubt = f"; {busy} of {len(rows)} rows were taken on a busy machine and do not count" if busy else ""
    return f"{what}; {machine['cpu']}, {cores}, commit {machine.get('commit') or 'unknown'}{doubt}"


def _save(figure: Any, path: Path, about: str) -> None:
    from matplotlib import pyplot

    figure.supxlabel(textwrap.fill(about, int(LETTERS * figure.get_figwidth())), fontsize=8, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
