"""Draws what flags ask for, with models that stay open from one picture to the next."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import __version__
from ondevice.api import Pipeline
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.model_files import ModelFiles
from ondevice.diffusion.request import Picture, Request
from ondevice.diffusion.series import series_of
from ondevice.drawing import engine, paths_of, pictures, refiner, sampler, seed, text
from ondevice.drawing.progress import Progress

GROUPS = (text, sampler, seed, pictures, refiner)
"""The flags that say what one picture is. All others are of the run that draws it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the flags ask for, once it is known that it can be drawn.

    Attributes:
        model: what draws it, or begins it where there is a `refiner`.
        request: of the first picture.
        size: (width, height) in pixels.
        way: in how much memory.
    """

    args: argparse.Namespace
    model: engine.Opened
    request: Request
    size: tuple[int, int]
    way: Way
    refiner: refiner.Refiner | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """One of the pictures that were asked for: `number` from 0 on, and all that its file says it was drawn with."""

    number: int
    picture: Picture
    parameters: dict[str, Any]
    scheduler: Mapping[str, Any]

    @property
    def frames(self) -> list[np.ndarray]:
        """uint8 [height, width, 3] each: the picture, or all of a film."""
        assert self.picture.pixels is not None, "no other model goes on"
        return [self.picture.pixels] if self.picture.frames is None else list(self.picture.frames)


class Drawer:
    """Draws for one set of flags of a run: its device or runtime, its memory.

    Raises:
        UsageError: flags that mean nothing to what draws.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._engine = engine.Opening(engine.engine_of(args))

    def open(self, path: Path) -> engine.Opened:
        """The model at a path, which stays open. Raises OnDeviceError where it cannot be drawn with here."""
        return self._engine.open(path)

    def asked(self, args: argparse.Namespace) -> Asked:
        """What the flags ask for; files are read, and nothing is drawn.

        Raises:
            UsageError: something that cannot be had.
            OnDeviceError: a bundle cannot be read, or its pictures do not fit into memory.
        """
        given = pictures.read(args)
        fields = text.fields(args) | seed.fields(args)
        model = self.open(args.bundle)
        fields |= sampler.fields(args, model.files.pipeline)
        size = pictures.picture_size(args, model.files, given)
        request = Request(**fields, **pictures.fields(args, given, size))
        way = model.way_of(request)
        end = None if args.refiner is None else refiner.Refiner.of(args, model.files, self._engine, request)
        return Asked(args, model, request, size, way, end)

    def draw(self, asked: Asked) -> Iterator[Drawn]:
        """The pictures, each drawn when it is asked for (with a refiner, all are begun first).
        Raises OnDeviceError as `Pipeline.draw`."""
        args, end = asked.args, asked.refiner
        model, session = asked.model, asked.model.session()
        progress = Progress(args.count, args.steps)
        begin = asked.request if end is None else end.begun
        drawn = Pipeline.of(model.files, session).draw_series(series_of(begin, args.count), asked.way, progress.show)
        if end is not None:
            begun = list(progress.each(drawn))
            session.release_all()  # the two models are never in memory together
            drawn = end.finished(begun, series_of(asked.request, args.count), progress)
        for number, picture in enumerate(progress.each(drawn)):
            yield Drawn(number, picture, picture.parameters | about(model.files, args), model.files.scheduler)
        if end is not None:
            end.model.session().release_all()


def check(args: argparse.Namespace) -> None:
    """Refuse flags of a picture that do not go together. Raises UsageError that names one."""
    pictures.check(args)
    seed.check(args)
    refiner.check(args)


def inputs(args: argparse.Namespace) -> dict[str, Path | None]:
    """The files that a picture is drawn from beside its model, by flag."""
    return pictures.inputs(args) | paths_of(args, (*seed.INPUTS, *refiner.INPUTS))


def about(files: ModelFiles, args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say beside the pipeline's own parameters."""
    own = {"model": files.model["source"], "version": f"ondevice {__version__}"}
    return own | pictures.about(args) | seed.about(args)
