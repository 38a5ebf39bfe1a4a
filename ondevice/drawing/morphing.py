"""A film on the way from one picture to another: the flags of `morph`, and what it does with them."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import __version__, flags
from ondevice.api import Pipeline
from ondevice.base.publish import check_space
from ondevice.diffusion import init_image
from ondevice.diffusion.files import check_outputs
from ondevice.diffusion.film import FORMATS, MOST_LOOPS, MP4, RATES, Timing, check_film, film_format, write_film
from ondevice.diffusion.frame_files import MADE, digest, read_frame
from ondevice.diffusion.image import FITS, fitted
from ondevice.diffusion.inversion import Inversion
from ondevice.diffusion.model_files import ModelFiles
from ondevice.diffusion.morph import Morph, parts_of_way, request_of_frames
from ondevice.diffusion.picture_file import write_picture
from ondevice.diffusion.request import Request
from ondevice.diffusion.samplers import SAMPLERS
from ondevice.diffusion.samplers.inverse import INVERSIONS
from ondevice.drawing import adapters, engine, file_name, memory, pictures, say, text
from ondevice.drawing.drawer import digest_of_model
from ondevice.drawing.progress import Progress
from ondevice.drawing.resume import keys_of
from ondevice.errors import UsageError

OUT = Path("morph")
FILM = "morph"  # the films' name in a folder
FRAMES = 11
MOST_FRAMES = 1000
_OTHERS = (".png", ".jpg", ".jpeg", ".apng", ".avif", ".webm", ".mov")  # what is no folder's name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of a morph."""
    parser.add_argument("bundle", type=Path, help="what `convert` or `pack` wrote")
    parser.add_argument("a", type=Path, metavar="A", help="the picture to begin with (PNG, JPEG, WebP, BMP, GIF, TIFF)")
    parser.add_argument("b", type=Path, metavar="B", help="the picture to end with")
    group = parser.add_argument_group("text")
    group.add_argument("--prompt", required=True, metavar="TEXT", help="what the pictures show, or the first of them")
    group.add_argument("--prompt-b", metavar="TEXT", help="what the last one shows (default: as --prompt)")
    group.add_argument("--negative", metavar="TEXT", help="what not to draw, where --guidance is above 1")
    text.add_reading(group)
    group = parser.add_argument_group("way")
    group.add_argument(
        "--frames",
        type=int,
        default=FRAMES,
        metavar="N",
        help=f"pictures to draw, both ends included (default {FRAMES})",
    )
    group.add_argument(
        "--steps", type=int, help="steps of each inversion and of each frame (default: the bundle's own, often 20)"
    )
    group.add_argument(
        "--inversion",
        choices=INVERSIONS,
        default=INVERSIONS[0],
        help=(
            "how the pictures' noise is found: inverse (the default) mirrors each of DDIM's steps, ddim goes from one "
            "of its timesteps to the next, own does that with the timesteps of the bundle's sampler"
        ),
    )
    group.add_argument(
        "--refine",
        type=int,
        default=0,
        metavar="K",
        help="do each step of an inversion K times more, which comes nearer to the pictures (default 0)",
    )
    group.add_argument(
        "--sampler", choices=SAMPLERS, help="what draws the frames (default ddim; with own, the bundle's)"
    )
    group.add_argument(
        "--guidance",
        type=float,
        metavar="SCALE",
        help="of the frames (default 1: none, as in the inversions; more is stronger, and further from the pictures)",
    )
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--size", metavar="WxH", help="size in pixels, one that the bundle holds (default: the nearest to A)"
    )
    group.add_argument("--fit", choices=FITS, help="how pictures of another shape become that size (default resize)")
    group.add_argument(
        "--background", metavar="COLOUR", help="what lies under transparent parts and is added by --fit pad"
    )
    adapters.add_arguments(parser)
    group = parser.add_argument_group("adapters between")
    for flag, how in (
        ("--lora-a", "less and less: at A it is at its scale, at B at none"),
        ("--lora-b", "more and more"),
    ):
        group.add_argument(flag, metavar="FILE_OR_NAME[:SCALE]", help=f"as --lora, but {how}")
    flags.add_strict(parser)
    group = parser.add_argument_group("outputs")
    group.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="PATH",
        help=(
            "a folder, for frame-01.png, frame-02.png... and morph.webp and morph.gif; a run that was stopped goes on "
            f"there; or a .webp, .gif or .mp4 file, for the film alone (default {OUT})"
        ),
    )
    group.add_argument(
        "--fps", type=float, default=10.0, help=f"frames per second, {RATES[0]:g} to {RATES[1]:g} (default 10)"
    )
    group.add_argument(
        "--loop", type=int, default=0, metavar="N", help=f"how often it plays, up to {MOST_LOOPS} (default 0: for ever)"
    )
    group.add_argument("--json", action="store_true", help="print each file's parameters as JSON")
    memory.add_arguments(parser)
    engine.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Invert both pictures, draw what is missing of the frames, write the films, and print the files' paths."""
    if not 2 <= args.frames <= MOST_FRAMES:
        what = f"out of range (got {args.frames}, expected 2 to {MOST_FRAMES})."
        raise UsageError(what, where="--frames", fix=f"use {FRAMES}")
    timing = Timing(args.fps, args.loop)
    places = Places.of(args.out, args.frames)
    check_outputs({str(path): path for path in places.written()}, {"A": args.a, "B": args.b}, args.bundle)
    ground = None if args.background is None else init_image.parse_colour(args.background)
    given = [init_image.read_image(path, ground or init_image.WHITE) for path in (args.a, args.b)]
    model = engine.engine_of(args).open(args.bundle)
    size = pictures.size_of(args, model.files, given[0], args.a)
    for film in places.films:
        check_film(film, args.frames, size)
    check_space(
        places.folder if places.folder.is_dir() else places.folder.parent,
        args.frames * size[0] * size[1] * 3,
        "the frames do",
        UsageError,
    )
    first, last = (fitted(pixels, *size, args.fit or FITS[0], ground) for pixels in given)
    inversion = Inversion(args.inversion, args.refine)
    request = request_of_frames(model.files.pipeline, model.files.scheduler, asked(args, size), inversion)
    args.lora, ends = loras(args)
    loaded = adapters.Known().read(args, model.files)
    session = model.session()
    way = model.way_of(replace(request, image=first), adapters.changed(loaded, model.files))
    pipeline = Pipeline.of(model.files, session)
    adapters.use(pipeline, loaded)

    def turn(part: float) -> None:
        names_and_scales = adapters.between(loaded, ends, part)
        pipeline.set_adapters([name for name, _ in names_and_scales], [scale for _, scale in names_and_scales])

    morph = Morph(pipeline, request, (first, last), args.prompt_b, inversion, way, turn if loaded else None)
    about = about_morph(args, model.files)
    depends = made_from(morph, model) | {"adapters": adapters.digest(loaded), "ends": ends}

    def show(path: Path, parameters: dict[str, Any]) -> None:
        print(json.dumps(parameters | {"out": str(path)}) if args.json else path, flush=True)

    drawn = Frames(morph, about, model.files.scheduler, depends).each(places.frames, show)
    of_film = {"prompt": request.prompt, "width": size[0], "height": size[1], "frames": len(drawn), **about}
    for path in places.films:
        write_film(path, iter(drawn), len(drawn), timing, of_film)
        show(path, of_film)
    return 0


