"""The average of weights over a run's steps, exponentially weighed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from ondevice.base.process import signals


class Average:
    """Of parameters, by name.

    Args:
        trained: the parameters.
        decay: what of the average stays in a step; less in the first ones: (1 + n) / (10 + n).
    """

    def __init__(self, trained: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        self._trained, self._decay = trained, decay
        self.steps = 0
        self.values = {name: one.detach().clone().float() for name, one in trained.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after a step."""
        self.steps += 1
        kept = min(self._decay, (1 + self.steps) / (10 + self.steps))
        for name, one in self._trained.items():
            self.values[name].lerp_(one.detach().float(), 1 - kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the parameters are the average."""
        own = {name: one.detach().clone() for name, one in self._trained.items()}
        try:
            self._fill(self.values)
            yield
        finally:
            self._fill(own)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, torch.Tensor]) -> None:
        """Give the parameters these values: all of them, even where a signal comes."""
        with signals.Held():
            for name, one in self._trained.items():
                one.copy_(values[name])
