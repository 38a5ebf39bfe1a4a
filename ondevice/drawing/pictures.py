"""Pictures to begin from and others that a model takes, and the size of the one that is drawn."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import flags
from ondevice.diffusion import init_image, memory_budget
from ondevice.diffusion.image import FITS, fitted, resize, rounded_down
from ondevice.diffusion.model_files import ModelFiles
from ondevice.drawing import control, file_name
from ondevice.errors import UsageError

log = logging.getLogger(__name__)
FLAGS = {"image": "--init-image", "mask": "--mask"}  # of pictures that have one of their own


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
        "--mask",
        type=Path,
        metavar="P",
        help="draw only a part of the init image anew: where this picture is light; the rest stays as it is",
    )
    group.add_argument(
        "--picture",
        action="append",
        type=flags.named_path,
        metavar="NAME=P",
        help="another picture that the model takes (`ondevice show BUNDLE` lists them)",
    )
    group.add_argument(
        "--fit",
        choices=FITS,
        help=(
            "how an init image, or one for a ControlNet, of another shape becomes the picture's size: resize (default) "
            "squashes it, crop cuts its longer sides, pad adds to its shorter ones (its edges, or --background)"
        ),
    )
    group.add_argument(
        "--background",
        metavar="COLOUR",
        help="what lies under an init image's transparent parts and is added by --fit pad: #rrggbb or a name",
    )
    group.add_argument(
        "--taesd",
        action="store_true",
        default=None,
        help="decode by the tiny decoder of `convert --taesd`: sooner, in less memory, and not as exact",
    )
    group.add_argument(
        "--strength",
        type=float,
        help="how much of the init image is redrawn, 0 to 1 (default: the bundle's own, often 0.8)",
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what goes with an init image where there is none, and a picture that is named twice.

    Raises:
        UsageError: names the flag.
    """
    names = [name for name, _ in args.picture or ()]
    names += control.paths(args)
    for name, _ in args.picture or ():
        if name in FLAGS or names.count(name) > 1:
            fix = f"use {FLAGS[name]}" if name in FLAGS else "give it once"
            raise UsageError(f"{name!r} is not a name for one more picture.", where="--picture", fix=fix)
    needing = {"--strength": args.strength, "--mask": args.mask, "--background": args.background, "--fit": args.fit}
    for flag, value in needing.items():
        fits = args.control and flag in ("--background", "--fit")
        if value is not None and args.init_image is None and not fits:
            raise UsageError("there is no picture to begin from.", where=flag, fix="add --init-image, or leave it out")


def paths(args: argparse.Namespace) -> dict[str, Path]:
    """The files of the pictures that were given, by the names that pipelines have for them."""
    own = {"image": args.init_image, "mask": args.mask}
    given = {**own, **control.paths(args), **dict(args.picture or ())}
    return {name: path for name, path in given.items() if path is not None}


def inputs(args: argparse.Namespace) -> dict[str, Path | None]:
    """The same by flag."""
    named = FLAGS | {name: f"{control.FLAG} {number + 1}" for number, name in enumerate(control.paths(args))}
    return {named.get(name, f"--picture {name}"): path for name, path in paths(args).items()}


