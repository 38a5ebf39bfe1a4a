"""Flags of other formats than bundles, which `convert` and `check` take, and what they say once they are parsed."""

from __future__ import annotations

import argparse

from ondevice import flags
from ondevice.export.options import FORMATS, Format, Options

WEIGHTS = tuple(
    dict.fromkeys(name for row in FORMATS.values() for name in row.weights if name not in flags.WEIGHTS)
)  # of --weights, that bundles have not


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of single formats, which their rows of FORMATS name."""
    group = parser.add_argument_group("other formats")
    group.add_argument(
        "--composites",
        action="store_true",
        help="tflite: group norms and attention as LiteRT's composites, which some GPU delegates and NPUs know whole; "
        "elsewhere the same builtin ops run",
    )
    group.add_argument(
        "--dynamic",
        action="store_true",
        help="onnx: batch, height and width are free; --size says what is drawn where nobody names a size",
    )
    group.add_argument(
        "--ios", type=int, choices=[17, 18], help="the oldest iOS that coreml packages are for (default 17)"
    )
    group.add_argument(
        "--link-weights",
        action="store_true",
        help="onnx: refer to the checkpoint's .safetensors files, by hard links, instead of copying their weights",
    )
    group.add_argument(
        "--split-unet",
        action="store_true",
        help="coreml: the UNet as two packages of half its weights each, for devices that load no larger one",
    )


def given_of(args: argparse.Namespace) -> dict[str, object]:
    """Those that were given, by name."""
    own = {name: getattr(args, name.replace("-", "_")) for row in FORMATS.values() for name in row.flags}
    return {name: value for name, value in own.items() if value not in (None, False)}


def options_of(args: argparse.Namespace, format: Format, sampler: str | None = None) -> Options:
    """What the flags say of another format. Raises UsageError for what it has not."""
    return format.checked(Options(args.dtype or "", args.weights or "", args.without, sampler, given_of(args)))
