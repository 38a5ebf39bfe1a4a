"""Draw a picture from a bundle.

python -m ondevice.generate sd14.ondevice "a photo of an astronaut riding a horse on mars" --steps 20 --seed 1 --out a.png
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from ondevice import __version__, cli, memory
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.diffusion.bands import Stage
from ondevice.diffusion.image import read_image, write_png
from ondevice.diffusion.samplers import SAMPLERS
from ondevice.diffusion.text_to_image import TextToImage
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.errors import BundleError, UsageError
from ondevice.publish import published_file
from ondevice.run.device import Device
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.run.trace import to_trace
from ondevice.target import is_for_cpus

HELP = "draw a picture from a bundle"
log = logging.getLogger(__name__)
STRENGTH = 0.8  # of img2img, as in diffusers
MORE_OUTPUTS = ("--save-noise", "--save-latents", "--profile-out", "--trace")
LATENTS_LIMIT = 1 << 28  # bytes of a .npy file of latents; a 4096x4096 picture needs 4 MB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("bundle", type=Path, help="folder that `convert` wrote")
    parser.add_argument("prompt", help="what to draw")
    parser.add_argument("--negative", default="", metavar="TEXT", help="what not to draw")
    parser.add_argument("--steps", type=int, default=20, help="sampler steps (default 20)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="default: the bundle's own")
    parser.add_argument("--guidance", type=float, metavar="SCALE", help="guidance scale (default: the model's; 1 or less: none)")
    parser.add_argument("--eta", type=float, default=0.0, help="noise of the ddim sampler, 0 to 1 (default 0)")
    parser.add_argument("--karras", action="store_true", help="Karras noise levels, for the samplers that have them")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial noise, as torch's CPU generator takes it (default 0)")
    parser.add_argument("--size", metavar="WxH", help="picture size in pixels, one that the bundle holds (default: its first)")
    parser.add_argument("--init-image", type=Path, metavar="P", help="begin from a picture")
    parser.add_argument("--strength", type=float, help="how much of the init image is redrawn, 0 to 1 (default 0.8)")
    parser.add_argument("--latents", type=Path, metavar="FILE.npy", help="initial noise, float32 [1, channels, height/8, width/8]")
    parser.add_argument("--save-noise", type=Path, metavar="FILE.npy", help="write the initial noise, as --latents takes it")
    parser.add_argument("--save-latents", type=Path, metavar="FILE.npy", help="write the final latents, those that were decoded")
    parser.add_argument(
        "--tile-vae",
        type=int,
        nargs="?",
        const=0,
        metavar="ROWS",
        help="decode in bands, in a fraction of the memory: of ROWS rows, or the lowest that the bundle has (see `convert --tile-vae`)",
    )
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="use at most this much, such as 2GB: in more passes, in bands, giving weights back; or say why not",
    )
    parser.add_argument("--device", help="OpenCL device: number, part of its name, cpu or gpu (see `ondevice devices`)")
    parser.add_argument("--check", action="store_true", help="look for NaN after every dispatch and name the first op that made one (slow)")
    parser.add_argument("--profile", action="store_true", help="print where the time went, by kernel")
    parser.add_argument("--profile-out", type=Path, metavar="FILE.json", help="write the time of every dispatch, averaged over its runs")
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help="write when each launch ran, for Perfetto or chrome://tracing")
    parser.add_argument("--out", type=Path, default=Path("image.png"), help="PNG to write (default image.png)")
    parser.add_argument("--json", action="store_true", help="print the parameters as JSON")


def run(args: argparse.Namespace) -> int:
    """Draw, write the PNG and print its path."""
    if args.strength is not None and args.init_image is None:
        raise UsageError("there is no picture to begin from.", where="--strength", fix="add --init-image, or leave it out")
    check_outputs({"--out": args.out, **{flag: getattr(args, flag[2:].replace("-", "_")) for flag in MORE_OUTPUTS}})
    bundle = open_bundle(args.bundle)
    width, height = cli.parse_size(args.size) if args.size else default_size(bundle)
    device = choose_device(args.device)
    warn_of_target(bundle.model.get("target"), device)
    profile = args.profile or args.profile_out is not None
    session = Session(bundle, device, profile=profile, trace=args.trace is not None, check=args.check)
    options = {"eta": args.eta} if args.eta else {}
    options |= {"use_karras_sigmas": True} if args.karras else {}
    guidance = bundle.model["guidance_scale"] if args.guidance is None else args.guidance
    split = in_two_passes(bundle, guidance, width, height)
    way, stages = way_of(args, bundle, device.facts(), (width, height), guidance > 1, split)
    with tqdm(total=args.steps, desc="steps", file=sys.stderr, disable=None) as bar:
        picture = painter(bundle, session)(
            args.prompt,
            negative_prompt=args.negative,
            steps=args.steps,
            sampler=args.sampler,
            guidance_scale=guidance,
            split_guidance=way.split,
            tile_vae=stages,
            unload=way.unload,
            seed=args.seed,
            width=width,
            height=height,
            latents=None if args.latents is None else read_latents(args.latents),
            image=None if args.init_image is None else read_image(args.init_image),
            strength=STRENGTH if args.strength is None else args.strength,
            on_step=lambda done, total, _: show(bar, done, total),
            **options,
        )
    parameters = picture.parameters | about(bundle, args)
    write_png(args.out, picture.pixels, parameters)
    if args.save_noise is not None:
        write_output(args.save_noise, lambda file: np.save(file, picture.start))
    if args.save_latents is not None:
        write_output(args.save_latents, lambda file: np.save(file, picture.latents))
    if args.profile_out is not None:
        write_output(args.profile_out, lambda file: file.write(json.dumps(session.profile.to_json()).encode()))
    if args.trace is not None:
        write_output(args.trace, lambda file: file.write(json.dumps(to_trace(session.profile)).encode()))
    if args.profile:
        print(session.profile.to_table(), file=sys.stderr)
    print(json.dumps(parameters | {"out": str(args.out)}) if args.json else args.out)
    return 0


def warn_of_target(target: object, device: Device) -> None:
    """Say so where a GPU is to draw with kernels that leave all but a few of its cores idle."""
    if device.facts()["kind"] == "gpu" and is_for_cpus(target):
        log.warning("%s is a GPU and this bundle is tuned for a CPU; convert with --target gpu, or draw with --device cpu", device.name)


def way_of(
    args: argparse.Namespace, bundle: Bundle, facts: Mapping[str, Any], size: tuple[int, int], guided: bool, split: bool
) -> tuple[memory.Way, list[Stage] | None]:
    """How the picture is drawn in the memory that there is, and the decoder's stages where it works in bands; says so on stderr.

    Raises:
        UsageError: bands that the bundle has no plans for.
        PlanError: the picture does not fit.
    """
    scale = bundle.model["vae_scale"]
    width, height = (side // scale for side in size)
    way = memory.Way(split)
    if args.tile_vae is not None:
        have = memory.band_heights(bundle, width, height)
        way = replace(way, rows=args.tile_vae or (have[-1] if have else 0))
        memory.stages(bundle, width, height, way.rows)
    limit = memory.parse_bytes(args.max_memory) if args.max_memory else facts["global_bytes"]
    known = memory.entry_of(bundle, "vae_decoder", batch=1, height=height, width=width) is not None  # else the session says what is missing
    if limit and known and memory.entry_of(bundle, "unet", batch=1 if way.split or not guided else 2, height=height, width=width):
        mapped = bool(facts["maps_weights"])
        found = memory.fit(bundle, width, height, limit, mapped=mapped, guided=guided, image=args.init_image is not None, start=way)
        total = memory.mb(found.total(mapped=mapped))
        if args.max_memory:
            print(f"memory: {total} of {memory.mb(limit)} ({memory.parts_of(found, mapped)}); {found.way.text()}", file=sys.stderr)
        elif found.way != way:
            log.warning("%s has %s: %s, which needs %s", facts["name"], memory.mb(limit), found.way.text(), total)
        way = found.way
    return way, memory.stages(bundle, width, height, way.rows) if way.rows else None


def about(bundle: Bundle, args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say beside the pipeline's own parameters. Of files the name alone: pictures are given away."""
    files = {"init_image": args.init_image, "latents": args.latents}
    named = {name: path.name.encode(errors="replace").decode() for name, path in files.items() if path is not None}
    return {"model": bundle.model["source"], "version": f"ondevice {__version__}"} | named


