"""What is written and printed: the picture, and what was asked for beside it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ondevice.bundle.pipeline import PipelineSpec
from ondevice.diffusion.files import check_outputs, write_output
from ondevice.diffusion.picture_file import FORMATS, format_of, free_names, publish, write_picture
from ondevice.diffusion.picture_texts import read_texts
from ondevice.diffusion.request import Picture
from ondevice.diffusion.values import frames_of, resolved
from ondevice.drawing import films, paths_of, say
from ondevice.drawing.engine import Recorded
from ondevice.errors import UsageError
from ondevice.run.profile import Profile
from ondevice.run.trace import to_trace

OUT = Path("image.png")  # or the first of image-1.png, image-2.png... that is free
ARRAYS = ("--save-noise", "--save-latents")  # of each picture
PROFILES = ("--profile-out", "--trace")  # of the whole run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of what is written and printed."""
    group = parser.add_argument_group("outputs")
    group.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=(
            "picture to write: .png, .jpg or .webp; an old one is replaced; with --count FILE-1, FILE-2... (default: "
            "image.png, image-1.png... whichever is free). Of a film: .webp, .gif or .mp4, or a folder for its frames, "
            "or .png for FILE-1.png, FILE-2.png... (default: film.webp, film-1.webp...)"
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


def recorded(args: argparse.Namespace) -> Recorded:
    """What these flags need of sessions."""
    return Recorded(args.profile or args.profile_out is not None, args.trace is not None)


def picture_path(args: argparse.Namespace, number: int) -> Path:
    """Where a picture goes, from 0 on; without --out the name that others are free after."""
    return OUT if args.out is None else _numbered(args.out, args, number)


def check_for(args: argparse.Namespace, spec: PipelineSpec, size: tuple[int, int], numbers: Mapping[str, Any]) -> None:
    """Refuse a file that a picture of size (width, height) or a film with these numbers cannot have. Raises UsageError
    that names it."""
    if films.is_film(spec):
        count = frames_of(spec, resolved(spec, numbers, size))
        films.check(films.OUT if args.out is None else picture_path(args, 0), count, size, films.rate_of(spec, numbers))
    else:
        format_of(picture_path(args, 0), size)


def write(
    args: argparse.Namespace,
    number: int,
    picture: Picture,
    parameters: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    rate: float,
) -> list[Path]:
    """Write picture `number`, or a film of `rate` frames per second; gives the files. Raises UsageError where that
    cannot be."""
    path = picture_path(args, number)
    if picture.frames is None:
        assert picture.pixels is not None, "no other model goes on"
        return [write_picture(path, picture.pixels, parameters, scheduler, numbered=args.out is None)]
    if args.out is None:
        path = next(free_names(films.OUT))
    films.make_folder(path)
    return [
        publish(name, data) for name, data in films.files_of(path, list(picture.frames), rate, parameters, scheduler)
    ]


def check(args: argparse.Namespace, inputs: Mapping[str, Path | None]) -> None:
    """Refuse a file that cannot be written, or would take another's place.

    Args:
        inputs: files that the pictures are drawn from, by flag.

    Raises:
        UsageError: names the flag or the path, and what to do.
    """
    for number in range(args.count):
        out = next(free_names(OUT)) if args.out is None else picture_path(args, number)
        if not films.may_be_film(out):
            format_of(out)
        arrays = {flag: _numbered(path, args, number) for flag, path in paths_of(args, ARRAYS).items() if path}
        picture = {} if films.is_folder(out) else {"--out": out}
        check_outputs({**picture, **arrays, **paths_of(args, PROFILES)}, inputs, args.bundle)


def say_path(args: argparse.Namespace, path: Path, parameters: Mapping[str, Any]) -> None:
    """Print where a picture is, with --json what it was drawn with."""
    print(json.dumps({**parameters, "out": str(path)}) if args.json else path, flush=True)


def parameters_in(path: Path) -> dict[str, Any]:
    """What a picture's own file says that it was drawn with; nothing of a film that is no WebP. Raises UsageError where
    it cannot be read."""
    if path.suffix.lower() not in FORMATS:
        return {}
    own = read_texts(path).own
    return {} if own is None else dict(json.loads(own))


def write_arrays(args: argparse.Namespace, picture: Picture, number: int) -> list[UsageError]:
    """Write what was asked for of a picture's noise and latents; gives the errors of what could not be."""
    fills: dict[str, Callable[[BinaryIO], object]] = {
        "--save-noise": lambda file: np.save(file, picture.start),
        "--save-latents": lambda file: np.save(file, picture.latents),
    }
    paths = {flag: _numbered(path, args, number) for flag, path in paths_of(args, ARRAYS).items() if path}
    return _write(paths, fills)


def write_profile(args: argparse.Namespace, profile: Profile | None) -> list[UsageError]:
    """Write and print where the time went, as asked for; gives the errors of what could not be written."""
    if profile is None:
        return []
    fills: dict[str, Callable[[BinaryIO], object]] = {
        "--profile-out": lambda file: file.write(json.dumps(profile.to_json()).encode()),
        "--trace": lambda file: file.write(json.dumps(to_trace(profile)).encode()),
    }
    failed = _write({flag: path for flag, path in paths_of(args, PROFILES).items() if path}, fills)
    if args.profile:
        say(profile.to_table())
    return failed


def _write(paths: Mapping[str, Path], fills: Mapping[str, Callable[[BinaryIO], object]]) -> list[UsageError]:
    """Each that can be written, though another cannot."""
    failed = []
    for flag, path in paths.items():
        try:
            write_output(path, fills[flag])
        except UsageError as error:
            failed.append(error)
    return failed


def _numbered(path: Path, args: argparse.Namespace, number: int) -> Path:
    """Of several pictures a-1.png, a-2.png..."""
    return path if args.count == 1 else path.with_stem(f"{path.stem}-{number + 1}")
