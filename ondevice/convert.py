"""Turn a Stable Diffusion checkpoint into a bundle.

python -m ondevice.convert demo
python -m ondevice.convert sd14 --checkpoint PATH_OR_HUB_ID --size 512x512,768x512
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tqdm import tqdm

from ondevice import cli
from ondevice.bundle.writer import writable_target
from ondevice.compiler import compile_bundle, export_onnx, writable_folder
from ondevice.converters.checkpoint import open_checkpoint
from ondevice.converters.component import Checkpoint
from ondevice.converters.families import FAMILIES as MODELS
from ondevice.converters.random_weights import random_checkpoint
from ondevice.diffusion.samplers import SAMPLERS
from ondevice.errors import UsageError
from ondevice.rewrite import ALL, FAMILIES
from ondevice.run.discovery import find_device
from ondevice.target import AUTO, Target, load_target, target_names, tuned_by
from ondevice.tuning import measured_for, read_tuning

HELP = "turn a checkpoint into a bundle"
log = logging.getLogger(__name__)
BAND = 64  # rows of pixels in which a decoder in bands works: an eighth of a 512x512 picture
DTYPES = {"fp16": "f16", "fp32": "f32"}
WEIGHTS = {"int8": "i8"}
NOT_IN_GRAPHS = dict.fromkeys(("--target", "--tuning", "--tune-for"), "is tuned for no target")
NOT_IN_GRAPHS |= dict.fromkeys(("--weights", "--dtype"), "here is float32") | {"--sampler": "has no sampler"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    add_model_arguments(parser)
    parser.add_argument(
        "--size", default="", metavar="WxH,...", help="picture sizes in pixels (default: the size the model was trained at)"
    )
    add_plan_arguments(parser)
    parser.add_argument(
        "--format", default="bundle", choices=["bundle", "onnx"], help="what to write; onnx: a folder of float32 graphs after the fusions"
    )
    parser.add_argument(
        "--tile-vae",
        type=int,
        nargs="?",
        const=BAND,
        default=0,
        metavar="ROWS",
        help=f"add plans that decode in bands of ROWS rows ({BAND} where no number is given), for `generate --tile-vae`",
    )
    parser.add_argument(
        "--sampler", choices=SAMPLERS, help="what the bundle draws with by default (default: the checkpoint's own, or the nearest)"
    )
    parser.add_argument("--strict", action="store_true", help="fail where a fallback is needed, and list all of them")
    parser.add_argument("--out", type=Path, metavar="DIR", help="what to write (default MODEL.ondevice, or MODEL-onnx)")
    parser.add_argument("--force", action="store_true", help="replace an existing bundle or folder of graphs")


def run(args: argparse.Namespace) -> int:
    """Write the bundle, or the folder of ONNX files, and print its path."""
    sizes = [cli.parse_size(text) for text in args.size.split(",")] if args.size else []
    given = {flag: getattr(args, flag[2:].replace("-", "_")) for flag in NOT_IN_GRAPHS}
    given["--dtype"] = args.dtype if args.dtype == "fp16" else None
    if args.format == "onnx" and (flag := next((flag for flag, got in given.items() if got), None)):
        what = f"an ONNX graph {NOT_IN_GRAPHS[flag]} (got {given[flag]})."
        raise UsageError(what, where=flag, fix=f"leave {flag} out, or write a bundle")
    out = args.out or Path(f"{args.model}-onnx" if args.format == "onnx" else f"{args.model}.ondevice")
    (writable_folder if args.format == "onnx" else writable_target)(out, args.force)  # before a download, not after it
    target = target_of(args)
    checkpoint = open_model(args)
    options = {"sizes": sizes, "without": args.without, "strict": args.strict, "force": args.force}
    with Bar() as bar:
        if args.format == "onnx":
            export_onnx(checkpoint, out, **options, progress=bar.show)
            print(out)
            return 0
        written = compile_bundle(
            checkpoint,
            out,
            dtype=DTYPES[args.dtype or "fp16"],
            target=target,
            weights_as=weights_of(args),
            tile_vae=args.tile_vae,
            sampler=args.sampler,
            **options,
            progress=bar.show,
        )
    print(written)
    return 0


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say how a model is compiled; other verbs take them, too."""
    parser.add_argument("--dtype", choices=DTYPES, help="storage of UNet and VAE (default fp16)")
    add_weights(parser)
    add_target(parser)
    add_without(parser)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """The flag that says how weights are stored; other verbs take it, too."""
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="store the larger weights of products and convolutions so, with a scale a column; CPU targets only (default: as --dtype says)",
    )