def painter(bundle: Bundle, session: Session) -> TextToImage:
    """The pipeline that a bundle describes, on a session that runs it."""
    return TextToImage(
        session,
        Tokenizer.from_files(bundle.tokenizer_files()),
        bundle.scheduler,
        bundle.model["scaling_factor"],
        latent_channels=bundle.model["latent_channels"],
        scale=bundle.model["vae_scale"],
        size=default_size(bundle),
    )


def default_size(bundle: Bundle) -> tuple[int, int]:
    """(width, height) in pixels of the first UNet plan in the bundle."""
    sizes = next((entry.sizes for entry in bundle.plans if entry.component == "unet"), {})
    if not {"width", "height"} <= sizes.keys():
        raise BundleError("it has no plan of a unet with a width and a height.", where=str(bundle.path), fix="convert the checkpoint again")
    scale = bundle.model["vae_scale"]
    return sizes["width"] * scale, sizes["height"] * scale


def in_two_passes(bundle: Bundle, guidance: float, width: int, height: int) -> bool:
    """Whether guidance must run the UNet twice at batch 1: a bundle from an ONNX file of one batch has plans of that batch only.

    Raises:
        UsageError: there are plans of batch 2 only, which a picture without guidance cannot use.
    """
    scale = bundle.model["vae_scale"]
    place = {"height": height // scale, "width": width // scale}
    batches = {entry.sizes.get("batch") for entry in bundle.plans if entry.component == "unet" and entry.sizes.items() >= place.items()}
    if guidance <= 1 and batches == {2}:
        what = f"a picture without guidance needs the UNet at batch 1, and the bundle has it at batch 2 only (got guidance {guidance:g})."
        raise UsageError(what, where="--guidance", fix="use more than 1, or convert an export with a dynamic batch")
    if guidance > 1 and batches == {1}:
        log.warning("the bundle has the UNet at batch 1 only, so guidance takes two passes")
        return True
    return False


def show(bar: tqdm, done: int, total: int) -> None:
    """Move the bar. Some samplers call the network more often than once a step, so the total is set from what they report."""
    bar.total = total
    bar.update(done - bar.n)


def write_output(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write a file: all of it or nothing.

    Raises:
        UsageError: the disk or the folder refused it.
    """
    try:
        with published_file(path) as file:
            fill(file)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}.", where=str(path)) from None


def read_latents(path: Path) -> np.ndarray:
    """A .npy array; the pipeline checks its shape.

    Raises:
        UsageError: the file is missing, too large or not a plain array.
    """
    try:
        if path.stat().st_size > LATENTS_LIMIT:
            raise UsageError(f"it is {path.stat().st_size} bytes (expected at most {LATENTS_LIMIT}).", where=str(path))
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"no array can be read: {error}.", where=str(path), fix="save one with numpy.save") from None
    if not isinstance(array, np.ndarray):
        raise UsageError("it holds several arrays (expected one).", where=str(path), fix="save one with numpy.save")
    return array


def check_outputs(paths: Mapping[str, Path | None]) -> None:
    """Say so before the work, not after it, when a file cannot be written or would be written over at once.

    Raises:
        UsageError: the folder is missing or not writable, the path is a folder or a device, or two flags name one file.
    """
    flags: dict[str, str] = {}
    for flag, path in paths.items():
        if path is None:
            continue
        if (path.exists() and not path.is_file()) or not os.access(path.absolute().parent, os.W_OK):
            raise UsageError("no file can be written there.", where=str(path), fix="name a file in an existing, writable folder")
        if (other := flags.setdefault(os.path.realpath(path), flag)) != flag:
            raise UsageError(f"{other} and {flag} name the same file.", where=str(path), fix="name two files")


if __name__ == "__main__":
    raise SystemExit(cli.main_for("generate"))
