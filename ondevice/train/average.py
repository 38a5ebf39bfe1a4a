"""The average of weights over a run's steps, exponentially weighed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


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
        with torch.no_grad():
            own = {name: one.detach().clone() for name, one in self._trained.items()}
            for name, one in self._trained.items():
                one.copy_(self.values[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, one in self._trained.items():
                    one.copy_(own[name])
