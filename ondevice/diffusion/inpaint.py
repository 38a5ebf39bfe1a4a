"""Pictures of which a part is drawn anew: latents are put back outside of a mask, and pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ondevice.diffusion.samplers import SamplerTable

PutBack = Callable[[int, np.ndarray], np.ndarray]
"""Of the sample after a call (by number), the sample with the picture's own latents outside of the mask."""


def put_back(table: SamplerTable, mask: np.ndarray, clean: np.ndarray, noise: np.ndarray) -> PutBack:
    """For models that know nothing of masks: the picture's latents, as noisy as the next call takes them.

    Args:
        mask: float32 [1, 1, h, w], 1 where the picture is drawn anew.
        clean: float32 [1, channels, h, w], the picture's latents.
        noise: what the run began with.

    Reference: diffusers' StableDiffusionInpaintPipeline with a UNet of 4 channels.
    """
    outside = np.float32(1) - mask

    def put(call: int, sample: np.ndarray) -> np.ndarray:
        of_image, of_noise = (np.float32(factor) for factor in table.noised[call])
        return outside * (of_image * clean + of_noise * noise) + mask * sample

    return put


def outside_of(mask: np.ndarray, pixels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3]: `drawn` where the mask (bool [h, w]) is, elsewhere `pixels`."""
    return np.where(mask[..., np.newaxis], drawn, pixels)
