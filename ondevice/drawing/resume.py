"""A run that was killed goes on: states of its loop beside the pictures, and which of several are done.

Beside `a.png` lie `a.png.resume` and, of a picture that a refiner ends, `a.png.refiner.resume`; they go when the
picture is written. Of several pictures each leaves an `a-1.png.done.resume` then, until the last one is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import __version__
from ondevice.diffusion.files import check_outputs
from ondevice.diffusion.loop_state import Kept, LoopState, read_kept, write_kept
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.request import Request
from ondevice.diffusion.samplers import SamplerTable
from ondevice.drawing import outputs
from ondevice.errors import UsageError

log = logging.getLogger(__name__)
SUFFIX = ".resume"
STAGES = ("", ".refiner", ".done")  # of a picture; the last is that of one of several that is written
DONE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of runs that go on."""
    group = parser.add_argument_group("resume")
    group.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="K",
        help=f"keep the state after every K passes of the network beside the picture, as FILE{SUFFIX}",
    )
    group.add_argument(
        "--resume", action="store_true", help="go on from that state where there is one; the picture is the same"
    )


def check(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together. Raises UsageError that names one."""
    if args.checkpoint_every is not None and args.checkpoint_every < 1:
        what = f"there are no such passes (got {args.checkpoint_every}, expected 1 or more)."
        raise UsageError(what, where="--checkpoint-every", fix="use 5")
    for flag, given in (("--checkpoint-every", args.checkpoint_every is not None), ("--resume", args.resume)):
        if given and args.out is None:
            what = "the state lies beside the picture, whose name is not known."
            raise UsageError(what, where=flag, fix="name it with --out")
    if args.checkpoint_every is not None:
        check_outputs({"--checkpoint-every": _beside(outputs.picture_path(args, args.count - 1), 1)})


class Resumed:
    """What is kept of the pictures of one run.

    Args:
        every: passes of the network between two states; 0: none are written.
        resume: what lies there is gone on from.
        paths: of the pictures, one for each of the run.
        keys: hashes by name of what their states depend on, one set for each.
        mended: whether the run computes something otherwise by now than a new one would begin to: its states are not
            kept, and a run that goes on from an earlier one comes to the same place by itself.
    """

    def __init__(
        self,
        every: int,
        resume: bool,
        paths: Sequence[Path],
        keys: Sequence[Mapping[str, str]],
        mended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._every, self._resume, self._paths, self._keys, self._mended = every, resume, paths, keys, mended

    def keeper(self, number: int, stage: int, goes_on: bool) -> StateFile | None:
        """What keeps a stage of picture `number`; `goes_on`: another stage follows, and its last state is kept, too."""
        if not (self._every or self._resume):
            return None
        path = _beside(self._paths[number], stage)
        return StateFile(path, self._every, self._resume, self._keys[number], goes_on, self._mended)

    def done(self, number: int) -> list[Path]:
        """The files of a picture that an earlier run has written, if they are as it left them."""
        if not self._resume or not (path := _beside(self._paths[number], DONE)).exists():
            return []
        files = read_kept(path, self._keys[number]).files
        right = all(Path(name).name == name for name in files) and unchanged(path.parent, files)
        return [path.parent / name for name in files] if right else []

    def wrote(self, number: int, paths: Sequence[Path]) -> None:
        """Picture `number` is in these files."""
        if self._every and len(self._paths) > 1:
            files = {path.name: digest_of(path) for path in paths}
            write_kept(_beside(self._paths[number], DONE), Kept(self._keys[number], files=files))
        if self._every or self._resume:
            for stage in range(DONE):
                _remove(_beside(self._paths[number], stage))

    def over(self) -> None:
        """All pictures are written."""
        if self._every or self._resume:
            for path in self._paths:
                _remove(_beside(path, DONE))


class StateFile:
    """A file of states of one loop: a `Keeper`."""

    def __init__(
        self,
        path: Path,
        every: int,
        resume: bool,
        keys: Mapping[str, str],
        goes_on: bool,
        mended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path, self._every, self._resume, self._keys, self._goes_on = path, every, resume, keys, goes_on
        self._mended = mended

    def begin(self, table: SamplerTable, shape: tuple[int, ...]) -> LoopState | None:
        """The state that lies there."""
        if not self._resume or not self._path.exists():
            return None
        state = read_kept(self._path, self._keys, table, shape).state
        if state is not None:
            log.info("%s: going on after %d of %d passes", self._path, state.call, len(table.calls))
        return state

    def keep(self, state: LoopState, calls: int) -> None:
        """Written where it is time, or where what follows needs the last one."""
        last = state.call == calls
        if self._every and not self._mended() and (self._goes_on if last else state.call % self._every == 0):
            write_kept(self._path, Kept(self._keys, state))


def keys_of(request: Request, way: Way, model: str, device: str) -> dict[str, str]:
    """Hashes of all that the states of a request's loop depend on."""
    asked = {field.name: _hashable(getattr(request, field.name)) for field in fields(request)}
    parts = {
        "request": [asked, way.split],
        "model": model,
        "device or version of ondevice": [device, __version__],
    }
    return {name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in parts.items()}


def digest_of(path: Path) -> str:
    """SHA-256 of a file; empty where it cannot be read."""
    digest = hashlib.sha256()
    with suppress(OSError), path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
        return digest.hexdigest()
    return ""


def unchanged(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether files (name -> SHA-256) of a folder are there as they were written; one without a hash never is."""
    return all(hash_ and digest_of(folder / name) == hash_ for name, hash_ in files.items())


def _hashable(value: Any) -> Any:
    """A field of a request as JSON: of an array the hash of its numbers."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return {name: _hashable(one) for name, one in value.items()}
    return value


def _beside(path: Path, stage: int) -> Path:
    return path.with_name(f"{path.name}{STAGES[stage]}{SUFFIX}")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
