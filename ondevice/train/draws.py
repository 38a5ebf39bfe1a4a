"""Random numbers of a batch: of each sample from a generator of its own, so that they do not depend on what it is
trained beside, nor on which process it is in."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Draws:
    """Draws for the samples of a batch, in turn.

    Args:
        seeds: one for each sample.
        device: where the numbers are wanted; they are drawn on the CPU, and so the same everywhere.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = device

    def normal(self, *shape: int) -> torch.Tensor:
        """float32 [N, *shape] of unit spread."""
        return self._stacked([torch.randn(shape, generator=one) for one in self._generators])

    def uniform(self) -> torch.Tensor:
        """float32 [N] in 0..1."""
        return self._stacked([torch.rand((), generator=one) for one in self._generators])

    def below(self, limit: int) -> torch.Tensor:
        """int64 [N], each under `limit`."""
        return self._stacked([torch.randint(limit, (), generator=one) for one in self._generators])

    def among(self, often: torch.Tensor) -> torch.Tensor:
        """int64 [N]: places in `often`, float32 [n], each drawn as often as it says there, beside the others."""
        upto = often.double().cumsum(0)
        places = [
            torch.searchsorted(upto / upto[-1], torch.rand((), generator=one).double(), right=True)
            for one in self._generators
        ]
        return self._stacked(places).clamp(max=len(often) - 1)

    def _stacked(self, drawn: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(drawn).to(self._device)
