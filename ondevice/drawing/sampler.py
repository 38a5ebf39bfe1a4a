"""How the steps are made: the sampler, its options, and the model's numbers."""

from __future__ import annotations

import argparse
from typing import Any

from ondevice import flags
from ondevice.diffusion.samplers import SAMPLERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the sampler and of numbers."""
    group = parser.add_argument_group("sampler")
    group.add_argument("--steps", type=int, help="sampler steps (default: the bundle's own, often 20)")
    group.add_argument("--sampler", choices=SAMPLERS, help="default: the bundle's own")
    group.add_argument(
        "--guidance", type=float, metavar="SCALE", help="guidance scale (default: the model's; 1 or less: none)"
    )
    group.add_argument(
        "--number",
        action="append",
        type=flags.named_number,
        metavar="NAME=VALUE",
        help="another number of the model, such as SDXL's original_width=1024 (`ondevice show BUNDLE` lists them)",
    )
    group.add_argument("--eta", type=float, default=0.0, help="noise of the ddim sampler, 0 to 1 (default 0)")
    group.add_argument("--karras", action="store_true", help="Karras noise levels, for the samplers that have them")


def fields(args: argparse.Namespace) -> dict[str, Any]:
    """The request's sampler and numbers."""
    options = {"eta": args.eta} if args.eta else {}
    options |= {"use_karras_sigmas": True} if args.karras else {}
    return {
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "sampler": args.sampler,
        "sampler_options": options,
        "numbers": dict(args.number or ()),
    }
