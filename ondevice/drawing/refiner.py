"""The end of a picture by a second model, such as Stable Diffusion XL's refiner."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ondevice.api import Pipeline
from ondevice.diffusion import memory_budget
from ondevice.diffusion.loop_state import Keeper
from ondevice.diffusion.model_files import ModelFiles
from ondevice.diffusion.request import Picture, Request
from ondevice.drawing.engine import Engine, Opened
from ondevice.drawing.previews import Previews
from ondevice.drawing.progress import Progress
from ondevice.errors import UsageError

INPUTS = ("--refiner",)
START = 0.8  # of the schedule, as the model's makers draw with it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the refiner."""
    group = parser.add_argument_group("refiner")
    group.add_argument(
        "--refiner",
        type=Path,
        metavar="BUNDLE",
        help="a second model, such as SDXL's refiner, draws the end of the schedule; its latents are the first's",
    )
    group.add_argument(
        "--refiner-start",
        type=float,
        metavar="PART",
        help=f"of the schedule, from which on the refiner draws, above 0 and below 1 (default {START})",
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what does not go together. Raises UsageError that names the flag."""
    if args.refiner is None:
        if args.refiner_start is not None:
            raise UsageError("there is no refiner.", where="--refiner-start", fix="add --refiner, or leave it out")
        return
    if args.refiner_start is not None and not 0 < args.refiner_start < 1:
        what = f"not a part of the schedule (got {args.refiner_start:g}, expected above 0 and below 1)"
        raise UsageError(what, where="--refiner-start", fix=f"use {START}")
    if args.mask is not None:
        fix = "draw without --refiner"
        raise UsageError("the refiner draws all of the picture, and not what a mask says.", where="--mask", fix=fix)
    for flag in ("--profile", "--profile-out", "--trace"):
        if getattr(args, flag[2:].replace("-", "_")):
            fix = "leave it out, or draw with one of the bundles alone"
            raise UsageError("two models have a profile each.", where=flag, fix=fix)


def _start(args: argparse.Namespace) -> float:
    return START if args.refiner_start is None else float(args.refiner_start)


@dataclass(frozen=True, slots=True)
class Refiner:
    """What draws the end.

    Attributes:
        begun: the request of the model before it.
        request: its own, but for the latents.
        way: in how much memory it draws.
    """

    model: Opened
    begun: Request
    request: Request
    way: memory_budget.Way

    @classmethod
    def of(cls, args: argparse.Namespace, base: ModelFiles, engine: Engine, request: Request) -> Refiner:
        """The refiner that --refiner names, and what of `request` either model is asked.

        Both draw with the sampler and the steps that the first draws with, so that the latents mean the same to both.

        Raises:
            UsageError: a number that neither has, or a size that the refiner cannot draw.
            BundleError, PlanError: the bundle cannot be read, or its part of the picture does not fit into memory.
        """
        model = engine.open(args.refiner)
        theirs = {name: value for name, value in request.numbers.items() if name in model.files.pipeline.numbers}
        ours = {
            name: value
            for name, value in request.numbers.items()
            if name in base.pipeline.numbers or name not in theirs  # what neither has is refused by the first
        }
        shared = replace(
            request,
            sampler=request.sampler or base.pipeline.sampler,
            num_inference_steps=request.num_inference_steps or base.pipeline.steps,
        )
        begun = replace(shared, denoising_end=_start(args), numbers=ours)
        rest = replace(
            shared,
            image=None,
            pictures={},
            strength=None,
            latents=None,
            variation_seed=None,
            variation_strength=0.0,
            numbers=theirs,
        )
        return cls(model, begun, rest, model.way_of(rest))

    def finished(
        self,
        begun: Sequence[Picture],
        requests: Iterable[Request],
        progress: Progress,
        keepers: Iterable[Keeper | None],
        previews: Previews,
    ) -> Iterator[Picture]:
        """The pictures that the first model began, each finished when it is asked for.

        Args:
            requests: those that they were begun with, whose seeds go on.
            keepers: of the second model's loops, one for each.
            previews: show what this model draws from then on.
        """
        part = self.begun.denoising_end
        rest = [
            replace(self.request, latents=picture.latents, denoising_start=part, seed=request.seed)
            for picture, request in zip(begun, requests, strict=True)
        ]
        files = self.model.files
        pipeline = Pipeline.of(files, self.model.session())
        previews.of(pipeline)
        drawn = pipeline.draw_series(rest, self.way, progress.show, keepers)
        for first, last in zip(begun, drawn, strict=True):
            own = {name: value for name, value in first.parameters.items() if name != "denoising_end"}
            more = {**self.request.numbers, "refiner": files.model["source"], "refiner_start": part}
            yield replace(last, start=first.start, parameters=own | more)
