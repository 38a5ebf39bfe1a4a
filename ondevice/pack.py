"""Write a bundle as one file, which a phone's file picker can open and a player maps in place.

python -m ondevice.pack sd14.ondevice --out sd14.odpack
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ondevice import cli
from ondevice.base.bars import tqdm
from ondevice.bundle.packed import ENDING
from ondevice.bundle.packer import pack_bundle
from ondevice.bundle.reader import open_bundle

HELP = "write a bundle as one file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("bundle", type=Path, help="folder that `convert` wrote")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"what to write (default: the bundle's name with {ENDING}, beside it)"
    )
    parser.add_argument("--force", action="store_true", help="replace a packed bundle that is there")


def run(args: argparse.Namespace) -> int:
    """Write the file and print its path."""
    bundle = open_bundle(args.bundle)
    name = (args.bundle.name or bundle.path.name).removesuffix(".ondevice")
    out = args.out or args.bundle.parent / f"{name}{ENDING}"
    with tqdm(unit="B", unit_scale=True, file=sys.stderr, leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        print(pack_bundle(bundle, out, force=args.force, progress=show))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.main_for("pack"))
