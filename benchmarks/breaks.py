"""Which small changes of the code no test notices: `python -m benchmarks.breaks [--area NAME] [--only TEXT]`.

benchmarks/breaks.toml lists them: a piece of a file and what stands there instead, by area, each area with the tests
that are to notice (benchmarks/mutation.py runs them). Prints what was caught; exit code 1 where under 95 % were.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import tomllib
from pathlib import Path

from benchmarks.mutation import PARITY, Break, named, preload, unnoticed

LIST = Path(__file__).with_name("breaks.toml")
SLOW = (
    "numpy",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "hypothesis",
    "PIL.Image",
    "ondevice.compiler",
    "ondevice.generate",
)
TRAINING = ("torch", "torch.utils.data", "diffusers", "transformers", "accelerate", "peft", "tensorboardX")
ASKED = 0.95


def listed(path: Path = LIST) -> dict[str, list[tuple[Break, tuple[str, ...]]]]:
    """Area -> its changes, each with the tests that are to notice it.

    Raises:
        ValueError: the old text of one does not stand once in its file.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    tests = table.pop("tests")
    return {
        area: [(named(row["file"], row["old"], row["new"]), tuple(row.get("tests", tests[area]))) for row in rows]
        for area, rows in table.items()
    }


def main(argv: list[str] | None = None) -> int:
    """Break, run, print; 1 where too many went unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--area", action="append", metavar="NAME", help="only this area; may be given several times")
    parser.add_argument("--only", default="", metavar="TEXT", help="only changes whose line has this")
    args = parser.parse_args(argv)
    todo = [
        (area, one, tests)
        for area, rows in listed().items()
        if not args.area or area in args.area
        for one, tests in rows
    ]
    todo = [row for row in todo if args.only in str(row[1])]
    # kernels that are not changed are built once
    os.environ["ONDEVICE_CACHE"] = tempfile.mkdtemp(prefix="ondevice-breaks-")
    preload(SLOW)
    if any(test.startswith(PARITY) for _, _, tests in todo for test in tests):
        preload(TRAINING)
    missed: list[Break] = []
    for tests in dict.fromkeys(tests for _, _, tests in todo):
        chosen = [one for _, one, others in todo if others == tests]
        missed += unnoticed(chosen, tests, lambda text: print(text, file=sys.stderr, flush=True))
    for area in dict.fromkeys(area for area, _, _ in todo):
        chosen = [one for other, one, _ in todo if other == area]
        print(f"{area}: {sum(one not in missed for one in chosen)} of {len(chosen)} caught")
    caught = 1 - len(missed) / len(todo) if todo else 1.0
    print(f"{len(todo)} changes, {len(todo) - len(missed)} caught ({caught:.1%})")
    print("\n".join(f"not caught: {one}" for one in missed))
    return int(caught < ASKED)


if __name__ == "__main__":
    raise SystemExit(main())