def weights_of(args: argparse.Namespace) -> str:
    """--weights as `lower` names it."""
    return WEIGHTS[args.weights] if args.weights else ""


def add_target(parser: argparse.ArgumentParser) -> None:
    """The flags that name a target and its tunables; other verbs take them, too."""
    parser.add_argument("--target", choices=(AUTO, *target_names()), help="what the plans are made for (default auto: this machine's CPU)")
    parser.add_argument(
        "--tuning", type=Path, metavar="FILE", help="measured tunables to prefer, as `ondevice tune --out FILE` writes them"
    )
    parser.add_argument("--tune-for", metavar="DEVICE", help="prefer the tunables measured for this device, or for its family")


def target_of(args: argparse.Namespace) -> Target:
    """The target that those flags name.

    Raises:
        OnDeviceError: a file or a device cannot be had.
    """
    target = load_target(args.target or AUTO)
    files = [read_tuning(args.tuning)] if args.tuning else []
    if args.tune_for:
        device = find_device(args.tune_for)
        found = measured_for(device.facts())
        if not found:
            log.warning("nothing was measured for %s; target %s keeps its own tunables", device.name, target.name)
        files += found
    return tuned_by(target, files)


def add_without(parser: argparse.ArgumentParser) -> None:
    """The flag that leaves fusions out; other verbs take it, too."""
    parser.add_argument(
        "--without",
        nargs="+",
        default=(),
        choices=(*FAMILIES, ALL),
        metavar="RULE",
        help=f"fusions to leave out: {', '.join(FAMILIES)}; all: every one",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The argument and the flags that name a model and its weights."""
    parser.add_argument("model", choices=sorted(MODELS), help="model family; `demo` is the small trained model inside the package")
    add_weight_arguments(parser)


def add_weight_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that name a model's weights; other verbs take them, too."""
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--checkpoint",
        metavar="PATH_OR_HUB_ID",
        help="diffusers folder, folder of ONNX files, .safetensors, .ckpt or hub id (default: the family's)",
    )
    weights.add_argument("--random-weights", type=int, metavar="SEED", help="make up full-size weights: for benchmarks and tests")
    parser.add_argument("--variant", metavar="NAME", help="weight files of a folder or hub id to take, such as fp16")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a hub id")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of a checkpoint that holds both")
    for flag, what in (("--vae", "VAE"), ("--text-encoder", "text encoder")):
        words = f"take the {what} from this file or diffusers folder; the checkpoint need not have one"
        parser.add_argument(flag, metavar="PATH", help=words)


def open_model(args: argparse.Namespace) -> Checkpoint:
    """The checkpoint that those flags name."""
    family = MODELS[args.model]
    if args.random_weights is not None:
        for flag, given in (("--vae", args.vae), ("--text-encoder", args.text_encoder)):
            if given is not None:
                raise UsageError("made-up weights have every part.", where=flag, fix=f"leave {flag} out")
        return random_checkpoint(family, args.random_weights)
    return open_checkpoint(
        args.checkpoint,
        family=family,
        variant=args.variant,
        revision=args.revision,
        ema=args.ema,
        vae=args.vae,
        text_encoder=args.text_encoder,
    )


class Bar:
    """One progress bar a phase, on stderr; silent where that is not a terminal."""

    def __init__(self) -> None:
        self._phase, self._done = "", 0
        self._bar = tqdm(disable=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, what: str, done: int, total: int) -> None:
        """Move the bar of phase `what` to `done` of `total`."""
        if what != self._phase:
            self._bar.close()
            self._phase, self._done = what, 0
            self._bar = tqdm(desc=what, total=total, file=sys.stderr, unit="", unit_scale=total > 10_000, leave=False, disable=None)
        self._bar.update(done - self._done)
        self._done = done


if __name__ == "__main__":
    raise SystemExit(cli.main_for("convert"))
