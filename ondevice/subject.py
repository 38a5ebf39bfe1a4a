"""MODEL_OR_BUNDLE, as `show`, `explain` and `bench` take it: a model family with convert's flags, or a folder that convert wrote."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ondevice import cli
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.convert import DTYPES, add_plan_arguments, add_weight_arguments, open_model
from ondevice.converters.component import Checkpoint
from ondevice.converters.families import FAMILIES as MODELS
from ondevice.errors import BundleError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the positional argument and the flags that say which model at which size."""
    parser.add_argument("model", metavar="MODEL_OR_BUNDLE", help=f"one of {', '.join(sorted(MODELS))}, or a folder that `convert` wrote")
    parser.add_argument("--size", metavar="WxH", help="picture size in pixels (default: the training size, or the bundle's first)")
    add_weight_arguments(parser)


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Declare --strict."""
    parser.add_argument("--strict", action="store_true", help="fail where a fallback was needed, and list all of them")


def open_subject(args: argparse.Namespace) -> Checkpoint | Bundle:
    """What the argument names.

    Raises:
        UsageError: it is neither, or a flag of models was given beside a bundle.
        OnDeviceError: the checkpoint or the bundle cannot be read.
    """
    if args.model in MODELS:
        return open_model(args)
    try:
        bundle = open_bundle(args.model)
    except BundleError as error:
        if not error.what.startswith("is not a bundle"):
            raise
        what = f"{args.model!r} is neither a model family ({', '.join(sorted(MODELS))}) nor a bundle."
        raise UsageError(what, fix="name a family, or the folder that `ondevice convert` wrote") from None
    plain = argparse.ArgumentParser()
    add_weight_arguments(plain)
    add_plan_arguments(plain)
    if changed := [name for name, default in vars(plain.parse_args([])).items() if getattr(args, name, default) != default]:
        flag = "--" + changed[0].replace("_", "-")
        raise UsageError("a bundle is compiled already; this goes only with a model.", where=flag, fix=f"leave {flag} out")
    return bundle


def refuse(args: argparse.Namespace, flags: Sequence[str], why: str) -> None:
    """Raise UsageError for the first of `flags` that was given: one that would be ignored is refused."""
    for flag in flags:
        if getattr(args, flag[2:].replace("-", "_")) not in (None, (), False):
            raise UsageError(why, where=flag, fix=f"leave {flag} out")


def size_of(args: argparse.Namespace) -> tuple[int, int] | None:
    """--size in pixels, if it was given."""
    return cli.parse_size(args.size) if args.size else None


def storage(args: argparse.Namespace) -> str:
    """--dtype as plans name it."""
    return DTYPES[args.dtype or "fp16"]
