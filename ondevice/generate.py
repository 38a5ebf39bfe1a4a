"""Draw a picture from a bundle, or from a folder in another format by that format's own runtime.

python -m ondevice.generate sd14.ondevice "a photo of an astronaut riding a horse on mars" --steps 20
--seed 1 --out a.png
python -m ondevice.generate sd14-onnx "a photo of an astronaut riding a horse on mars" --runtime onnx
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ondevice import cli
from ondevice.diffusion.picture_file import format_of, write_picture
from ondevice.drawing import drawer, engine, memory, outputs
from ondevice.errors import UsageError

HELP = "draw a picture from a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("bundle", type=Path, help="what `convert` or `pack` wrote")
    parser.add_argument("prompt", help="what to draw")
    for group in (*drawer.GROUPS, memory, outputs, engine):
        group.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draw, write the picture and print its path."""
    drawer.check(args)
    outputs.check(args, drawer.inputs(args))
    draws = drawer.Drawer(args)
    asked = draws.asked(args)
    format_of(outputs.picture_path(args, 0), asked.size)
    failed: list[UsageError] = []  # of what is written beside pictures; they are not lost for it
    for drawn in draws.draw(asked):
        paths = outputs.frame_paths(args, drawn.number, len(drawn.frames))
        for path, pixels in zip(paths, drawn.frames, strict=True):
            out = write_picture(path, pixels, drawn.parameters, drawn.scheduler, numbered=args.out is None)
            print(json.dumps(drawn.parameters | {"out": str(out)}) if args.json else out, flush=True)
        failed += outputs.write_arrays(args, drawn.picture, drawn.number)
    failed += outputs.write_profile(args, asked.model.profile())
    if failed:
        raise failed[0]
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.main_for("generate"))
