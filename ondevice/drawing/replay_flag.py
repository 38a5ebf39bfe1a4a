"""The flag that draws a picture again from what its file says."""

from __future__ import annotations

import argparse
from pathlib import Path

FLAG = "--from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --from."""
    group = parser.add_argument_group("from a picture")
    group.add_argument(
        FLAG,
        dest="from_picture",
        type=Path,
        metavar="PICTURE",
        help=(
            "draw a picture again from the parameters in its file, ours or AUTOMATIC1111's; flags given beside it, and "
            "a prompt, win; what cannot be had is said, and refused with --strict"
        ),
    )
