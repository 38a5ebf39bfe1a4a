"""The noise that a picture begins with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ondevice.diffusion.latents_file import read_latents
from ondevice.diffusion.noise import MODES
from ondevice.drawing import file_name
from ondevice.errors import UsageError

INPUTS = ("--latents",)
MOST = 10_000  # pictures of one command, whose names are looked at before the first is drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of noise."""
    group = parser.add_argument_group("seed")
    group.add_argument("--seed", type=int, help="seed of the noise, as torch's generators take it (default 0)")
    group.add_argument(
        "--count",
        type=int,
        default=1,
        metavar="N",
        help="draw N pictures, of this seed and the next ones (of variations: the variation seed's next ones)",
    )
    group.add_argument(
        "--seed-mode",
        choices=MODES,
        help="whose numbers a seed gives: diffusers' on a CPU (torch, the default) or an Nvidia GPU (cuda), or WebUI's",
    )
    group.add_argument("--variation-seed", type=int, metavar="N", help="seed of a noise to turn the first one towards")
    group.add_argument(
        "--variation-strength", type=float, metavar="F", help="by how much of the way, 0 to 1 (default 0)"
    )
    group.add_argument(
        "--noise-seed-delta",
        type=int,
        metavar="N",
        help="what samplers such as euler_a draw has the seed plus this (WebUI's ENSD, there often 31337; default 0)",
    )
    group.add_argument(
        "--latents", type=Path, metavar="FILE.npy", help="initial noise, float32 [1, channels, height/8, width/8]"
    )


def check(args: argparse.Namespace) -> None:
    """Refuse a number of pictures that is none.

    Raises:
        UsageError: names the flag.
    """
    if not 1 <= args.count <= MOST:
        what = f"pictures cannot be counted so (got {args.count}, expected 1 to {MOST})."
        raise UsageError(
            what, where="--count", fix="draw the rest with a higher --seed" if args.count > MOST else "use 1"
        )


def fields(args: argparse.Namespace) -> dict[str, Any]:
    """The request's seed and latents. Raises UsageError for a file that cannot be read."""
    return {
        "seed": args.seed or 0,
        "seed_mode": args.seed_mode or MODES[0],
        "variation_seed": args.variation_seed,
        "variation_strength": args.variation_strength or 0.0,
        "noise_seed_delta": args.noise_seed_delta or 0,
        "latents": None if args.latents is None else read_latents(args.latents),
    }


def about(args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say of --latents."""
    return {} if args.latents is None else {"latents": file_name(args.latents)}
