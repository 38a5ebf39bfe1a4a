"""How the steps are made: the sampler, its options, and the model's numbers."""

from __future__ import annotations

import argparse
from typing import Any

from ondevice import flags
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.diffusion.parameters_read import published_levels
from ondevice.diffusion.samplers import SAMPLERS
from ondevice.errors import UsageError

OWN_FLAGS = {"strength": "--strength", "denoising_start": "--refiner-start", "denoising_end": "--refiner-start"}
SCHEDULES = ("karras", "exponential", "beta", "ays")


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
    group.add_argument("--eta", type=float, help="noise of ddim, 0 to 1 (default 0), or of tcd (default 0.3)")
    group.add_argument(
        "--spacing",
        choices=("leading", "linspace", "trailing"),
        help="how timesteps are spread (default: as the model's scheduler says)",
    )
    levels = group.add_mutually_exclusive_group()
    levels.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="other levels of noise, for the samplers that have them; ays: Align Your Steps, best at 10 steps",
    )
    levels.add_argument("--karras", action="store_true", help="the same as --schedule karras")
    levels.add_argument(
        "--sigmas", metavar="A,B,...", help="the levels of noise themselves, falling, one per step: 14.6,7.5,..."
    )
    group.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="a key of the scheduler's config, such as algorithm_type=sde-dpmsolver++ (docs/samplers.md)",
    )


def fields(args: argparse.Namespace, pipeline: PipelineSpec) -> dict[str, Any]:
    """The request's sampler and numbers.

    Raises:
        UsageError: --sigmas are no numbers, or --set is no KEY=VALUE or names what has a flag of its own.
    """
    options: dict[str, Any] = {} if args.eta is None else {"eta": args.eta}
    options |= {} if args.spacing is None else {"timestep_spacing": args.spacing}
    schedule = "karras" if args.karras else args.schedule
    if schedule == "ays":
        options["ays"] = published_levels(pipeline)
    elif schedule is not None:
        options[f"use_{schedule}_sigmas"] = True
    for key, value in map(flags.parse_option, args.set or ()):
        if key in OWN_FLAGS:
            raise UsageError(f"{key} has a flag of its own.", where="--set", fix=f"use {OWN_FLAGS[key]}")
        options[key] = value
    steps = args.steps
    if args.sigmas is not None:
        options["sigmas"] = parse_sigmas(args.sigmas)
        steps = len(options["sigmas"]) if steps is None else steps
    return {
        "num_inference_steps": steps,
        "guidance_scale": args.guidance,
        "sampler": args.sampler,
        "sampler_options": options,
        "numbers": dict(args.number or ()),
    }


def parse_sigmas(text: str) -> list[float]:
    """'14.6,7.5,0.5' -> [14.6, 7.5, 0.5]; a 0 at the end, where every run ends, is left out.

    Raises:
        UsageError: they are no numbers.
    """
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        what = f"not a list of numbers (got {text[:60]!r})."
        raise UsageError(what, where="--sigmas", fix="write them with commas: 14.6,7.5,3.9,1.2,0.4") from None
    return levels[:-1] if len(levels) > 1 and levels[-1] == 0 else levels
