"""The parts of `generate`: each module declares a group of its flags and turns what was given into fields of a Request.

A group has `add_arguments(parser)`; `fields(args, ...)`, keyword arguments of `ondevice.diffusion.request.Request`; and
where it has files, INPUTS, the flags that name them (`inputs(args)` of pictures, which have names), and `about(args)`,
what a picture's metadata say of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def paths_of(args: argparse.Namespace, flags: Sequence[str]) -> dict[str, Path | None]:
    """The paths that were given, by flag."""
    return {flag: getattr(args, flag[2:].replace("-", "_")) for flag in flags}


def file_name(path: Path) -> str:
    """What a picture's metadata say of a file: its name alone, for pictures are given away."""
    return path.name.encode(errors="replace").decode()


def say(text: str) -> None:
    """On stderr, where there is one: print would take stdout instead."""
    if sys.stderr is not None:
        print(text, file=sys.stderr)
