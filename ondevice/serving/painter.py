"""The thread that draws. It owns the session, and is the process's main thread: signals reach it, so that Ctrl-C ends a
picture in the midst of a kernel as it does in `generate`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import __version__
from ondevice.api import Pipeline
from ondevice.base.process import signals
from ondevice.diffusion.adapters import Loaded
from ondevice.diffusion.picture_file import encoded
from ondevice.diffusion.request import Picture
from ondevice.diffusion.series import series_of
from ondevice.drawing.engine import Opened
from ondevice.errors import OnDeviceError
from ondevice.serving.gallery import Gallery
from ondevice.serving.jobs import DONE, FAILED, STOPPED, Job, Jobs, Stop

log = logging.getLogger(__name__)
_PNG = Path("a.png")  # all pictures are


class Painter:
    """Draws job after job.

    Args:
        opened: the model, whose session is made here.
    """

    def __init__(self, opened: Opened, jobs: Jobs, gallery: Gallery) -> None:
        self._files, self._jobs, self._gallery = opened.files, jobs, gallery
        self._pipeline = Pipeline.of(opened.files, opened.session())
        self._used = list[tuple[Loaded, float | None]]()

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
        watch = _Watch(self._jobs, job)
        drawn = self._pipeline.draw_series(series_of(job.request, job.count), job.way, watch.after_call)
        for picture in watch.each(drawn):
            self._keep(job, picture)

    def _use(self, adapters: Sequence[tuple[Loaded, float | None]]) -> None:
        """Draw with these adapters from now on."""
        if list(adapters) == self._used:
            return
        switched = self._pipeline.adapters
        self._used = []  # whatever happens on the way
        switched.unload()
        for one, _ in adapters:
            switched.load(one)
        switched.use([one.name for one, _ in adapters], [scale for _, scale in adapters])
        self._used = list(adapters)

    def _keep(self, job: Job, picture: Picture) -> None:
        """Write a picture where it was asked for."""
        assert picture.pixels is not None, "no other model goes on"
        own = {"model": self._files.model["source"], "version": f"ondevice {__version__}"}
        parameters: dict[str, Any] = picture.parameters | own | job.about
        names: list[str] = []
        files: list[bytes] = []
        for pixels in [picture.pixels] if picture.frames is None else picture.frames:
            file = encoded(_PNG, pixels, parameters, self._files.scheduler)
            names += [self._gallery.add(file).name] if job.keep else []
            files += [file] if job.send else []
        self._jobs.report(pictures=[*job.pictures, *names], files=[*job.files, *files], infos=[*job.infos, parameters])


class _Watch:
    """Says how far a job is, and stops it."""

    def __init__(self, jobs: Jobs, job: Job) -> None:
        self._jobs, self._job = jobs, job
        self._last = 0.0  # when the last call ended

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
        self._jobs.report(step=done, steps=calls)
