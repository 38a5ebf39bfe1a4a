"""Lines of a batch drawn by Ray's actors, each with a model and a session of its own.

Lines are handed out one at a time, so that a slow machine gets fewer. An actor that dies (its process killed, its
machine gone) is made again, and its line is drawn again, by whichever is free. Only the driver writes files: the bytes
of a picture come to it through Ray.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ondevice import errors
from ondevice.drawing import batch
from ondevice.drawing.drawer import Drawer
from ondevice.errors import DeviceError, OnDeviceError, UsageError

log = logging.getLogger(__name__)
WORKERS = 2
ATTEMPTS = 3  # of a line whose actors die
_ADDRESS = "127.0.0.1"
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "1"}  # nothing is reported to anybody


class Painter:
    """What an actor is: a model that draws the lines that it is given."""

    def __init__(self, args: argparse.Namespace, folder: str, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        os.chdir(folder)  # paths are meant from where the command was given
        self._args = args
        self._draws: Drawer | None = None

    def pid(self) -> int:
        """The process that draws."""
        return os.getpid()

    def draw(self, work: batch.Work) -> tuple[list[tuple[str, bytes]], tuple[str, str, str, str] | None]:
        """The files of a line; or the class and the parts of an error of ours, which no pickle would keep apart."""
        try:
            if self._draws is None:
                self._draws = Drawer(self._args)
            return batch.draw(work, self._draws), None
        except OnDeviceError as error:
            return [], (type(error).__name__, error.what, error.where, error.fix)


def results(todo: Sequence[batch.Work], args: argparse.Namespace) -> Iterator[batch.Result]:
    """What becomes of each line, in the order in which they are done.

    Raises:
        UsageError: Ray is not installed, or cannot be reached.
        DeviceError: actors die before they draw anything.
    """
    if not todo:
        return
    ray = _started(args.ray)
    try:
        yield from _results(ray, deque(todo), args)
    finally:
        ray.shutdown()


def _results(ray: Any, left: deque[batch.Work], args: argparse.Namespace) -> Iterator[batch.Result]:
    plain = argparse.Namespace(**{name: value for name, value in vars(args).items() if name != "run"})
    kept = {name: value for name, value in os.environ.items() if name.startswith(("ONDEVICE_", "OCL_", "CL_"))}
    actor = ray.remote(num_cpus=1, max_restarts=0)(Painter)

    def made() -> Any:
        return actor.remote(plain, os.getcwd(), kept)

    count = min(args.workers or WORKERS, len(left))
    idle, deaths = [made() for _ in range(count)], dict[int, int]()
    busy: dict[Any, tuple[Any, batch.Work]] = {}
    while left or busy:
        while left and idle:
            painter, work = idle.pop(), left.popleft()
            busy[painter.draw.remote(work)] = painter, work
        (done, *_), _ = ray.wait(list(busy), num_returns=1)
        painter, work = busy.pop(done)
        try:
            files, error = ray.get(done)
        except ray.exceptions.RayActorError:
            line = work.line.number
            deaths[line] = deaths.get(line, 0) + 1
            log.warning("line %d: what drew it has died; it is drawn again (%d of %d)", line, deaths[line], ATTEMPTS)
            idle.append(made())
            if deaths[line] < ATTEMPTS:
                left.appendleft(work)
            else:
                what = f"what drew it has died {ATTEMPTS} times."
                yield batch.Result(work, [], DeviceError(what, fix="draw it by itself, without --ray, to see why"))
            continue
        idle.append(painter)
        yield batch.Result(work, files, None if error is None else _error(*error))


def _error(name: str, what: str, where: str, fix: str) -> OnDeviceError:
    """An error of ours from its parts."""
    kind: type[OnDeviceError] = getattr(errors, name, OnDeviceError)
    return kind(what, where=where, fix=fix)


def _started(address: str) -> Any:
    """The module, connected. Raises UsageError where it is not there, or the cluster is not."""
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    try:
        import ray
    except ImportError:
        raise UsageError("Ray is not installed.", where="--ray", fix="pip install 'ondevice[ray]'") from None
    heard = signal.getsignal(signal.SIGTERM)
    own = {"include_dashboard": False, "_node_ip_address": _ADDRESS} if address == "local" else {}
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        what = f"Ray cannot be reached ({str(error)[:200]})."
        raise UsageError(what, where="--ray", fix="leave the address out to use this machine") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, heard)  # Ray takes it over
    return ray
