"""What is written and printed: the picture, and what was asked for beside it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ondevice.diffusion.files import check_outputs, write_output
from ondevice.diffusion.picture_file import format_of, free_names
from ondevice.diffusion.request import Picture
from ondevice.drawing import paths_of, say
from ondevice.errors import UsageError
from ondevice.run.session import Session
from ondevice.run.trace import to_trace

OUT = Path("image.png")  # or the first of image-1.png, image-2.png... that is free
MORE_OUTPUTS = ("--save-noise", "--save-latents", "--profile-out", "--trace")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of what is written and printed."""
    group = parser.add_argument_group("outputs")
    group.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=(
            "picture to write: .png, .jpg or .webp; an old one is replaced (default: "
            "image.png, image-1.png... whichever is free)"
        ),
    )
    group.add_argument("--json", action="store_true", help="print the parameters as JSON")
    group.add_argument(
        "--save-noise", type=Path, metavar="FILE.npy", help="write the initial noise, as --latents takes it"
    )
    group.add_argument(
        "--save-latents", type=Path, metavar="FILE.npy", help="write the final latents, those that were decoded"
    )
    group.add_argument("--profile", action="store_true", help="print where the time went, by kernel")
    group.add_argument(
        "--profile-out", type=Path, metavar="FILE.json", help="write the time of every dispatch, averaged over its runs"
    )
    group.add_argument(
        "--trace", type=Path, metavar="FILE.json", help="write when each launch ran, for Perfetto or chrome://tracing"
    )


def check(args: argparse.Namespace, inputs: Mapping[str, Path | None]) -> Path:
    """The picture's path, where all that is asked for can be written.

    Args:
        inputs: files that the picture is drawn from, by flag.

    Raises:
        UsageError: names the flag or the path, and what to do.
    """
    out = next(free_names(OUT)) if args.out is None else args.out
    format_of(out)
    check_outputs({"--out": out, **paths_of(args, MORE_OUTPUTS)}, inputs, args.bundle)
    return out


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
