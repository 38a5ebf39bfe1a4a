"""Pictures for ControlNets: which, how strongly and when they act, and edges of any picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.bundle.pipeline import PipelineSpec
from ondevice.diffusion.canny import edge_picture
from ondevice.diffusion.control import NAMES, check_count, numbers_of
from ondevice.errors import UsageError

FLAG = "--control"
_NUMBERS = {"scale": "--control-scale", "start": "--control-start", "end": "--control-end"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ControlNets."""
    group = parser.add_argument_group("control")
    group.add_argument(
        FLAG,
        type=Path,
        action="append",
        metavar="P",
        help="a picture for the bundle's ControlNet (`convert --controlnet`); several in the order of the nets",
    )
    words = {
        "scale": ("S", "how strongly a ControlNet acts (default 1)"),
        "start": ("F", "the part of the steps from which on it acts, 0 to 1 (default 0)"),
        "end": ("F", "the part of the steps until which it acts, 0 to 1 (default 1)"),
    }
    for word, (letter, what) in words.items():
        once = f"{what}; one for all nets, or given once for each"
        group.add_argument(_NUMBERS[word], type=float, action="append", metavar=letter, help=once)
    group.add_argument(
        "--guess", action="store_true", help="guess mode: ControlNets see the prompt alone, which may then be empty"
    )
    group.add_argument(
        "--canny",
        metavar="LOW,HIGH",
        help="make edges of what --control names, as OpenCV's Canny with these thresholds does: 100,200",
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what goes with a picture for a ControlNet where there is none.

    Raises:
        UsageError: names the flag.
    """
    given = {flag: getattr(args, flag[2:].replace("-", "_")) for flag in _NUMBERS.values()}
    for flag, value in (given | {"--guess": args.guess or None, "--canny": args.canny}).items():
        if value is not None and not args.control:
            raise UsageError("there is no picture for a ControlNet.", where=flag, fix=f"add {FLAG}, or leave it out")
    if len(args.control or ()) > len(NAMES):
        what = f"that are more pictures than a bundle can have nets (got {len(args.control)}, expected {len(NAMES)})."
        raise UsageError(what, where=FLAG, fix="give fewer")
    if args.canny is not None:
        thresholds(args.canny)


def paths(args: argparse.Namespace) -> dict[str, Path]:
    """The files, by the names that pipelines have for these pictures."""
    return dict(zip(NAMES, args.control or (), strict=False))


def numbers(args: argparse.Namespace, spec: PipelineSpec) -> dict[str, float]:
    """What the flags say of a pipeline's nets.

    Raises:
        UsageError: there are fewer nets, or more numbers.
    """
    count = len(args.control or ())
    check_count(spec, count, FLAG)
    named = {word: (flag, getattr(args, f"control_{word}")) for word, flag in _NUMBERS.items()}
    return numbers_of(spec, count, named, args.guess)


def condition(args: argparse.Namespace, pixels: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3]: a picture at the size that is drawn, or its edges."""
    return pixels if args.canny is None else edge_picture(pixels, *thresholds(args.canny))


def thresholds(text: str) -> tuple[float, float]:
    """'100,200' -> (100, 200). Raises UsageError where it is no two numbers of 0 or more."""
    try:
        low, high = (float(part) for part in text.split(","))
        if not 0 <= low < np.inf or not 0 <= high < np.inf:
            raise ValueError
    except ValueError:
        what = f"not two thresholds (got {text[:60]!r}, expected LOW,HIGH of 0 or more)."
        raise UsageError(what, where="--canny", fix="write --canny 100,200") from None
    return low, high


def about(args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say beside the pictures' names."""
    return {} if args.canny is None else {"canny": args.canny}
