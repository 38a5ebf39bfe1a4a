"""Flags that several verbs take, each declared once, and what they say once they are parsed."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.errors import BundleError, UsageError
from ondevice.lower.program import STORAGES
from ondevice.run.device import Device
from ondevice.run.discovery import find_device
from ondevice.target import AUTO, FP32, MATHS, METHODS, Target, load_targets, target_names, tuned_by
from ondevice.target.avoid import Avoided, read_avoided
from ondevice.target.tuning import measured_for, read_tuning

# converters and rules take a second to import, and `generate` has flags of here, too: only what needs them imports them
if TYPE_CHECKING:
    from ondevice.compiler.recipe import Recipe
    from ondevice.converters.component import Checkpoint
    from ondevice.converters.source import Source

log = logging.getLogger(__name__)
WEIGHTS = {"int8": "i8", "int4": "i4"}
_DESTINATIONS = {"--from": "from_picture"}  # of args.from Python would make an import


def add_plan_arguments(parser: argparse.ArgumentParser, sets: Sequence[str] = (), others: Sequence[str] = ()) -> None:
    """The flags that say how a model is compiled; `sets` of targets may be named where a bundle is written, and
    `others` are weights that bundles have not, where other formats may be."""
    add_dtype(parser)
    add_math(parser)
    add_weights(parser, others)
    add_target(parser, sets)
    add_without(parser)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """How the flags say that a model is compiled; a verb that lacks one of them gets its default.

    Raises:
        OnDeviceError: a file of tunables or a device cannot be had.
    """
    from ondevice.compiler.recipe import Recipe

    dtype, weights = getattr(args, "dtype", None), getattr(args, "weights", None)
    target, *others = targets_of(args)
    return Recipe(
        dtype=STORAGES[dtype or "fp16"],
        weights=WEIGHTS.get(weights or "", ""),
        weights_of=getattr(args, "weights_of", ()),
        target=target,
        others=others,
        set_name=args.target if others else "",
        without=getattr(args, "without", ()),
        tile_vae=getattr(args, "tile_vae", 0),
        chunks=getattr(args, "chunks", 1),
        math=getattr(args, "math", None) or FP32,
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Declare --dtype."""
    parser.add_argument("--dtype", choices=STORAGES, help="storage of UNet and VAE (default fp16)")


def add_math(parser: argparse.ArgumentParser) -> None:
    """Declare --math."""
    words = "what products of UNet and VAE are multiplied in, where the target has a matrix unit for it: fp32 (the "
    words += "default), bf16, or bf16x3, three products of bf16 that are nearly as exact as fp32 (docs/math.md)"
    parser.add_argument("--math", choices=MATHS, help=words)


def add_weights(parser: argparse.ArgumentParser, others: Sequence[str] = ()) -> None:
    """The flag that says how weights are stored; `others` as `add_plan_arguments` has them."""
    more = f"; {', '.join(others)}: of other formats (docs/export.md)" if others else ""
    parser.add_argument(
        "--weights",
        choices=(*WEIGHTS, *others),
        help=(
            "store the larger weights of products and convolutions so: int8 with a scale per column, int4 with one per "
            f"column and 32 rows{more} (default: as --dtype says)"
        ),
    )


def add_target(parser: argparse.ArgumentParser, sets: Sequence[str] = ()) -> None:
    """The flags that name a target, or one of the `sets`, and tunables."""
    more = f"; {' or '.join(sets)}: several GPUs of that kind" if sets else ""
    parser.add_argument(
        "--target",
        choices=(AUTO, *sets, *target_names()),
        help=f"what the plans are made for (default auto: this machine's CPU{more})",
    )
    parser.add_argument(
        "--tuning",
        type=Path,
        metavar="FILE",
        help="measured tunables to prefer, as `ondevice tune --out FILE` writes them",
    )
    parser.add_argument(
        "--tune-for", metavar="DEVICE", help="prefer the tunables measured for this device, or for its family"
    )


def targets_of(args: argparse.Namespace) -> list[Target]:
    """The targets that those flags name, or those of them that the verb has: one, or those of a set.

    Raises:
        OnDeviceError: a file or a device cannot be had.
    """
    targets = load_targets(args.target or AUTO)
    tuning, tune_for = getattr(args, "tuning", None), getattr(args, "tune_for", None)
    files = [read_tuning(tuning)] if tuning else []
    if tune_for:
        device = find_device(tune_for)
        found = measured_for(device.facts())
        if not found:
            names = ", ".join(target.name for target in targets)
            log.warning("nothing was measured for %s; target %s keeps its own tunables", device.name, names)
        files += found
    avoided = _avoided(getattr(args, "avoid", None) or ())
    return [replace(tuned_by(target, files), avoided=avoided) for target in targets]


