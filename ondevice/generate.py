"""Draw a picture from a bundle.

python -m ondevice.generate sd14.ondevice "a photo of an astronaut riding a horse on mars" --steps 20
--seed 1 --out a.png
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from ondevice import __version__, cli, flags
from ondevice.api import Pipeline
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.diffusion.picture_file import format_of, write_picture
from ondevice.diffusion.request import Request
from ondevice.diffusion.series import series_of
from ondevice.drawing import memory, outputs, paths_of, pictures, refiner, sampler, seed, text
from ondevice.drawing.progress import Progress
from ondevice.errors import UsageError
from ondevice.run.device import Device
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import is_for_cpus

HELP = "draw a picture from a bundle"
log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("bundle", type=Path, help="what `convert` or `pack` wrote")
    for group in (text, sampler, seed, pictures, refiner, memory, outputs):
        group.add_arguments(parser)
    flags.add_device(parser)
    flags.add_plans(parser)
    flags.add_kernels(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="look for NaN after every dispatch and name the first op that made one (slow)",
    )


def run(args: argparse.Namespace) -> int:
    """Draw, write the picture and print its path."""
    pictures.check(args)
    seed.check(args)
    refiner.check(args)
    outputs.check(args, pictures.inputs(args) | paths_of(args, (*seed.INPUTS, *refiner.INPUTS)))
    given = pictures.read(args)
    fields = text.fields(args) | seed.fields(args)
    bundle = open_bundle(args.bundle)
    if args.kernels == "ours":
        bundle.require_own_kernels()
    device = choose_device(args.device)
    bundle = flags.with_plans(bundle, args, device)
    fields |= sampler.fields(args, bundle.pipeline)
    size = pictures.picture_size(args, bundle, given)
    format_of(outputs.picture_path(args, 0), size)
    warn_of_target(bundle.model.get("target"), device)
    profile = args.profile or args.profile_out is not None
    session = Session(bundle, device, profile=profile, trace=args.trace is not None, check=args.check)
    request = Request(**fields, **pictures.fields(args, given, size))
    way = memory.way_of(args, bundle, device.facts(), request)
    progress = Progress(args.count, args.steps)
    end = None if args.refiner is None else refiner.Refiner.of(args, bundle, device, request)
    asked = request if end is None else end.begun
    drawn = Pipeline.of(bundle, session).draw_series(series_of(asked, args.count), way, progress.show)
    if end is not None:
        begun = list(progress.each(drawn))
        session.release_all()  # the two models are never in memory together
        last = Session(end.bundle, device, check=args.check)
        drawn = end.finished(last, begun, series_of(request, args.count), progress)
    failed: list[UsageError] = []  # of what is written beside pictures; they are not lost for it
    for number, picture in enumerate(progress.each(drawn)):
        assert picture.pixels is not None, "no other model goes on"
        parameters = picture.parameters | about(bundle, args)
        frames = [picture.pixels] if picture.frames is None else list(picture.frames)
        for path, pixels in zip(outputs.frame_paths(args, number, len(frames)), frames, strict=True):
            out = write_picture(path, pixels, parameters, bundle.scheduler, numbered=args.out is None)
            print(json.dumps(parameters | {"out": str(out)}) if args.json else out, flush=True)
        failed += outputs.write_arrays(args, picture, number)
    failed += outputs.write_profile(args, session)
    if failed:
        raise failed[0]
    return 0


def warn_of_target(target: object, device: Device) -> None:
    """Say so where a GPU is to draw with kernels that leave all but a few of its cores idle."""
    if device.facts()["kind"] == "gpu" and is_for_cpus(target):
        log.warning(
            "%s is a GPU and this bundle is tuned for a CPU; convert with --target gpu, or draw with --device cpu",
            device.name,
        )


def about(bundle: Bundle, args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say beside the pipeline's own parameters."""
    own = {"model": bundle.model["source"], "version": f"ondevice {__version__}"}
    return own | pictures.about(args) | seed.about(args)


if __name__ == "__main__":
    raise SystemExit(cli.main_for("generate"))
