"""Pictures to begin from, and the size of the one that is drawn."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import flags
from ondevice.bundle.reader import Bundle
from ondevice.diffusion import init_image, memory_budget
from ondevice.diffusion.image import FITS, fitted, rounded_down
from ondevice.drawing import file_name
from ondevice.errors import UsageError

log = logging.getLogger(__name__)
INPUTS = ("--init-image",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of pictures and sizes."""
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--size",
        metavar="WxH",
        help="picture size in pixels, one that the bundle holds (default: the init image's, or its first)",
    )
    group.add_argument(
        "--init-image",
        type=Path,
        metavar="P",
        help="begin from a picture (PNG, JPEG, WebP, BMP, GIF or TIFF), at its own size if the bundle has it",
    )
    group.add_argument(
        "--fit",
        choices=FITS,
        help=(
            "how an init image of another shape becomes the picture's size: resize (default) squashes it, crop cuts "
            "its longer sides, pad adds to its shorter ones (its edges, or --background)"
        ),
    )
    group.add_argument(
        "--background",
        metavar="COLOUR",
        help="what lies under an init image's transparent parts and is added by --fit pad: #rrggbb or a name",
    )
    group.add_argument(
        "--strength",
        type=float,
        help="how much of the init image is redrawn, 0 to 1 (default: the bundle's own, often 0.8)",
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what goes with an init image where there is none.

    Raises:
        UsageError: names the flag.
    """
    for flag, value in {"--strength": args.strength, "--background": args.background, "--fit": args.fit}.items():
        if value is not None and args.init_image is None:
            raise UsageError("there is no picture to begin from.", where=flag, fix="add --init-image, or leave it out")


def read(args: argparse.Namespace) -> np.ndarray | None:
    """uint8[h, w, 3] of --init-image. Raises UsageError for a file that cannot be read, or a colour that is none."""
    ground = _ground(args) or init_image.WHITE
    return None if args.init_image is None else init_image.read_image(args.init_image, ground)


def _ground(args: argparse.Namespace) -> tuple[int, int, int] | None:
    """Red, green and blue of --background, if it was given."""
    return None if args.background is None else init_image.parse_colour(args.background)


def fields(args: argparse.Namespace, begin: np.ndarray | None, size: tuple[int, int]) -> dict[str, Any]:
    """The request's picture and size (width, height)."""
    width, height = size
    image = None if begin is None else fitted(begin, width, height, args.fit or FITS[0], _ground(args))
    return {"width": width, "height": height, "image": image, "strength": args.strength}


def about(args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say of --init-image, and of how it was taken."""
    image = {} if args.init_image is None else {"init_image": file_name(args.init_image)}
    return image | {name: value for name in ("background", "fit") if (value := getattr(args, name)) is not None}


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
    if args.fit in (None, "resize") and init_image.squashed(own, size, scale):
        shapes = init_image.shape(own), init_image.shape(size)
        log.warning(
            "%s is squashed from %dx%d to %dx%d (from %s to %s); "
            "add --fit crop or --fit pad, or convert the checkpoint with a --size of its shape",
            args.init_image, *own, *size, *shapes,
        )  # fmt: skip
    return size
