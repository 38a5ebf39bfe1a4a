"""The step of an inpainting network: it sees a mask, and what of the picture stays, beside the noisy latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ondevice.train.draws import Draws
from ondevice.train.finetune import Finetune
from ondevice.train.masks import random_mask
from ondevice.train.order import mixed

_MASKS = 1  # of the seeds' kinds


def channels(latents: int) -> int:
    """Input channels of such a network over latents of so many: these, a mask, and latents again."""
    return 2 * latents + 1


class Inpainting(Finetune):
    """One batch's loss; masks are drawn at random, one for each picture."""

    def beside(self, batch: Mapping[str, Any], draws: Draws) -> torch.Tensor:
        """[N, 1 + c, h, w]: the mask at every latent's first pixel, and latents of the picture, grey under it."""
        pixels = batch["pixels"]
        rngs = [np.random.default_rng(mixed(seed, _MASKS)) for seed in batch["seeds"]]
        masks = np.stack([random_mask(rng, *pixels.shape[2:]) for rng in rngs])[:, None]
        covered = torch.from_numpy(masks).to(pixels.device)
        stays = self.latents(pixels.masked_fill(covered, 0.0), draws)
        down, across = (big // small for big, small in zip(pixels.shape[2:], stays.shape[2:], strict=True))
        return torch.cat([covered[..., ::down, ::across].float(), stays], 1)
