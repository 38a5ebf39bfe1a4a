"""Drives the workers: converts once, starts them, and runs each peer in turns with the first one.

Pairs, not a round of all: a turn of everybody would need everybody's memory at once (over 30 GB for a UNet), and
every ratio comes from one pair anyway. The first peer, ours unless `--only` says otherwise, stays loaded and takes
part in every pair; or, `apart`, is loaded before and after each other one, for models of which memory holds but one.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from ondevice.base.publish import published_file
from ondevice.errors import PeerError, UsageError
from ondevice.graph.inputs import inputs_of
from ondevice.measure import Say
from ondevice.measure.peers.client import Worker, command
from ondevice.measure.peers.figures import Measured, Turn, difference
from ondevice.measure.peers.peer import STAMP, Peer, Task, stamp
from ondevice.measure.peers.worker import CONVERT, SERVE

log = logging.getLogger(__name__)
# runs of each peer before those that count: the first touches memory, and some runtimes choose algorithms in it
WARMUP = 2
# before a turn: threads that spin when they have nothing to do (OpenMP's do for 0.2 s) must be asleep by then
PAUSE_S = 0.3
REFERENCE = "onnxruntime"  # whose output the others are compared with
Words = Callable[[str, Peer, Path, Sequence[int]], Sequence[str]]
T = TypeVar("T")


class Comparison:
    """One task on some cores, worked on in the folder `work`, where what was converted stays for the next time.

    After `run`, `skipped` has the reason of each peer that could not take part.

    Args:
        strict: a peer that cannot take part is an error.
        apart: one peer is loaded at a time.
        words: makes the command line of a worker; tests have their own.
    """

    def __init__(
        self,
        task: Task,
        work: Path,
        cores: Sequence[int],
        *,
        strict: bool = False,
        apart: bool = False,
        words: Words = command,
        pause_s: float = PAUSE_S,
        say: Say = log.info,
    ) -> None:
        self.task, self.cores, self.strict, self.apart = task, list(cores), strict, apart
        self.skipped: dict[str, str] = {}
        self._words, self._pause, self._say = words, pause_s, say
        self.folder = work.absolute() / task.key()

    def run(self, peers: Sequence[Peer], rounds: int) -> list[Measured]:
        """Convert for every peer, then time each in turns with the first.

        Args:
            rounds: turns that count, at least 3.

        Raises:
            PeerError: the first peer cannot take part; with `strict`, any.
            UsageError: the work folder cannot be written.
        """
        self._prepare()
        first, *others = peers
        self._ready(first)
        others = [peer for peer in others if self._tried(peer, partial(self._ready, peer))]
        found, outputs = [Measured(first)], {}
        if self.apart:
            outputs[first.name] = self._alone(found[0], -(-rounds // 2))
            for peer in others:
                measured = Measured(peer)
                if (output := self._tried(peer, partial(self._alone, measured, rounds))) is not None:
                    outputs[peer.name] = output
                    found.append(measured)
                    self._alone(found[0], -(-rounds // 2))
                    _compare(measured, found[0].turns[-2 * -(-rounds // 2) :])
        else:
            with self._start(first) as base:
                self._warm(base, found[0])
                for peer in others:
                    if pair := self._tried(peer, partial(self._pair, base, peer, rounds)):
                        base_turns, measured, outputs[peer.name] = pair
                        found[0].turns += base_turns
                        found.append(measured)
                if len(found) == 1:
                    found[0].turns += [self._turn(base) for _ in range(rounds)]
                outputs[first.name] = self._end(base, found[0])
        reference = REFERENCE if REFERENCE in outputs else first.name
        for measured in found:
            measured.difference = difference(outputs[measured.peer.name], outputs[reference], reference)
        return found

    def _prepare(self) -> None:
        """The task and its inputs, as workers read them."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "inputs.npz").is_file():
                inputs = inputs_of(self.task.graph())
                with published_file(self.folder / "inputs.npz") as file:
                    np.savez(file, **inputs)  # type: ignore[arg-type]
            self.task.write(self.folder / "task.json")
        except OSError as error:
            what = f"{self.folder} cannot be written: {error.strerror}."
            raise UsageError(what, where="--work", fix="name a folder that can") from None

    def _tried(self, peer: Peer, call: Callable[[], T]) -> T | None:
        """What `call` gives, or None with the reason kept."""
        try:
            return call()
        except PeerError as error:
            if self.strict:
                raise
            self.skipped[peer.name] = error.what
            self._say(f"{peer.name} is left out: {error.what}")
            return None

    def _ready(self, peer: Peer) -> bool:
        """Make what it reads, unless that is there and still what would be made. True, or PeerError."""
        stamped = self.folder / peer.files / STAMP
        with suppress(OSError, ValueError):
            if not peer.missing(to_run=True) and json.loads(stamped.read_text(encoding="utf-8")) == stamp(peer):
                return True
        if lacking := peer.missing():
            fix = 'run pip install "ondevice[peers,reference]"'
            raise PeerError(f"it needs {', '.join(lacking)}, which is not installed.", where=peer.name, fix=fix)
        self._say(f"converting for {peer.name}")
        with Worker(peer, self._words(CONVERT, peer, self.folder, self.cores), len(self.cores)) as worker:
            worker.finish()
        return True

    def _start(self, peer: Peer) -> Worker:
        return Worker(peer, self._words(SERVE, peer, self.folder, self.cores), len(self.cores))

    def _warm(self, worker: Worker, measured: Measured) -> None:
        self._say(f"loading {worker.peer.name}")
        loaded = worker.answer()
        measured.load_s, measured.once_s = loaded["loaded"], loaded["once"]
        for _ in range(WARMUP):
            self._turn(worker)

    def _turn(self, worker: Worker) -> Turn:
        """One run."""
        time.sleep(self._pause)
        answer = worker.ask("run")
        return Turn(answer["seconds"], answer["cpu_seconds"])

    def _pair(self, base: Worker, peer: Peer, rounds: int) -> tuple[list[Turn], Measured, np.ndarray]:
        """The base's turns, the peer's figures and its output.
        Who goes first changes from round to round, so that drift cancels."""
        measured, base_turns = Measured(peer), []
        with self._start(peer) as other:
            self._warm(other, measured)
            self._turn(base)  # its caches were another's while that one loaded
            self._say(f"{rounds} rounds of {base.peer.name} and {peer.name}")
            for number in range(rounds):
                turns = {worker: self._turn(worker) for worker in ((base, other) if number % 2 == 0 else (other, base))}
                base_turns.append(turns[base])
                measured.turns.append(turns[other])
                measured.ratios.append(turns[other].seconds / turns[base].seconds)
                # a clock may tick slower than a run takes
                measured.cpu_ratios.append(turns[other].cpu / max(turns[base].cpu, 1e-9))
            return base_turns, measured, self._end(other, measured)

    def _alone(self, measured: Measured, rounds: int) -> np.ndarray:
        """Turns of one peer while no other is loaded; gives its output."""
        with self._start(measured.peer) as worker:
            self._warm(worker, measured)
            self._say(f"{rounds} runs of {measured.peer.name}")
            measured.turns += [self._turn(worker) for _ in range(rounds)]
            return self._end(worker, measured)

    def _end(self, worker: Worker, measured: Measured) -> np.ndarray:
        """Its memory and its last output."""
        measured.peak = worker.ask("memory")["peak"]
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".output-") as folder:
            path = Path(folder) / "output.npy"
            worker.ask(f"save {path}")
            output: np.ndarray = np.load(path, allow_pickle=False)
        return output


def _compare(measured: Measured, base: Sequence[Turn]) -> None:
    """Ratios to the median of what the first peer took before and after it: no turn has one that ran beside it."""
    wall, cpu = (statistics.median(times) for times in zip(*((turn.seconds, turn.cpu) for turn in base), strict=True))
    measured.ratios += [turn.seconds / wall for turn in measured.turns]
    measured.cpu_ratios += [turn.cpu / max(cpu, 1e-9) for turn in measured.turns]
