"""Draw a picture from a bundle.

python -m ondevice.generate sd14.ondevice "a photo of an astronaut riding a horse on mars" --steps 20
--seed 1 --out a.png
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from ondevice import __version__, cli, flags
from ondevice.api import Pipeline
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.diffusion import init_image, memory_budget
from ondevice.diffusion.files import check_outputs, write_output
from ondevice.diffusion.image import resize, rounded_down
from ondevice.diffusion.latents_file import read_latents
from ondevice.diffusion.picture_file import format_of, free_names, write_picture
from ondevice.diffusion.request import Picture, Request
from ondevice.diffusion.samplers import SAMPLERS
from ondevice.errors import UsageError
from ondevice.run.device import Device
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.run.trace import to_trace
from ondevice.target import is_for_cpus

HELP = "draw a picture from a bundle"
log = logging.getLogger(__name__)
MORE_OUTPUTS = ("--save-noise", "--save-latents", "--profile-out", "--trace")
INPUTS = ("--init-image", "--latents")
OUT = Path("image.png")  # or the first of image-1.png, image-2.png... that is free


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("bundle", type=Path, help="what `convert` or `pack` wrote")
    parser.add_argument("prompt", help="what to draw")
    parser.add_argument(
        "--negative", metavar="TEXT", help="what not to draw (default: what the model was trained with)"
    )
    parser.add_argument("--steps", type=int, help="sampler steps (default: the bundle's own, often 20)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="default: the bundle's own")
    parser.add_argument(
        "--guidance", type=float, metavar="SCALE", help="guidance scale (default: the model's; 1 or less: none)"
    )
    parser.add_argument(
        "--number",
        action="append",
        type=flags.named_number,
        metavar="NAME=VALUE",
        help="another number of the model, such as SDXL's original_width=1024 (`ondevice show BUNDLE` lists them)",
    )
    parser.add_argument("--eta", type=float, default=0.0, help="noise of the ddim sampler, 0 to 1 (default 0)")
    parser.add_argument("--karras", action="store_true", help="Karras noise levels, for the samplers that have them")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the initial noise, as torch's CPU generator takes it (default 0)"
    )
    parser.add_argument(
        "--size",
        metavar="WxH",
        help="picture size in pixels, one that the bundle holds (default: the init image's, or its first)",
    )
    parser.add_argument(
        "--init-image",
        type=Path,
        metavar="P",
        help="begin from a picture (PNG, JPEG, WebP or BMP), at its own size if the bundle has it",
    )
    parser.add_argument(
        "--background",
        metavar="COLOUR",
        help="what lies under an init image's transparent parts: #rrggbb or a name (default white)",
    )
    parser.add_argument(
        "--strength",
        type=float,
        help="how much of the init image is redrawn, 0 to 1 (default: the bundle's own, often 0.8)",
    )
    parser.add_argument(
        "--latents", type=Path, metavar="FILE.npy", help="initial noise, float32 [1, channels, height/8, width/8]"
    )
    parser.add_argument(
        "--save-noise", type=Path, metavar="FILE.npy", help="write the initial noise, as --latents takes it"
    )
    parser.add_argument(
        "--save-latents", type=Path, metavar="FILE.npy", help="write the final latents, those that were decoded"
    )
    parser.add_argument(
        "--tile-vae",
        type=int,
        nargs="?",
        const=0,
        metavar="ROWS",
        help=(
            "decode in bands, in a fraction of the memory: of ROWS rows, or the lowest that the bundle has "
            "(see `convert --tile-vae`)"
        ),
    )
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="use at most this much, such as 2GB: in more passes, in bands, giving weights back; or say why not",
    )
    flags.add_device(parser)
    flags.add_plans(parser)
    flags.add_kernels(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="look for NaN after every dispatch and name the first op that made one (slow)",
    )
    parser.add_argument("--profile", action="store_true", help="print where the time went, by kernel")
    parser.add_argument(
        "--profile-out", type=Path, metavar="FILE.json", help="write the time of every dispatch, averaged over its runs"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE.json", help="write when each launch ran, for Perfetto or chrome://tracing"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=(
            "picture to write: .png, .jpg or .webp; an old one is replaced (default: "
            "image.png, image-1.png... whichever is free)"
        ),
    )
    parser.add_argument("--json", action="store_true", help="print the parameters as JSON")


def run(args: argparse.Namespace) -> int:
    """Draw, write the picture and print its path."""
    for flag, value in {"--strength": args.strength, "--background": args.background}.items():
        if value is not None and args.init_image is None:
            raise UsageError("there is no picture to begin from.", where=flag, fix="add --init-image, or leave it out")
    out = next(free_names(OUT)) if args.out is None else args.out
    format_of(out)
    check_outputs({"--out": out, **paths_of(args, MORE_OUTPUTS)}, paths_of(args, INPUTS), args.bundle)
    ground = init_image.parse_colour(args.background) if args.background is not None else init_image.WHITE
    begin = None if args.init_image is None else init_image.read_image(args.init_image, ground)
    latents = None if args.latents is None else read_latents(args.latents)
    bundle = open_bundle(args.bundle)
    if args.kernels == "ours":
        bundle.require_own_kernels()
    device = choose_device(args.device)
    bundle = flags.with_plans(bundle, args, device)
    width, height = picture_size(args, bundle, begin)
    format_of(out, (width, height))
    warn_of_target(bundle.model.get("target"), device)
    profile = args.profile or args.profile_out is not None
    session = Session(bundle, device, profile=profile, trace=args.trace is not None, check=args.check)
    options = {"eta": args.eta} if args.eta else {}
    options |= {"use_karras_sigmas": True} if args.karras else {}
    request = Request(
        prompt=args.prompt,
        negative_prompt=args.negative,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        seed=args.seed,
        width=width,
        height=height,
        sampler=args.sampler,
        sampler_options=options,
        latents=latents,
        image=None if begin is None else resize(begin, width, height),
        strength=args.strength,
        numbers=dict(args.number or ()),
    )
    way = way_of(args, bundle, device.facts(), request)
    with tqdm(total=args.steps, desc="steps", file=sys.stderr, disable=True if sys.stderr is None else None) as bar:
        picture = Pipeline.of(bundle, session).draw(request, way, lambda done, total, *_: show(bar, done, total))
    parameters = picture.parameters | about(bundle, args)
    out = write_picture(
        out if args.out else OUT, picture.pixels, parameters, bundle.scheduler, numbered=args.out is None
    )
    try:
        write_more(args, picture, session)
    finally:  # the picture is there, whatever became of the others
        print(json.dumps(parameters | {"out": str(out)}) if args.json else out)
    return 0


def paths_of(args: argparse.Namespace, flags: Sequence[str]) -> dict[str, Path | None]:
    """The paths that were given, by flag."""
    return {flag: getattr(args, flag[2:].replace("-", "_")) for flag in flags}


def write_more(args: argparse.Namespace, picture: Picture, session: Session) -> None:
    """Write and print what was asked for beside the picture: each that can be written, though another cannot.

    Raises:
        UsageError: the first that cannot.
    """
    fills: dict[str, Callable[[BinaryIO], object]] = {
        "--save-noise": lambda file: np.save(file, picture.start),
        "--save-latents": lambda file: np.save(file, picture.latents),
        "--profile-out": lambda file: file.write(json.dumps(session.profile.to_json()).encode()),
        "--trace": lambda file: file.write(json.dumps(to_trace(session.profile)).encode()),
    }
    failed = []
    for flag, path in paths_of(args, MORE_OUTPUTS).items():
        try:
            if path is not None:
                write_output(path, fills[flag])
        except UsageError as error:
            failed.append(error)
    if args.profile:
        say(session.profile.to_table())
    if failed:
        raise failed[0]


def say(text: str) -> None:
    """On stderr, where there is one: print would take stdout instead."""
    if sys.stderr is not None:
        print(text, file=sys.stderr)


def picture_size(args: argparse.Namespace, bundle: Bundle, begin: np.ndarray | None) -> tuple[int, int]:
    """(width, height) in pixels: as asked, else the init image's own, else the nearest that the bundle has;
    says what becomes of the image.

    Raises:
        UsageError: --size is no size.
    """
    if begin is None:
        return memory_budget.default_size(bundle) if args.size is None else flags.parse_size(args.size)
    scale, own = bundle.pipeline.latents.scale, (begin.shape[1], begin.shape[0])
    if args.size is not None:
        size = flags.parse_size(args.size)
    else:
        size = rounded_down(begin, scale)
        have = [
            (width * scale, height * scale)
            for width, height in memory_budget.latent_sizes(bundle)
            if memory_budget.encodes_pictures(bundle, width, height)
        ]
        if size not in have:
            size = init_image.fitting_size(own, have) if have else memory_budget.default_size(bundle)
            log.warning("the bundle has no %dx%d, so %dx%d is drawn", *rounded_down(begin, scale), *size)
    if init_image.squashed(own, size, scale):
        shapes = init_image.shape(own), init_image.shape(size)
        log.warning(
            "%s is squashed from %dx%d to %dx%d (from %s to %s); "
            "crop it, or convert the checkpoint with a --size of its shape",
            args.init_image, *own, *size, *shapes,
        )  # fmt: skip
    return size


def warn_of_target(target: object, device: Device) -> None:
    """Say so where a GPU is to draw with kernels that leave all but a few of its cores idle."""
    if device.facts()["kind"] == "gpu" and is_for_cpus(target):
        log.warning(
            "%s is a GPU and this bundle is tuned for a CPU; convert with --target gpu, or draw with --device cpu",
            device.name,
        )


def way_of(args: argparse.Namespace, bundle: Bundle, facts: Mapping[str, Any], request: Request) -> memory_budget.Way:
    """How the picture is drawn in the memory that there is; says so on stderr.

    Raises:
        UsageError: bands that the bundle has no plans for, or a guidance that it has none for.
        PlanError: the picture does not fit.
    """
    scale = bundle.pipeline.latents.scale
    width, height = ((side or 0) // scale for side in (request.width, request.height))
    guided = memory_budget.is_guided(bundle, request.guidance_scale)
    way = memory_budget.Way(memory_budget.in_single_passes(bundle, guided, width, height))
    way = memory_budget.drawable(bundle, width, height, way)
    if args.tile_vae is not None:
        have = memory_budget.band_heights(bundle, width, height)
        way = replace(way, rows=args.tile_vae or (have[-1] if have else 0))
        memory_budget.stages(bundle, width, height, way.rows)
    limit = memory_budget.parse_bytes(args.max_memory) if args.max_memory else facts["global_bytes"]
    # else the session says what is missing
    if limit and memory_budget.has_plans(bundle, width, height, guided and not way.split):
        mapped = bool(facts["maps_weights"])
        found = memory_budget.fit(
            bundle, width, height, limit, mapped=mapped, guided=guided, image=request.image is not None, start=way
        )
        total = memory_budget.mb(found.total(mapped=mapped))
        if args.max_memory:
            say(
                "memory: "
                f"{total} of {memory_budget.mb(limit)} ({memory_budget.parts_of(found, mapped)}); {found.way.text()}"
            )
        elif found.way != way:
            log.warning(
                "%s has %s: %s, which needs %s", facts["name"], memory_budget.mb(limit), found.way.text(), total
            )
        way = found.way
    return way


def about(bundle: Bundle, args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say beside the pipeline's own parameters.
    Of files the name alone: pictures are given away."""
    files = {"init_image": args.init_image, "latents": args.latents}
    named = {name: path.name.encode(errors="replace").decode() for name, path in files.items() if path is not None}
    colour = {} if args.background is None else {"background": args.background}
    return {"model": bundle.model["source"], "version": f"ondevice {__version__}"} | named | colour


def show(bar: tqdm, done: int, total: int) -> None:
    """Move the bar. Some samplers call the network more often than once per step,
    so the total is set from what they report."""
    bar.total = total
    bar.update(done - bar.n)


if __name__ == "__main__":
    raise SystemExit(cli.main_for("generate"))
