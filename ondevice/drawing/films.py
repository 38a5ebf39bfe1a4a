"""Films: how many frames, how they move, and the files that they are written to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.base.publish import check_space
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.diffusion.film import Timing, check_film, encoded_film, film_format
from ondevice.diffusion.film_words import NUMBERS
from ondevice.diffusion.picture_file import FORMATS, encoded, format_of
from ondevice.errors import UsageError

OUT = Path("film.webp")  # or the first of film-1.webp, film-2.webp... that is free
_RATE = 7.0  # frames per second of a film whose model is told none
# of the numbers of a pipeline; --frames is the one that its latents name
_NUMBERS = dict(
    zip(("--fps", "--motion-bucket", "--noise-aug", "--min-guidance", "--max-guidance"), NUMBERS.values(), strict=True)
)
_STILLS = {ending for ending, kind in FORMATS.items() if kind != "WEBP"}  # names of pictures, and of frames


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of films."""
    group = parser.add_argument_group("films")
    group.add_argument(
        "--frames", type=int, metavar="N", help="how many frames, for which the bundle has plans (default: its first)"
    )
    words = {
        "--fps": "frames per second, which the model is told and the file plays at (default: the bundle's, often 7)",
        "--motion-bucket": "how much moves, 0 to 255 (default: the bundle's, often 127)",
        "--noise-aug": "how much noise is added to the picture that is encoded (default: the bundle's, often 0.02)",
        "--min-guidance": "guidance of the first frame (default: the bundle's, often 1)",
        "--max-guidance": "guidance of the last frame; of those between evenly (default: the bundle's, often 3)",
    }
    for flag, what in words.items():
        group.add_argument(flag, type=float, metavar="X", help=what)
    group.add_argument(
        "--decode-chunk",
        type=int,
        metavar="N",
        help="decode at most N frames at once: less memory, and other frames where chunks meet (default: the most that "
        "the bundle has plans for)",
    )


def is_film(spec: PipelineSpec) -> bool:
    """Whether a pipeline draws films."""
    return spec.latents.frames is not None


def numbers(args: argparse.Namespace, spec: PipelineSpec) -> dict[str, float]:
    """What the flags say of a pipeline's numbers. Raises UsageError for one that it does not have."""
    named = {"--frames": spec.latents.frames, **_NUMBERS}
    found: dict[str, float] = {}
    for flag, name in named.items():
        value = getattr(args, flag[2:].replace("-", "_"))
        if value is None:
            continue
        if name is None or name not in spec.numbers:
            what = "the bundle draws no films." if not is_film(spec) else "the bundle's model is told no such number."
            raise UsageError(what, where=flag, fix="leave it out")
        found[name] = float(value)
    if args.decode_chunk is not None and not is_film(spec):
        raise UsageError("the bundle draws no films.", where="--decode-chunk", fix="leave it out")
    return found


def is_folder(path: Path) -> bool:
    """Whether frames go into a folder of this name."""
    return os.path.isdir(path) or not path.suffix  # Path.is_dir raises for a name that is too long


def may_be_film(path: Path) -> bool:
    """Whether a name is that of a film, or of a folder of its frames, and of no picture."""
    return path.suffix.lower() not in FORMATS and (film_format(path) is not None or is_folder(path))


def check(path: Path, count: int, size: tuple[int, int], rate: float) -> None:
    """Refuse a film of `count` frames of size (width, height) that cannot be written there. Raises UsageError."""
    if is_folder(path):
        if not path.is_dir() and (os.path.lexists(path) or not os.access(path.parent, os.W_OK | os.X_OK)):
            fix = "name one in an existing, writable folder"
            raise UsageError("no folder can be made there.", where=f"--out: {path}", fix=fix)
        check_space(path if path.is_dir() else path.parent, count * size[0] * size[1] * 3, "the frames do", UsageError)
    elif path.suffix.lower() in _STILLS:
        format_of(path, size)
    else:
        check_film(path, count, size)
        Timing(rate)


def rate_of(spec: PipelineSpec, numbers: Mapping[str, float]) -> float:
    """Frames per second of the file: what the model is told, where it is told it."""
    own = spec.numbers.get("fps")
    usual = own.default if own is not None and isinstance(own.default, int | float) else _RATE
    return float(numbers.get("fps", usual))


def files_of(
    path: Path,
    frames: Sequence[np.ndarray],
    rate: float,
    parameters: Mapping[str, Any],
    scheduler: Mapping[str, Any] | None,
) -> list[tuple[Path, bytes]]:
    """The files of a film, each frame uint8[h, w, 3]: one, or of a folder or a picture's name one for each frame.
    Raises UsageError where it cannot be encoded here."""
    if film_format(path) is not None and not path.is_dir():
        return [(path, encoded_film(path, iter(frames), len(frames), Timing(rate), parameters))]
    names = frame_paths(path, len(frames))
    return [(name, encoded(name, pixels, parameters, scheduler)) for name, pixels in zip(names, frames, strict=True)]


def frame_paths(path: Path, count: int) -> list[Path]:
    """Where frames go that have a file each: into a folder as frame-01.png, or as a-1.png, a-2.png..."""
    if is_folder(path):
        digits = max(2, len(str(count)))
        return [path / f"frame-{frame + 1:0{digits}}.png" for frame in range(count)]
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{frame + 1}") for frame in range(count)]


def make_folder(path: Path) -> None:
    """The folder of a film's frames, if it has one; what is written there says why it cannot be."""
    if is_folder(path):
        with suppress(OSError):
            path.mkdir(exist_ok=True)
