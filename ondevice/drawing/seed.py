"""The noise that a picture begins with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ondevice.diffusion.latents_file import read_latents
from ondevice.drawing import file_name

INPUTS = ("--latents",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of noise."""
    group = parser.add_argument_group("seed")
    group.add_argument(
        "--seed", type=int, default=0, help="seed of the initial noise, as torch's CPU generator takes it (default 0)"
    )
    group.add_argument(
        "--latents", type=Path, metavar="FILE.npy", help="initial noise, float32 [1, channels, height/8, width/8]"
    )


def fields(args: argparse.Namespace) -> dict[str, Any]:
    """The request's seed and latents. Raises UsageError for a file that cannot be read."""
    return {"seed": args.seed, "latents": None if args.latents is None else read_latents(args.latents)}


def about(args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say of --latents."""
    return {} if args.latents is None else {"latents": file_name(args.latents)}