def asked(args: argparse.Namespace, size: tuple[int, int]) -> Request:
    """The request of every frame, as far as the flags say it."""
    return Request(
        **text.fields(args),
        width=size[0],
        height=size[1],
        num_inference_steps=args.steps,
        sampler=args.sampler,
        guidance_scale=args.guidance,
    )


def loras(args: argparse.Namespace) -> tuple[list[str], list[int | None]]:
    """The values of --lora with those of --lora-a and --lora-b behind them, and the places of these two."""
    given, places = list(args.lora or ()), list[int | None]()
    for end in (args.lora_a, args.lora_b):
        places.append(None if end is None else len(given))
        given += [] if end is None else [end]
    return given, places


def about_morph(args: argparse.Namespace, files: ModelFiles) -> dict[str, Any]:
    """What files say of a morph, beside what they say of any picture."""
    own = {
        "morph_prompt": args.prompt_b,
        "refine": args.refine or None,
        "fit": args.fit,
        "background": args.background,
        "latents": f"between {file_name(args.a)} and {file_name(args.b)}",
        "inversion": args.inversion,
        "model": files.model["source"],
        "version": f"ondevice {__version__}",
    }
    return {name: value for name, value in own.items() if value is not None}


def made_from(morph: Morph, model: engine.Opened) -> dict[str, Any]:
    """All that frames depend on, but for adapters and the part of the way, for `frame_files.digest`."""
    return {
        **keys_of(morph.request, morph.way, digest_of_model(model.files), model.runs_on),
        "prompt": morph.prompt,
        "pictures": [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in morph.pictures],
        "inversion": asdict(morph.inversion),
    }


