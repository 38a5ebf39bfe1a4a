"""Draw a picture from a bundle, or from a folder in another format by that format's own runtime.

python -m ondevice.generate sd14.ondevice "a photo of an astronaut riding a horse on mars" --steps 20
--seed 1 --out a.png
python -m ondevice.generate sd14.ondevice --from a.png --seed 2
python -m ondevice.generate sd14-onnx "a photo of an astronaut riding a horse on mars" --runtime onnx
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from ondevice import cli, flags
from ondevice.drawing import batch, drawer, engine, line, memory, outputs, previews, resume
from ondevice.errors import UsageError

HELP = "draw a picture from a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("bundle", type=Path, help="what `convert` or `pack` wrote")
    prompt = parser.add_argument("prompt", help="what to draw; none of a film that begins with a picture alone")
    prompt.required = False  # what is asked for says whether there is one
    for group in (*line.GROUPS, memory, outputs, previews, resume, engine):
        group.add_arguments(parser)
    parser.add_argument_group("batch").add_argument(
        "--batch",
        type=Path,
        metavar="FILE.jsonl",
        help="draw what the lines of a file ask for into the folder --out, as `ondevice batch` does",
    )
    batch.add_arguments(parser)
    flags.add_strict(parser)


def run(args: argparse.Namespace) -> int:
    """Draw, write the picture and print its path."""
    if args.batch is not None:
        flags.refuse(args, ["--preview", "--preview-every", "--preview-by"], "a batch has no previews.")
        batch.check(args)
        return batch.run(args, args.batch)
    flags.refuse(args, ["--ray", "--workers"], "they are of a batch.")
    draws = drawer.Drawer(args, outputs.recorded(args))
    args = draws.completed(args)
    drawer.check(args)
    resume.check(args)
    outputs.check(args, drawer.inputs(args))
    previews.check(args)
    asked = draws.asked(args)
    outputs.check_for(args, asked.model.files.pipeline, asked.size, asked.request.numbers)
    failed: list[UsageError] = []  # of what is written beside pictures; they are not lost for it
    resumed = draws.resumed(asked)
    done = {number: paths for number in range(args.count) if (paths := resumed.done(number))}
    for path in itertools.chain(*done.values()):
        outputs.say_path(args, path, outputs.parameters_in(path) if args.json else {})
    left = [number for number in range(args.count) if number not in done]
    shown = previews.of(args, len(left))
    for drawn in draws.draw(asked, resumed, left, shown) if left else ():
        paths = outputs.write(args, drawn.number, drawn.picture, drawn.parameters, drawn.scheduler, drawn.rate)
        for path in paths:
            outputs.say_path(args, path, drawn.parameters)
            shown.end(path)
        failed += outputs.write_arrays(args, drawn.picture, drawn.number)
        resumed.wrote(drawn.number, paths)
    resumed.over()
    memory.say_resident(args)
    failed += outputs.write_profile(args, asked.model.profile()) + shown.failed
    if failed:
        raise failed[0]
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.main_for("generate"))