def add_avoid(parser: argparse.ArgumentParser) -> None:
    """The flag that names programs to plan around."""
    parser.add_argument(
        "--avoid",
        type=Path,
        action="append",
        metavar="FILE",
        help="plan around the programs that a device computes wrongly, as `ondevice doctor --out FILE` lists them",
    )


def _avoided(paths: Sequence[Path]) -> list[Avoided]:
    """The files of --avoid; of kernels that are another text by now a warning is logged."""
    files = [read_avoided(path) for path in paths]
    if any(file.programs for file in files):
        from ondevice.lower.kernel_file import load_all

        texts = {name: kernel.text for name, kernel in load_all().items()}
        for file in files:
            for kernel in file.stale(texts):
                log.warning(
                    "%s: %s.cl is another text than the one that was wrong on %s, and is not avoided; run `ondevice "
                    "doctor` again",
                    file.name,
                    kernel,
                    file.device,
                )
    return files


def add_without(parser: argparse.ArgumentParser) -> None:
    """The flag that leaves fusions out."""
    from ondevice.rewrite import CHOICES, FUSIONS

    parser.add_argument(
        "--without",
        nargs="+",
        default=(),
        choices=CHOICES,
        metavar="RULE",
        help=f"fusions to leave out: {', '.join(FUSIONS)}; methods: {', '.join(METHODS)}; all: every one",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The argument and the flags that name a model and its weights."""
    from ondevice.converters.families import FAMILIES as MODELS

    parser.add_argument(
        "model", choices=sorted(MODELS), help="model family; `demo` is the small trained model inside the package"
    )
    add_weight_arguments(parser)


def add_weight_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that name a model's weights."""
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--checkpoint",
        metavar="PATH_OR_HUB_ID",
        help="diffusers folder, folder of ONNX files, .safetensors, .gguf, .ckpt or hub id (default: the family's)",
    )
    weights.add_argument(
        "--random-weights", type=int, metavar="SEED", help="make up full-size weights: for benchmarks and tests"
    )
    parser.add_argument("--variant", metavar="NAME", help="weight files of a folder or hub id to take, such as fp16")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a hub id")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of a checkpoint that holds both")
    for flag, what in (("--unet", "UNet"), ("--vae", "VAE"), ("--text-encoder", "text encoder")):
        words = f"take the {what} from this file, diffusers folder or hub id; the checkpoint need not have one"
        parser.add_argument(flag, metavar="PATH_OR_HUB_ID", help=words)
    words = "take all of several text encoders from a diffusers folder, or one of clip_l*, clip_g* and t5xxl* files"
    parser.add_argument("--text-encoders", metavar="FOLDER", help=words)
    parser.add_argument(
        "--taesd",
        nargs="?",
        const="",
        metavar="PATH_OR_HUB_ID",
        help="add a tiny autoencoder's decoder, for fast pictures and previews: its file, diffusers folder or hub id "
        "(without one: madebyollin/taesd, taesdxl for XL, taesd3 for 3, the package's for the demo)",
    )
    parser.add_argument(
        "--clip-skip",
        type=int,
        default=0,
        metavar="N",
        help="leave out the text encoders' last N layers, as diffusers counts them (WebUI's number is one more)",
    )
    for flag, form, words in (
        (
            "--embedding",
            "FILE[:TRIGGER]",
            "add a textual inversion embedding under its trigger word (default: its own token, or the file's name); "
            "several may be given",
        ),
        (
            "--lora",
            "FILE[:SCALE]",
            "put an adapter (LoRA, LoCon, LoHa) into the weights, at a scale (default 1); several may be given",
        ),
        (
            "--controlnet",
            "PATH_OR_HUB_ID",
            "add a ControlNet: its folder, file or hub id, or `random` beside --random-weights; up to four times",
        ),
    ):
        parser.add_argument(flag, action="append", default=[], metavar=form, help=words)


