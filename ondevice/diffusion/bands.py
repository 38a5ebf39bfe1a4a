"""Decoding in bands: the decoder's stages (docs/bundle.md, "A decoder in bands") over pictures
that lie in the host's memory.

The same numbers as in one piece, but for rounding: a band has the rows that its convolutions look at, and norms get the
statistics of the whole picture. Of the pictures, only those that a later stage reads are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ondevice.bundle.stages import STATISTICS, Stage, check_fit, groups_of, stage_of
from ondevice.diffusion.values import Runner

__all__ = ["Stage", "bands", "decode", "held_bytes", "stage_of"]


def held_bytes(stages: Sequence[Stage]) -> int:
    """The most bytes of pictures that `decode` holds at a time, with one that is being made."""
    heights, sizes, most = (
        {stages[0].output: stages[0].made[1]},
        {stages[0].output: _bytes(stages[0], stages[0].made[1])},
        0,
    )
    for number, stage in enumerate(stages[1:], 2):
        later = stages[number:]
        least = min(stage.pictures, key=lambda name: heights[name])
        height = heights[least] * stage.made[1] // stage.inputs[least][1]
        dying = [name for name in stage.pictures if not any(name in other.inputs for other in later)]
        own_bytes = 0 if later and not any(stage.output in other.inputs for other in later) else _bytes(stage, height)
        reused = own_bytes if any(sizes.get(name) == own_bytes for name in dying) else 0
        most = max(most, sum(sizes.values()) + own_bytes - reused)
        sizes = {name: size for name, size in sizes.items() if name not in dying}
        heights[stage.output] = height
        if own_bytes:
            sizes[stage.output] = own_bytes
    return most


def _bytes(stage: Stage, height: int) -> int:
    return int(np.prod(stage.made[2:])) * height * stage.dtype.itemsize


def decode(session: Runner, stages: Sequence[Stage], latents: np.ndarray) -> np.ndarray:
    """Latents float32 [1, c, h, w], as the whole decoder takes them -> float32 [1, 3, H, W].

    Raises:
        BundleError: the stages do not fit each other.
    """
    check_fit(stages)
    first, *rest = stages
    pictures = {
        first.output: session.run(first.component, {next(iter(first.inputs)): latents}, **first.sizes)[first.output]
    }
    statistics = _whole(pictures[first.output], first.output, groups_of(first.output, rest))
    for number, stage in enumerate(rest):
        later = rest[number + 1 :]
        groups = groups_of(stage.output, later)
        kept = not later or any(stage.output in other.inputs for other in later)
        dying = [name for name in stage.pictures if not any(name in other.inputs for other in later)]
        result, sums = _run(session, stage, pictures, statistics, groups, kept, dying)
        pictures = {name: picture for name, picture in pictures.items() if name not in dying}
        if result is not None:
            pictures[stage.output] = result
        if sums is not None:
            statistics |= sums.result(stage.output)
    return np.ascontiguousarray(pictures[stages[-1].output].transpose(0, 3, 1, 2), dtype=np.float32)


def _run(
    session: Runner,
    stage: Stage,
    pictures: Mapping[str, np.ndarray],
    statistics: Mapping[str, np.ndarray],
    groups: int,
    kept: bool,
    dying: Sequence[str],
) -> tuple[np.ndarray | None, _Sums | None]:
    """All bands of one stage: the picture, if it is kept, and its sums, if it has `groups`.
    A picture that dies gives its memory."""
    least = min(stage.pictures, key=lambda name: pictures[name].shape[1])
    height, high = pictures[least].shape[1], stage.inputs[least][1]
    shape = (1, height * stage.made[1] // high, *stage.made[2:])
    scale = stage.made[1] // high
    picture = None
    if kept:
        free = (
            pictures[name] for name in dying if pictures[name].shape == shape and pictures[name].dtype == stage.dtype
        )
        picture = next((array for array in free if array.flags.writeable), None)
        picture = np.empty(shape, stage.dtype) if picture is None else picture
    sums = _Sums(groups, shape[-1]) if groups else None
    waiting: list[tuple[int, np.ndarray]] = []  # (first row, rows) that a band to come may still read as they were
    for start, begin, end in bands(height, high):
        inputs: dict[str, Any] = {name: array for name, array in statistics.items() if name in stage.inputs}
        for name in stage.pictures:
            by = stage.inputs[name][1] // high
            inputs[name] = pictures[name][:, start * by : (start + high) * by]
        result = session.run(stage.component, inputs, **stage.sizes)[stage.output]
        result = result[:, (begin - start) * scale : (end - start) * scale]
        if sums is not None:
            sums.add(result)
        if picture is not None:
            waiting.append((begin * scale, result))
            following = next((s for s, b, _ in bands(height, high) if b == end), height)
            while waiting and waiting[0][0] + waiting[0][1].shape[1] <= following * scale:
                row, rows = waiting.pop(0)
                picture[:, row : row + rows.shape[1]] = rows
    for row, rows in waiting:
        assert picture is not None
        picture[:, row : row + rows.shape[1]] = rows
    return picture, sums


def bands(height: int, high: int) -> list[tuple[int, int, int]]:
    """(first row, first row that is kept, end of those) of bands of `high` rows:
    a row at each inner edge is not kept."""
    found, end = [], 0
    while end < height:
        start = max(0, min(end - 1, height - high))
        begin, end = end, height if start + high >= height else start + high - 1
        found.append((start, begin, end))
    return found


class _Sums:
    """Mean and variance of a picture's groups, band by band: float64 sums around each channel's first value."""

    def __init__(self, groups: int, channels: int) -> None:
        self.groups, self.count = groups, 0
        self.origin: np.ndarray | None = None
        self.sum, self.square = np.zeros(channels), np.zeros(channels)

    def add(self, rows: np.ndarray) -> None:
        """Count [1, rows, width, channels]."""
        if self.origin is None:
            self.origin = rows[0, 0, 0].astype(np.float32)
        for row in rows[0]:
            off = row.astype(np.float32) - self.origin
            self.sum += off.sum(0)
            self.square += np.einsum("wc,wc->c", off, off)
        self.count += rows.shape[1] * rows.shape[2]

    def result(self, name: str) -> dict[str, np.ndarray]:
        """NAME:mean and NAME:variance, float32 [groups]."""
        assert self.origin is not None
        means, squares = self.sum / self.count, self.square / self.count
        variances = squares - means**2
        means = (means + self.origin).reshape(self.groups, -1)
        mean = means.mean(1)
        variance = variances.reshape(self.groups, -1).mean(1) + ((means - mean[:, None]) ** 2).mean(1)
        return dict(
            zip(
                (name + part for part in STATISTICS),
                (mean.astype(np.float32), variance.astype(np.float32)),
                strict=True,
            )
        )


def _whole(picture: np.ndarray, name: str, groups: int) -> dict[str, np.ndarray]:
    if not groups:
        return {}
    sums = _Sums(groups, picture.shape[-1])
    sums.add(picture)
    return sums.result(name)
