"""What was asked of a server: a bounded queue, one job that is drawn, and the last ones that are over.

All threads share it. Only the drawing thread takes jobs and says how far they are; others add and stop them.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ondevice.diffusion.adapters import Loaded
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.request import Request
from ondevice.errors import OnDeviceError

WAITING, DRAWING, DONE, FAILED, STOPPED = "waiting", "drawing", "done", "failed", "stopped"
OVER = (DONE, FAILED, STOPPED)
MOST_WAITING = 16  # jobs
REMEMBERED = 40  # jobs that are over: a page that is loaded again finds its own


@dataclass(slots=True, eq=False)
class Job:
    """One or more pictures that were asked for at once.

    Attributes:
        request: of the first picture; None once the job is over, for it may hold pictures.
        count: pictures, of this seed and the next ones.
        adapters: those that are drawn with, each with its scale; None: its own.
        about: what the pictures' metadata say beside the pipeline's own parameters.
        window: which page asked, if one did.
        keep: the pictures go to the gallery.
        send: their files are kept in `files` for whoever waits for them.
        picture: the one that is drawn now, from 0 on; step: calls of the network that it has had, of `steps`.
        preview: a PNG file of what was drawn last, on its way; `previews` counts them.
        pictures: names in the gallery of what is done.
        infos: the parameters of what is done.
    """

    request: Request | None
    way: Way
    count: int = 1
    adapters: Sequence[tuple[Loaded, float | None]] = ()
    about: dict[str, Any] = field(default_factory=dict)
    window: str = ""
    keep: bool = True
    send: bool = False
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    state: str = WAITING
    stopping: bool = False
    prompt: str = ""
    size: tuple[int, int] = (0, 0)
    picture: int = 0
    step: int = 0
    steps: int = 0
    began: float = 0.0  # of this picture, by time.monotonic()
    preview: bytes | None = None
    previews: int = 0
    error: OnDeviceError | None = None
    pictures: list[str] = field(default_factory=list)
    infos: list[dict[str, Any]] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What is to be known of its adapters: how much of each is for this model."""
        return [text for one, _ in self.adapters for text in (str(one), one.rest) if text]

    def progress(self) -> float:
        """0 to 1, of all its pictures."""
        if self.state != DRAWING:
            return float(self.state == DONE)
        part = self.step / self.steps if self.steps else 0.0
        return min((self.picture + part) / self.count, 1.0)


class Stop(Exception):
    """The picture that is drawn now is no longer wanted."""