def read(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """uint8[h, w, 3] of each picture, by name.
    Raises UsageError for a file that cannot be read, or a colour that is none."""
    ground = _ground(args) or init_image.WHITE
    return {name: init_image.read_image(path, ground) for name, path in paths(args).items()}


def _ground(args: argparse.Namespace) -> tuple[int, int, int] | None:
    """Red, green and blue of --background, if it was given."""
    return None if args.background is None else init_image.parse_colour(args.background)


def fields(args: argparse.Namespace, given: dict[str, np.ndarray], size: tuple[int, int]) -> dict[str, Any]:
    """The request's pictures and size (width, height). A mask is fitted as the picture is that it is of."""
    fit, ground = args.fit or FITS[0], _ground(args)
    image, mask = fit_pair(given.get("image"), given.get("mask"), size, fit, ground)
    width, height = size
    others = {name: pixels for name, pixels in given.items() if name not in FLAGS}
    for name in control.paths(args):
        others[name] = control.condition(args, fitted(given[name], width, height, fit, ground))
    shared = {"width": width, "height": height, "strength": args.strength, "taesd": bool(args.taesd)}
    return shared | {"image": image, "mask": mask, "pictures": others}


def fit_pair(
    image: np.ndarray | None,
    mask: np.ndarray | None,
    size: tuple[int, int],
    fit: str,
    ground: tuple[int, int, int] | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """An init image and its mask, where they were given, as uint8[height, width, 3] of `size` (width, height);
    `fit` and `ground` as `ondevice.diffusion.image.fitted` takes them. A picture that is only resized stays as it is:
    pipelines resize it themselves, and some look at it as it was, too."""
    if mask is None and fit == FITS[0]:
        return image, None
    if image is not None and mask is not None:
        if fit != FITS[0]:  # what is cut off or added is the same part of both
            mask = resize(mask, image.shape[1], image.shape[0])
        mask = fitted(mask, *size, fit)
    return None if image is None else fitted(image, *size, fit, ground), mask


def about(args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say of the pictures that were given, and of how they were taken."""
    named = {"init_image": args.init_image, "mask": args.mask}
    files = {name: file_name(path) for name, path in named.items() if path is not None}
    others = [f"{name}={file_name(path)}" for name, path in (*control.paths(args).items(), *(args.picture or ()))]
    return (
        files
        | ({"pictures": ", ".join(others)} if others else {})
        | control.about(args)
        | {name: value for name in ("background", "fit") if (value := getattr(args, name)) is not None}
    )


def picture_size(args: argparse.Namespace, bundle: ModelFiles, given: dict[str, np.ndarray]) -> tuple[int, int]:
    """(width, height) in pixels: as asked, else the init image's own, or that of the first for a ControlNet, else the
    nearest that the bundle has; says what becomes of the image.

    Raises:
        UsageError: --size is no size, or none that the bundle draws.
    """
    name = next((name for name in ("image", *control.paths(args)) if name in given), None)
    if name is None:
        return memory_budget.default_size(bundle) if args.size is None else _asked_size(args, bundle)
    return size_of(args, bundle, given[name], paths(args)[name], encoded=name == "image")


def size_of(
    args: argparse.Namespace, bundle: ModelFiles, begin: np.ndarray, path: Path, encoded: bool = True
) -> tuple[int, int]:
    """The same of a picture uint8[h, w, 3] of the file `path`, that is `encoded` by the model or not."""
    scale, own = bundle.pipeline.latents.scale, (begin.shape[1], begin.shape[0])
    if args.size is not None:
        size = _asked_size(args, bundle)
    else:
        size = rounded_down(begin, scale)
        have = [
            (width * scale, height * scale)
            for width, height in memory_budget.latent_sizes(bundle)
            if not encoded or memory_budget.encodes_pictures(bundle, width, height)
        ]
        if size not in have and not memory_budget.takes_any_size(bundle):
            size = init_image.fitting_size(own, have) if have else memory_budget.default_size(bundle)
            log.warning("the bundle has no %dx%d, so %dx%d is drawn", *rounded_down(begin, scale), *size)
    if args.fit in (None, "resize") and init_image.squashed(own, size, scale):
        shapes = init_image.shape(own), init_image.shape(size)
        log.warning(
            "%s is squashed from %dx%d to %dx%d (from %s to %s); "
            "add --fit crop or --fit pad, or convert the checkpoint with a --size of its shape",
            path, *own, *size, *shapes,
        )  # fmt: skip
    return size


def _asked_size(args: argparse.Namespace, bundle: ModelFiles) -> tuple[int, int]:
    """--size in pixels. Raises UsageError where it is none, or none that the bundle draws. (What no model of its kind
    draws is refused with all else of a request.)"""
    size, scale = flags.parse_size(args.size), bundle.pipeline.latents.scale
    have = [(width * scale, height * scale) for width, height in memory_budget.latent_sizes(bundle)]
    possible = all(side % scale == 0 for side in size)
    if possible and have and size not in have and not memory_budget.takes_any_size(bundle):
        raise no_such_size(size, have, "--size")
    return size


def no_such_size(size: tuple[int, int], have: Sequence[tuple[int, int]], where: str) -> UsageError:
    """What is wrong where a picture of `size` pixels is asked for, and a bundle draws those of `have` alone."""
    asked, *names = ("{}x{}".format(*one) for one in (size, *have))
    what = f"the bundle holds no such size (got {asked}, expected one of {', '.join(names)})."
    fix = f"use one of these, or convert with --size {','.join([*names, asked])}"
    return UsageError(what, where=where, fix=fix)