def source_of(args: argparse.Namespace) -> Source:
    """The weights that those flags name."""
    from ondevice.converters.source import Source

    return Source(**{field.name: getattr(args, field.name) for field in fields(Source) if hasattr(args, field.name)})


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL_OR_BUNDLE, a model family with convert's flags or what convert or pack wrote,
    and the picture's size."""
    from ondevice.converters.families import FAMILIES as MODELS

    parser.add_argument(
        "model",
        metavar="MODEL_OR_BUNDLE",
        help=f"one of {', '.join(sorted(MODELS))}, or what `convert` or `pack` wrote",
    )
    parser.add_argument(
        "--size", metavar="WxH", help="picture size in pixels (default: the training size, or the bundle's first)"
    )
    add_weight_arguments(parser)


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Declare --strict."""
    parser.add_argument("--strict", action="store_true", help="fail where a fallback is needed, and list all of them")


def open_subject(args: argparse.Namespace) -> Checkpoint | Bundle:
    """What the argument names.

    Raises:
        UsageError: it is neither, or a flag of models was given beside a bundle.
        OnDeviceError: the checkpoint or the bundle cannot be read.
    """
    from ondevice.converters.families import FAMILIES as MODELS

    if args.model in MODELS:
        return source_of(args).open()
    try:
        bundle = open_bundle(args.model)
    except BundleError as error:
        if not error.what.startswith("is not a bundle"):
            raise
        what = f"{args.model!r} is neither a model family ({', '.join(sorted(MODELS))}) nor a bundle."
        raise UsageError(what, fix="name a family, or what `ondevice convert` or `pack` wrote") from None
    plain = argparse.ArgumentParser()
    add_weight_arguments(plain)
    add_plan_arguments(plain)
    if changed := [
        name for name, default in vars(plain.parse_args([])).items() if getattr(args, name, default) != default
    ]:
        flag = "--" + changed[0].replace("_", "-")
        raise UsageError(
            "a bundle is compiled already; this goes only with a model.", where=flag, fix=f"leave {flag} out"
        )
    return bundle


def given(args: argparse.Namespace, flag: str) -> Any:
    """What was given with `flag`, named as on the command line; None of a verb that does not have it."""
    return getattr(args, _DESTINATIONS.get(flag, flag[2:].replace("-", "_")), None)


def refuse(args: argparse.Namespace, flags: Sequence[str], why: str) -> None:
    """Raise UsageError for the first of `flags` that was given: one that would be ignored is refused."""
    for flag in flags:
        value = given(args, flag)
        if value is not None and value is not False and value != ():  # 0 may have been given
            raise UsageError(why, where=flag, fix=f"leave {flag} out")


def size_of(args: argparse.Namespace) -> tuple[int, int] | None:
    """--size in pixels, if it was given."""
    return parse_size(args.size) if args.size else None


def add_component(parser: argparse.ArgumentParser) -> None:
    """Declare --component."""
    parser.add_argument("--component", metavar="NAME", help="only this one, such as unet")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare --device."""
    parser.add_argument("--device", help="OpenCL device: number, part of its name, cpu or gpu (see `ondevice devices`)")


def add_plans(parser: argparse.ArgumentParser) -> None:
    """Declare --plans."""
    what = "of a bundle for several GPUs, the target whose plans are taken (default: the device's own)"
    parser.add_argument("--plans", metavar="TARGET", help=what)


def with_plans(bundle: Bundle, args: argparse.Namespace, device: Device | None = None) -> Bundle:
    """The bundle with the plans that --plans names, else those for a device, else those for any.

    Raises:
        UsageError: it has none of that name.
        DeviceError: the device can run none.
    """
    if args.plans is not None:
        return bundle.for_target(args.plans)
    return bundle if device is None else bundle.for_device(device.facts(), device.dialect)


def add_kernels(parser: argparse.ArgumentParser) -> None:
    """Declare --kernels, of verbs that run a bundle's."""
    what = "ours: refuse a bundle whose kernels are not those of this ondevice, for they are programs (default any)"
    parser.add_argument("--kernels", choices=("any", "ours"), help=what)


def named_number(text: str) -> tuple[str, float]:
    """'crop_top=64' -> ('crop_top', 64.0). Raises argparse.ArgumentTypeError where it is none."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE (expected such as crop_top=64)") from None


def parse_option(text: str) -> tuple[str, Any]:
    """'eta=0.5' -> ('eta', 0.5); what is not JSON is a word: 'timestep_spacing=trailing'.

    Raises:
        UsageError: there is no '='.
    """
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise UsageError(f"{text!r} is not KEY=VALUE.", where="--set", fix="write, say, --set eta=0.5")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def named_path(text: str) -> tuple[str, Path]:
    """'control=pose.png' -> ('control', its path). Raises argparse.ArgumentTypeError where it is none."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE (expected such as control=pose.png)")
    return name, Path(path)


def parse_size(text: str) -> tuple[int, int]:
    """'768x512' -> (width, height) in pixels.

    Raises:
        UsageError: it is not two whole numbers of 1 or more joined by an x, or they have more than nine digits.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and width.isascii() and height.isascii()):
        raise UsageError(f"{text!r} is not a size (expected WIDTHxHEIGHT in pixels, such as 512x512).", where="--size")
    if max(len(width), len(height)) > 9:  # digits; Python itself refuses to read thousands of them
        raise UsageError(
            f"{text[:40]!r}... is larger than any picture.", where="--size", fix="use a size such as 512x512"
        )
    if min(int(width), int(height)) < 1:
        raise UsageError(
            f"{text!r} has no pixels (expected 1 or more each way).", where="--size", fix="use a size such as 512x512"
        )
    return int(width), int(height)