class Jobs:
    """All of them. `changed` is called, on any thread and without the lock, after each change.

    Args:
        most: jobs that may wait.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None, most: int = MOST_WAITING) -> None:
        self._changed, self._most = changed, most
        self._waiting: deque[Job] = deque()
        self._drawing: Job | None = None
        self._over: OrderedDict[str, Job] = OrderedDict()
        self._there = threading.Condition()
        self._closed = False
        self._rests: dict[tuple[int, int], float] = {}  # seconds from the last call to the picture, by its size

    def add(self, job: Job) -> bool:
        """Whether there was room in the queue."""
        with self._there:
            if self._closed or len(self._waiting) >= self._most:
                return False
            self._waiting.append(job)
            self._there.notify_all()
        self._changed()
        return True

    def take(self) -> Job:
        """The next job, which is being drawn from now on; waits for one. For the drawing thread alone."""
        with self._there:
            while not self._waiting:
                self._there.wait()
            job = self._drawing = self._waiting.popleft()
            job.state, job.began = DRAWING, time.monotonic()
        self._changed()
        return job

    def report(self, **fields: Any) -> None:
        """Set fields of the job that is drawn. Raises Stop where it is to be stopped."""
        with self._there:
            job = self._drawing
            assert job is not None, "a job is drawn"
            for name, value in fields.items():
                setattr(job, name, value)
            stopping = job.stopping
        self._changed()
        if stopping:
            raise Stop

    def learn(self, size: tuple[int, int], seconds: float) -> None:
        """Remember how long it took from the network's last call to a picture of this size."""
        with self._there:
            self._rests[size] = seconds

    def finish(self, state: str, error: OnDeviceError | None = None) -> None:
        """The job that was drawn is over."""
        with self._there:
            if (job := self._drawing) is not None:
                self._drawing = None
                self._end(job, state, error)
        self._changed()

    def stop(self, name: str) -> bool:
        """Drop a job that waits, or end the one that is drawn after its step; whether there was one of that name."""
        with self._there:
            found = next((job for job in self._waiting if job.id == name), None)
            if found is not None:
                self._waiting.remove(found)
                self._end(found, STOPPED, None)
            elif self._drawing is not None and self._drawing.id == name:
                found = self._drawing
                found.stopping = True
        if found is not None:
            self._changed()
        return found is not None

    def stop_drawing(self) -> None:
        """End the job that is drawn, if one is."""
        if (job := self.drawing()) is not None:
            self.stop(job.id)

    def close(self) -> int:
        """Take nothing more, and drop what waits and what is drawn; how many jobs that were."""
        with self._there:
            self._closed = True
            dropped = [*([self._drawing] if self._drawing else []), *self._waiting]
            self._waiting.clear()
            self._drawing = None
            for job in dropped:
                self._end(job, STOPPED, None)
        self._changed()
        return len(dropped)

    def _end(self, job: Job, state: str, error: OnDeviceError | None) -> None:
        job.state, job.error, job.request, job.adapters = state, error, None, ()
        self._over[job.id] = job
        while len(self._over) > REMEMBERED:
            self._over.popitem(last=False)

    def find(self, name: str) -> Job | None:
        """The job of that name, if it is still known."""
        with self._there:
            present = [*([self._drawing] if self._drawing else []), *self._waiting]
            return next((job for job in present if job.id == name), self._over.get(name))

    def drawing(self) -> Job | None:
        """The job that is drawn now."""
        with self._there:
            return self._drawing

    def waiting(self) -> int:
        """How many jobs wait."""
        with self._there:
            return len(self._waiting)

    def seconds_left(self, job: Job) -> float | None:
        """Of the job that is drawn, for all its pictures; None before the first call of the network."""
        if not job.step:
            return None
        spent, rest = time.monotonic() - job.began, self._rests.get(job.size, 0.0)
        whole = spent / job.step * job.steps + rest
        return max(whole - spent, 0.0) + (job.count - job.picture - 1) * whole

    def state(self) -> dict[str, Any]:
        """All that a page shows of them, as JSON: those that are over first, then the one that is drawn, then those
        that wait, by their place in the queue."""
        with self._there:
            over, drawing, waiting = list(self._over.values()), self._drawing, list(self._waiting)
            rows = [self._row(job, 0) for job in over]
            rows += [] if drawing is None else [self._row(drawing, 0)]
            rows += [self._row(job, place) for place, job in enumerate(waiting, 1)]
        return {"jobs": rows, "closed": self._closed}

    def _row(self, job: Job, place: int) -> dict[str, Any]:
        left = self.seconds_left(job) if job.state == DRAWING else None
        return {
            "id": job.id,
            "window": job.window,
            "state": job.state,
            "stopping": job.stopping,
            "place": place,
            "prompt": job.prompt[:200],
            "width": job.size[0],
            "height": job.size[1],
            "count": job.count,
            "picture": job.picture,
            "step": job.step,
            "steps": job.steps,
            "progress": round(job.progress(), 4),
            "seconds_left": None if left is None else round(left, 1),
            "previews": job.previews,
            "pictures": list(job.pictures),
            "error": None if job.error is None else error_json(job.error),
        }


def error_json(error: OnDeviceError) -> dict[str, Any]:
    """An error as an answer has it: its class, all of its text as `detail`, and the parts of it."""
    return {
        "error": type(error).__name__,
        "detail": str(error),
        "where": error.where,
        "what": error.what,
        "fix": error.fix,
        "exit_code": error.exit_code,
    }
