"""What a player must know of a model beside its plans."""

from __future__ import annotations

import os
from typing import Any

from ondevice.converters.component import Checkpoint
from ondevice.converters.families import family_of


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Becomes the bundle's `model` object."""
    text, unet, vae = (checkpoint.components[name].config for name in ("text_encoder", "unet", "vae"))
    return {
        "family": checkpoint.family,
        "guidance_scale": family_of(checkpoint.family).guidance_scale,
        # Its name alone: a bundle is given away, and the rest of the path is nobody's business.
        "source": os.path.basename(os.path.abspath(checkpoint.source)) or "unknown",
        "latent_channels": vae["latent_channels"],
        "max_tokens": text["max_position_embeddings"],
        "prediction_type": checkpoint.scheduler.get("prediction_type", "epsilon"),
        "sample_size": unet.get("sample_size"),
        "scaling_factor": vae["scaling_factor"],
        "text_width": text["hidden_size"],
        "vae_scale": 2 ** (len(vae["block_out_channels"]) - 1),
    }
