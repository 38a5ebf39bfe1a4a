"""Draw many pictures: each line of a file is a JSON object by the words of generate's flags.

echo '{"prompt": "a red circle", "seed": 1, "name": "red"}' > lines.jsonl
python -m ondevice.batch lines.jsonl --bundle demo.ondevice --out pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice import cli, flags
from ondevice.drawing import batch, engine, line, memory

HELP = "draw the pictures that the lines of a file ask for"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("file", type=Path, help="a JSON object on each line (docs/sessions.md)")
    parser.add_argument("--bundle", type=Path, required=True, help="what `convert` or `pack` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    batch.add_arguments(parser)
    for group in (*line.GROUPS, memory, engine):
        group.add_arguments(parser)
    flags.add_strict(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the lines and say what became of each."""
    batch.check(args)
    return batch.run(args, args.file)


if __name__ == "__main__":
    raise SystemExit(cli.main_for("batch"))
