"""Draw a picture from a bundle, or from a folder in another format by that format's own runtime.

python -m ondevice.generate sd14.ondevice "a photo of an astronaut riding a horse on mars" --steps 20
--seed 1 --out a.png
python -m ondevice.generate sd14-onnx "a photo of an astronaut riding a horse on mars" --runtime onnx
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ondevice import __version__, cli
from ondevice.api import Pipeline
from ondevice.diffusion.model_files import ModelFiles
from ondevice.diffusion.picture_file import format_of, write_picture
from ondevice.diffusion.request import Request
from ondevice.diffusion.series import series_of
from ondevice.drawing import engine, memory, outputs, paths_of, pictures, refiner, sampler, seed, text
from ondevice.drawing.progress import Progress
from ondevice.errors import UsageError

HELP = "draw a picture from a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("bundle", type=Path, help="what `convert` or `pack` wrote")
    for group in (text, sampler, seed, pictures, refiner, memory, outputs, engine):
        group.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draw, write the picture and print its path."""
    pictures.check(args)
    seed.check(args)
    refiner.check(args)
    outputs.check(args, pictures.inputs(args) | paths_of(args, (*seed.INPUTS, *refiner.INPUTS)))
    draws = engine.engine_of(args)
    given = pictures.read(args)
    fields = text.fields(args) | seed.fields(args)
    model = draws.open(args.bundle)
    fields |= sampler.fields(args, model.files.pipeline)
    size = pictures.picture_size(args, model.files, given)
    format_of(outputs.picture_path(args, 0), size)
    session = model.session()
    request = Request(**fields, **pictures.fields(args, given, size))
    way = model.way_of(request)
    progress = Progress(args.count, args.steps)
    end = None if args.refiner is None else refiner.Refiner.of(args, model.files, draws, request)
    asked = request if end is None else end.begun
    drawn = Pipeline.of(model.files, session).draw_series(series_of(asked, args.count), way, progress.show)
    if end is not None:
        begun = list(progress.each(drawn))
        session.release_all()  # the two models are never in memory together
        drawn = end.finished(begun, series_of(request, args.count), progress)
    failed: list[UsageError] = []  # of what is written beside pictures; they are not lost for it
    for number, picture in enumerate(progress.each(drawn)):
        assert picture.pixels is not None, "no other model goes on"
        parameters = picture.parameters | about(model.files, args)
        frames = [picture.pixels] if picture.frames is None else list(picture.frames)
        for path, pixels in zip(outputs.frame_paths(args, number, len(frames)), frames, strict=True):
            out = write_picture(path, pixels, parameters, model.files.scheduler, numbered=args.out is None)
            print(json.dumps(parameters | {"out": str(out)}) if args.json else out, flush=True)
        failed += outputs.write_arrays(args, picture, number)
    failed += outputs.write_profile(args, model.profile())
    if failed:
        raise failed[0]
    return 0


def about(files: ModelFiles, args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say beside the pipeline's own parameters."""
    own = {"model": files.model["source"], "version": f"ondevice {__version__}"}
    return own | pictures.about(args) | seed.about(args)


if __name__ == "__main__":
    raise SystemExit(cli.main_for("generate"))
