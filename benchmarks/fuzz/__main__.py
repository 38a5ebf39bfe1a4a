"""Feed every reader with damaged and hostile files: `python -m benchmarks.fuzz --seconds 60`.

python -m benchmarks.fuzz --reader npy --reader png --seconds 600 --workers 2
python -m benchmarks.fuzz --reader npy --replay fuzz-findings/npy-ValueError-3f2a.bin
python -m benchmarks.fuzz --replay tests/fuzz/regressions/*

Exits with 1 where something was found; what was found is written to `--out`, each with a .txt beside it that
says what it is.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.fuzz import coverage, supervise
from ondevice.base.machine import available_cores


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, run, print the table; 1 where something was found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (default 60)")
    parser.add_argument("--inputs", type=int, default=0, help="stop after so many inputs per reader and worker instead")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the inputs (default 0); one seed gives one sequence per reader and worker",
    )
    parser.add_argument(
        "--workers", type=int, default=len(available_cores()), help="processes (default: the cores there are)"
    )
    parser.add_argument("--reader", action="append", help="only this one; may be given several times")
    parser.add_argument(
        "--module", action="append", default=[], help="take the READERS of this module instead of the project's own"
    )
    parser.add_argument(
        "--unguided", action="store_true", help="make inputs from the seeds only, to see what coverage is good for"
    )
    parser.add_argument("--nice", type=int, default=0, help="how much the workers stand back behind other processes")
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz-findings"), help="folder for what is found (default fuzz-findings)"
    )
    parser.add_argument(
        "--replay",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="read these inputs, and nothing else; .hex files are decoded",
    )
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/fuzzing.md has it")
    parser.add_argument("--list", action="store_true", help="print the readers' names")
    args = parser.parse_args(argv)
    if args.replay:
        return replay(args.replay, args.reader[0] if args.reader else None, args.module)
    from benchmarks.fuzz.readers import all_readers

    known = list(all_readers(*args.module))
    if args.list:
        print("\n".join(known))
        return 0
    chosen = [name for name in known if name in (args.reader or known)]
    if unknown := set(args.reader or ()) - set(known):
        parser.error(f"no reader is called {', '.join(sorted(unknown))} (there are {', '.join(known)})")
    print(f"seed {args.seed}, {args.workers} workers, {len(chosen)} readers", file=sys.stderr, flush=True)
    begun = time.monotonic()
    seconds = 0 if args.inputs else args.seconds
    totals, findings = supervise.run(
        supervise.Order(chosen, seconds, args.inputs, guided=not args.unguided, nice=args.nice, modules=args.module),
        seed=args.seed,
        workers=args.workers,
        show=lambda inputs, findings: print(
            f"{time.monotonic() - begun:6.0f} s: {inputs:,} inputs, {findings} findings", file=sys.stderr, flush=True
        ),
    )
    print("\n".join(table(totals, markdown=args.markdown)))
    print(
        f"{sum(total.inputs for total in totals.values()):,} inputs in {time.monotonic() - begun:.0f} "
        f"s, {len(findings)} findings"
    )
    for finding in findings:
        print(f"{finding.reader}: {finding.kind} at {finding.place}: {finding.what}\n    {save(finding, args.out)}")
    return int(bool(findings))


HEAD = ("reader", "inputs", "a second of CPU", "kept", "branches", "accepted", "refused", "findings")


def table(totals: Mapping[str, supervise.Total], *, markdown: bool = False) -> list[str]:
    """Lines to print, a reader a line and their sum."""
    rows = [
        (
            name,
            total.inputs,
            round(total.inputs / max(total.cpu, 1e-9)),
            total.kept,
            total.edges,
            total.accepted,
            total.refused,
            total.findings,
        )
        for name, total in totals.items()
    ]
    sums = [sum(row[column] for row in rows) for column in range(1, len(HEAD))]
    cpu = sum(total.cpu for total in totals.values())
    rows.append(("all", sums[0], round(sums[0] / max(cpu, 1e-9)), sums[2], "", *sums[4:]))
    texts = [HEAD, *(tuple(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) for row in rows)]
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in texts]
        return [lines[0], "|---" + "|---:" * (len(HEAD) - 1) + "|", *lines[1:]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(HEAD))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in texts
    ]


def save(finding: supervise.Finding, out: Path) -> Path:
    """Write the input, and in words what it shows and how to see it again."""
    out.mkdir(parents=True, exist_ok=True)
    kind = re.sub(r"\W+", "-", finding.kind)
    path = out / f"{finding.reader}-{kind}-{hashlib.sha256(finding.data).hexdigest()[:8]}.bin"
    path.write_bytes(finding.data)
    again = f"python -m benchmarks.fuzz --reader {finding.reader} --replay {path}"
    path.with_suffix(".txt").write_text(
        f"{finding.kind} at {finding.place}\n{finding.what}\n{again}\n", encoding="utf-8", errors="replace"
    )
    return path


def replay(paths: Sequence[Path], reader: str | None, modules: Sequence[str] = ()) -> int:
    """Read inputs in this process. Of which reader, the beginning of a file's name says where `reader` does not."""
    coverage.install()
    from benchmarks.fuzz.oracle import FINDING, Judge, bound_memory
    from benchmarks.fuzz.readers import all_readers

    readers, folder, found = all_readers(*modules), supervise.scratch(), 0
    bound_memory()
    try:
        for path in paths:
            name = reader or path.name.partition("-")[0]
            if name not in readers:
                raise SystemExit(f"{path}: no reader is called {name!r}; say --reader (there are {', '.join(readers)})")
            data = bytes.fromhex(path.read_text()) if path.suffix == ".hex" else path.read_bytes()
            with Judge(folder) as judge:
                verdict = judge.judge(readers[name], data)
            found += verdict.outcome == FINDING
            print(
                f"{path.name}: {verdict.outcome}"
                + (f", {verdict.kind} at {verdict.place}: {verdict.what}" if verdict.kind else "")
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return int(found > 0)


if __name__ == "__main__":
    raise SystemExit(main())
