"""Samples for torch's loader: a function of a position, whoever asks for it and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ondevice.train.order import Order, mixed
from ondevice.train.pictures import Cut, Piece, Sample

Item = dict[str, Any]
_CAPTION = 3  # of the seeds' kinds


@dataclass(frozen=True, slots=True)
class Pictures(Dataset[list[Item]]):
    """Pictures with captions, by position in the endless order of a seed.

    Args:
        own: what is learned.
        prior: pictures of a class, one beside each of these; empty: none.
    """

    own: Sequence[Sample]
    cut: Cut
    seed: int
    prior: Sequence[Sample] = ()

    def __len__(self) -> int:
        """An epoch's samples: every picture of either is taken."""
        return max(len(self.own), len(self.prior))

    def __getitem__(self, position: int) -> list[Item]:
        """The sample at a position, and that of the class."""
        place = Order(len(self), self.seed).at(position)
        return [
            self._item(samples[place % len(samples)], mixed(self.seed, position, kind))
            for kind, samples in enumerate((self.own, self.prior))
            if samples
        ]

    def _item(self, sample: Sample, seed: int) -> Item:
        caption = sample.told(mixed(seed, _CAPTION))
        return item(self.cut.of(sample.path, np.random.default_rng(seed)), caption, seed)


def item(piece: Piece, caption: str, seed: int) -> Item:
    """A sample of a batch."""
    sizes = torch.tensor([*piece.whole, *piece.corner])
    return {"pixels": torch.from_numpy(piece.pixels), "sizes": sizes, "caption": caption, "seed": seed}


def collated(samples: Sequence[list[Item]]) -> dict[str, Any]:
    """A batch: `pixels` float32 [N, 3, h, w], `sizes` int64 [N, 4] (height and width of the whole, top and left of the
    piece), `captions` and `seeds`; those of a class last."""
    items = [one for kind in zip(*samples, strict=True) for one in kind]
    return {
        "pixels": torch.stack([one["pixels"] for one in items]),
        "sizes": torch.stack([one["sizes"] for one in items]),
        "captions": [one["caption"] for one in items],
        "seeds": [one["seed"] for one in items],
    }
