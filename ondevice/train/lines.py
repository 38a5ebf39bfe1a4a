"""Samples of part files and shards for torch's loader: batches of a run that begins, or goes on, at a step."""

from __future__ import annotations

import io
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ondevice.errors import UsageError
from ondevice.train.order import Share, mixed
from ondevice.train.part_files import Said, Sample, Stream, samples_of
from ondevice.train.pictures import Cut, Piece
from ondevice.train.samples import Item, item

log = logging.getLogger(__name__)
_TRIED = 1000  # pictures, one after the other, of which one must be readable
_NAMED = 100  # pictures that cannot be read and are named


@dataclass(slots=True)
class Lines(IterableDataset[list[Item]]):
    """The samples that one process takes, in batches of `share.batch`.

    A reader is one of torch's workers in one of the processes, and has part files of its own. Batch b of a process is
    its worker's b modulo their number, so that a run that goes on after some batches gets those that an unbroken one
    would have got: each reader goes on where it was, which takes reading but no decoding of pictures.

    Args:
        parts: part files of all processes.
        workers: of torch's loader; 0: this process reads.
        buffer: samples of a reader among which the next is drawn.
        read: the samples of a part.
        flag: what names the parts: for messages.
        first: the step that the run begins with, from 0 on.

    Raises:
        UsageError: there are fewer part files than readers.
    """

    parts: Sequence[Path] | Sequence[str]
    cut: Cut
    share: Share
    seed: int
    buffer: int
    workers: int
    read: Callable[[Any, Said], Iterator[Sample]] = samples_of
    flag: str = "file_list"
    first: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._stream(0)

    def _stream(self, worker: int) -> Stream:
        each = max(1, self.workers)
        reader = self.share.rank * each + worker
        return Stream(
            self.parts, reader, self.share.processes * each, self.seed, self.buffer, log.warning, self.read, self.flag
        )

    def __iter__(self) -> Iterator[list[Item]]:
        """Raises UsageError where a reader has no sample, or no picture can be read of very many."""
        info, each = get_worker_info(), max(1, self.workers)
        done = self.first * self.share.micro  # batches of this process
        worker = ((info.id if info else 0) + done) % each
        stream = self._stream(worker)
        taken = len(range(worker, done, each)) * self.share.batch
        samples = itertools.islice(stream, taken, None)
        said: set[str] = set()
        coming: deque[Sample] = deque()
        for number in itertools.count(taken):
            seed = mixed(self.seed, stream.reader, number)
            coming.extend(itertools.islice(samples, 1 - min(len(coming), 1)))
            piece, caption = self._readable(coming, samples, seed, said)
            coming.popleft()
            yield [item(piece, caption, seed)]

    def _readable(
        self, coming: deque[Sample], samples: Iterator[Sample], seed: int, said: set[str]
    ) -> tuple[Piece, str]:
        """The piece and the caption of the first of `coming`, which `samples` lengthen. In the place of one whose
        picture cannot be read stands the next that can be, which comes in its own place, too: so which sample has
        which number does not depend on what was decoded, and a run goes on without decoding."""
        for place in range(_TRIED):
            coming.extend(itertools.islice(samples, max(0, place + 1 - len(coming))))
            sample = coming[place]
            try:
                rng = np.random.default_rng(seed)
                piece = self.cut.read(io.BytesIO(sample.picture), sample.where, rng, sample.whole)
            except UsageError as error:
                if sample.where not in said and len(said) < _NAMED:
                    said.add(sample.where)
                    log.warning("%s: %s Left out", error.where, error.what)
                continue
            return piece, sample.caption
        what = f"none of {_TRIED} pictures, one after the other, can be read."
        raise UsageError(what, where=coming[0].where, fix="make the part files again")