@dataclass(frozen=True, slots=True)
class Places:
    """Where a morph is written: the path of each frame, or None where only a film is kept, and its films."""

    folder: Path
    frames: tuple[Path | None, ...]
    films: tuple[Path, ...]

    @classmethod
    def of(cls, out: Path, count: int) -> Places:
        """What --out names, for so many frames: a film by its name, else a folder.
        Raises UsageError where there can be none."""
        if film_format(out) and not out.is_dir():
            return cls(out.parent, (None,) * count, (out,))
        if out.suffix.lower() in _OTHERS and not out.is_dir():
            known = ", ".join((*FORMATS, MP4))
            what = f"a morph is a folder or a film (got {out.suffix}, expected a folder, or {known})."
            raise UsageError(what, where=f"--out: {out}", fix=f"name it {out.stem}, or {out.stem}.webp")
        if not out.is_dir() and (os.path.lexists(out) or not os.access(out.parent, os.W_OK | os.X_OK)):
            fix = "name one in an existing, writable folder"
            raise UsageError("no folder can be made there.", where=f"--out: {out}", fix=fix)
        digits = max(2, len(str(count)))
        frames = tuple(out / f"frame-{number + 1:0{digits}}.png" for number in range(count))
        return cls(out, frames, tuple(out / f"{FILM}{ending}" for ending in FORMATS))

    def written(self) -> list[Path]:
        """Every file that is written to a folder that is there, or should be."""
        frames = [path for path in self.frames if path is not None]
        return [*frames, *self.films] if self.folder.is_dir() or not frames else []


class Frames:
    """The frames of a morph, each drawn unless an earlier run has left it in its place.

    Args:
        about: what files say of the morph.
        scheduler: the bundle's config, for WebUI's words.
        made_from: all that the frames depend on, but for the part of the way.
    """

    def __init__(
        self, morph: Morph, about: Mapping[str, Any], scheduler: Mapping[str, Any], made_from: Mapping[str, Any]
    ) -> None:
        self._morph, self._about, self._scheduler, self._made_from = morph, dict(about), scheduler, made_from

    def each(self, paths: Sequence[Path | None], shown: Callable[[Path, dict[str, Any]], None]) -> list[np.ndarray]:
        """Pixels, uint8[h, w, 3], of as many frames as there are paths; `shown` is told of each that is in its file."""
        parts = parts_of_way(len(paths))
        kept = [None if path is None else self._read(path, part) for path, part in zip(paths, parts, strict=True)]
        missing = sum(one is None for one in kept)
        if missing < len(kept):
            say(f"{len(kept) - missing} of {len(kept)} frames are there from an earlier run")
        progress = Progress(len(kept), self._morph.request.num_inference_steps)
        for end in (0, 1) if missing else ():
            with progress.named(f"inverting {'AB'[end]}"):
                self._morph.invert(end, progress.show)
        found: list[np.ndarray] = []
        for number, (path, part, one) in enumerate(zip(paths, parts, kept, strict=True)):
            if one is None:
                with progress.of(number):
                    one = self._drawn(part, path, progress)
            found.append(one[0])
            if path is not None:
                shown(path, one[1])
        return found

    def _read(self, path: Path, part: float) -> tuple[np.ndarray, dict[str, Any]] | None:
        request = self._morph.request
        assert request.width is not None and request.height is not None
        return read_frame(path, (request.width, request.height), self._of(part))

    def _drawn(self, part: float, path: Path | None, progress: Progress) -> tuple[np.ndarray, dict[str, Any]]:
        """A frame's pixels and parameters, once it is in its file, if it has one."""
        picture = self._morph.frame(part, progress.show)
        assert picture.pixels is not None, "no other model goes on"
        own = {"morph_part": part, MADE: digest(self._of(part), picture.pixels)}
        parameters = picture.parameters | self._about | own
        if path is not None:
            with suppress(OSError):  # what follows says why the picture cannot be written
                path.parent.mkdir(exist_ok=True)
            write_picture(path, picture.pixels, parameters, self._scheduler)
        return picture.pixels, parameters

    def _of(self, part: float) -> dict[str, Any]:
        return {**self._made_from, "part": part}
