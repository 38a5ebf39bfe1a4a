"""The thread that draws. It owns the session, and is the process's main thread: signals reach it, so that Ctrl-C ends a
picture in the midst of a kernel as it does in `generate`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import __version__
from ondevice.api import Pipeline
from ondevice.base.process import signals
from ondevice.diffusion import memory_budget
from ondevice.diffusion.adapters import Loaded
from ondevice.diffusion.film import Timing, encoded_film
from ondevice.diffusion.picture_file import encoded
from ondevice.diffusion.png import encode_png
from ondevice.diffusion.previews import Preview, previewer
from ondevice.diffusion.request import Picture
from ondevice.diffusion.series import series_of
from ondevice.drawing.engine import Opened
from ondevice.drawing.films import rate_of
from ondevice.errors import OnDeviceError, UsageError
from ondevice.serving.gallery import Gallery
from ondevice.serving.jobs import DONE, FAILED, STOPPED, Job, Jobs, Stop

log = logging.getLogger(__name__)
_PNG, _FILM = Path("a.png"), Path("a.webp")  # all pictures are, and all films: browsers play them as pictures


class Painter:
    """Draws job after job.

    Args:
        opened: the model, whose session is made here.
    """

    def __init__(self, opened: Opened, jobs: Jobs, gallery: Gallery) -> None:
        self._opened, self._files, self._jobs, self._gallery = opened, opened.files, jobs, gallery
        session = opened.session()
        self._pipeline = Pipeline.of(opened.files, session)
        self._session = session
        self._used: list[tuple[Loaded, float | None]] | None = []  # None: what a switch that failed has left
        self._preview = self._previewer()

    def run(self) -> None:
        """Draw what comes, until a signal ends it (KeyboardInterrupt)."""
        while True:
            self.draw(self._jobs.take())

    def draw(self, job: Job) -> None:
        """Draw a job that was taken; whatever goes wrong with it is its own failure."""
        try:
            self._draw(job)
        except Stop:
            self._jobs.finish(STOPPED)
        except OnDeviceError as error:
            signals.raise_again()
            self._jobs.finish(FAILED, error)
        except Exception as error:
            signals.raise_again()
            log.exception("a picture failed")
            what = f"an error of ondevice's own ({type(error).__name__}: {error})"
            self._jobs.finish(FAILED, OnDeviceError(what, where="serve", fix="report it, with what the server printed"))
        else:
            self._jobs.finish(DONE)

    def _draw(self, job: Job) -> None:
        assert job.request is not None, "it is not over"
        self._use(job.adapters)
        way = self._opened.way_of(job.request, job.way.changed)  # this session's own; it was asked of another before
        watch = _Watch(self._jobs, job, None if way.unload else self._preview)
        drawn = self._pipeline.draw_series(series_of(job.request, job.count), way, watch.after_call)
        for picture in watch.each(drawn):
            self._keep(job, picture)

    def _use(self, adapters: Sequence[tuple[Loaded, float | None]]) -> None:
        """Draw with these adapters from now on."""
        if list(adapters) == self._used:
            return
        switched = self._pipeline.adapters
        self._used = None
        switched.unload()
        for one, _ in adapters:
            switched.load(one)
        switched.use([one.name for one, _ in adapters], [scale for _, scale in adapters])
        self._used = list(adapters)

    def _previewer(self) -> Preview | None:
        """What shows latents: as the model is made for, else by its own decoder where it works in one piece."""
        spec = self._files.pipeline
        try:
            return self._pipeline.previewer()
        except UsageError:
            own = replace(spec, fast=spec.after)
        try:
            return previewer(own, self._session, memory_budget.plan_sizes(self._files), "taesd")
        except UsageError:
            return None

    def _keep(self, job: Job, picture: Picture) -> None:
        """Write a picture where it was asked for."""
        assert picture.pixels is not None, "no other model goes on"
        own = {"model": self._files.model["source"], "version": f"ondevice {__version__}"}
        parameters: dict[str, Any] = picture.parameters | own | job.about
        if picture.frames is None:
            name, file = _PNG, encoded(_PNG, picture.pixels, parameters, self._files.scheduler)
        else:
            assert job.request is not None, "it is not over"
            timing = Timing(rate_of(self._files.pipeline, job.request.numbers))
            name, file = _FILM, encoded_film(_FILM, iter(picture.frames), len(picture.frames), timing, parameters)
        names = [self._gallery.add(file, name.suffix).name] if job.keep else []
        files = [file] if job.send else []
        self._jobs.report(pictures=[*job.pictures, *names], files=[*job.files, *files], infos=[*job.infos, parameters])


class _Watch:
    """Says how far a job is, and stops it."""

    def __init__(self, jobs: Jobs, job: Job, preview: Preview | None) -> None:
        self._jobs, self._job, self._preview = jobs, job, preview
        self._last = 0.0  # when the last call ended
        self._due = 0.0  # when the next preview is made

    def each(self, drawn: Iterator[Picture]) -> Iterator[Picture]:
        """The pictures, as they come."""
        for number in range(self._job.count):
            self._jobs.report(picture=number, step=0, steps=0, began=time.monotonic())
            picture = next(drawn)
            self._jobs.learn(self._job.size, time.monotonic() - self._last)
            yield picture

    def after_call(self, done: int, calls: int, timestep: float, latents: np.ndarray) -> None:
        """Of the network."""
        self._last = time.monotonic()
        shown = {} if self._last < self._due or done == calls else self._shown(latents)
        self._jobs.report(step=done, steps=calls, **shown)

    def _shown(self, latents: np.ndarray) -> dict[str, Any]:
        """A preview. What it takes is at most a fifth of the time; one that cannot be made is the last."""
        if self._preview is None:
            return {}
        try:
            data = encode_png(self._preview(latents), {})
        except OnDeviceError as error:
            signals.raise_again()
            log.warning("no more previews of this picture: %s", error)
            self._preview = None
            return {}
        now = time.monotonic()
        self._due = now + 4 * (now - self._last)
        return {"preview": data, "previews": self._job.previews + 1}
