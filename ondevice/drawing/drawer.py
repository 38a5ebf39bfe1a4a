"""Draws what flags ask for, with models that stay open from one picture to the next."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice import __version__
from ondevice.api import Pipeline
from ondevice.bundle.format import MANIFEST
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.model_files import ModelFiles
from ondevice.diffusion.request import Picture, Request
from ondevice.diffusion.series import series_of
from ondevice.drawing import (
    adapters,
    control,
    engine,
    films,
    outputs,
    paths_of,
    pictures,
    refiner,
    replay,
    replay_flag,
    sampler,
    seed,
    text,
)
from ondevice.drawing.previews import Previews
from ondevice.drawing.progress import Progress
from ondevice.drawing.resume import Resumed, StateFile, keys_of


@dataclass(frozen=True, slots=True)
class Asked:
    """What the flags ask for, once it is known that it can be drawn.

    Attributes:
        model: what draws it, or begins it where there is a `refiner`.
        request: of the first picture.
        size: (width, height) in pixels.
        way: in how much memory.
        adapters: that its model draws with.
    """

    args: argparse.Namespace
    model: engine.Opened
    request: Request
    size: tuple[int, int]
    way: Way
    refiner: refiner.Refiner | None
    adapters: adapters.Asked


@dataclass(frozen=True, slots=True)
class Drawn:
    """One of the pictures that were asked for: `number` from 0 on, and all that its file says it was drawn with; of a
    film also its frames per second."""

    number: int
    picture: Picture
    parameters: dict[str, Any]
    scheduler: Mapping[str, Any]
    rate: float


class Drawer:
    """Draws for one set of flags of a run: its device or runtime, its memory, what is recorded.

    Raises:
        UsageError: flags that mean nothing to what draws.
    """

    def __init__(self, args: argparse.Namespace, recorded: engine.Recorded = engine.NOTHING) -> None:
        self._engine = engine.Opening(engine.engine_of(args, recorded))
        self._adapters = adapters.Known()

    def open(self, path: Path) -> engine.Opened:
        """The model at a path, which stays open. Raises OnDeviceError where it cannot be drawn with here."""
        return self._engine.open(path)

    def forget_mended(self) -> None:
        """As `engine.Opening.forget_mended`."""
        self._engine.forget_mended()

    def completed(self, args: argparse.Namespace) -> argparse.Namespace:
        """The flags with what the picture of --from says. Raises OnDeviceError as `replay.completed` and `open`."""
        return args if args.from_picture is None else replay.completed(args, self.open(args.bundle).files)

    def asked(self, args: argparse.Namespace) -> Asked:
        """What the flags ask for; files are read, and nothing is drawn.

        Raises:
            UsageError: something that cannot be had.
            OnDeviceError: a bundle cannot be read, or its pictures do not fit into memory.
        """
        given = pictures.read(args)
        model = self.open(args.bundle)
        fields = text.fields(args, bool(model.files.pipeline.texts)) | seed.fields(args)
        loras = self._adapters.read(args, model.files)
        fields |= sampler.fields(args, model.files.pipeline)
        numbers = control.numbers(args, model.files.pipeline) | fields["numbers"]
        fields["numbers"] = numbers | films.numbers(args, model.files.pipeline)
        size = pictures.picture_size(args, model.files, given)
        request = Request(**fields, **pictures.fields(args, given, size), decode_chunk=args.decode_chunk)
        way = model.way_of(request, adapters.changed(loras, model.files))
        end = None if args.refiner is None else refiner.Refiner.of(args, model.files, self._engine, request)
        return Asked(args, model, request, size, way, end, loras)

    def resumed(self, asked: Asked) -> Resumed:
        """What earlier runs left of these pictures, and what this one leaves."""
        args, end = asked.args, asked.refiner
        if not (args.checkpoint_every or args.resume):
            return Resumed(0, False, [], [])
        models = [asked.model] if end is None else [asked.model, end.model]
        model = " ".join([*(digest_of_model(one.files) for one in models), adapters.digest(asked.adapters)]).rstrip()
        begun = series_of(asked.request if end is None else end.begun, args.count)
        keys = [keys_of(request, asked.way, model, asked.model.runs_on) for request in begun]
        paths = [outputs.picture_path(args, number) for number in range(args.count)]
        mended = lambda: any(one.has_mended for one in models)  # noqa: E731
        return Resumed(args.checkpoint_every or 0, args.resume, paths, keys, mended)

    def draw(
        self,
        asked: Asked,
        resumed: Resumed | None = None,
        chosen: Sequence[int] = (),
        shown: Previews | None = None,
    ) -> Iterator[Drawn]:
        """The pictures, or those `chosen` by number from 0 on, each drawn when it is asked for (with a refiner, all are
        begun first), and `shown` on their way. Raises OnDeviceError as `Pipeline.draw`."""
        args, end, shown = asked.args, asked.refiner, shown or Previews()
        model, session, numbers = asked.model, asked.model.session(), chosen or range(args.count)
        progress, pipeline = Progress(len(numbers), args.steps, shown), Pipeline.of(model.files, session)
        shown.of(pipeline)

        def keepers(stage: int, goes_on: bool) -> list[StateFile | None]:
            return [None if resumed is None else resumed.keeper(number, stage, goes_on) for number in numbers]

        begin = asked.request if end is None else end.begun
        adapters.use(pipeline, asked.adapters)
        drawn = pipeline.draw_series(
            _only(numbers, begin, args.count), asked.way, progress.show, keepers(0, end is not None)
        )
        if end is not None:
            begun = list(progress.each(drawn))
            session.release_all()  # the two models are never in memory together
            drawn = end.finished(begun, _only(numbers, asked.request, args.count), progress, keepers(1, False), shown)
        for number, picture in zip(numbers, progress.each(drawn), strict=True):
            rate = films.rate_of(model.files.pipeline, asked.request.numbers)
            yield Drawn(number, picture, picture.parameters | about(model.files, args), model.files.scheduler, rate)
        if end is not None:
            end.model.session().release_all()


def _only(numbers: Sequence[int], request: Request, count: int) -> Iterator[Request]:
    """Those of a series of requests."""
    return (one for number, one in enumerate(series_of(request, count)) if number in numbers)


def digest_of_model(files: ModelFiles) -> str:
    """SHA-256 of what a model is: of a bundle's manifest, which has those of all its files, and its plans' target; of
    an export's, and the sizes and times of its files."""
    if isinstance(files, Bundle):
        return hashlib.sha256(files.files.read(MANIFEST) + files.target.encode()).hexdigest()
    found = sorted(path for path in files.path.rglob("*") if path.is_file())
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def check(args: argparse.Namespace) -> None:
    """Refuse flags of a picture that do not go together. Raises UsageError that names one."""
    pictures.check(args)
    control.check(args)
    seed.check(args)
    refiner.check(args)


def inputs(args: argparse.Namespace) -> dict[str, Path | None]:
    """The files that a picture is drawn from beside its model, by flag."""
    return (
        pictures.inputs(args)
        | adapters.paths(args)
        | paths_of(args, (*seed.INPUTS, *refiner.INPUTS))
        | {replay_flag.FLAG: args.from_picture}
    )


def about(files: ModelFiles, args: argparse.Namespace) -> dict[str, Any]:
    """What the picture's metadata say beside the pipeline's own parameters."""
    own = {"model": files.model["source"], "version": f"ondevice {__version__}"}
    return own | pictures.about(args) | seed.about(args)
