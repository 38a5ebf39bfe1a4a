"""Which model numbers of its UNet give away, so that a refusal says what a checkpoint is and not only what it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BY_INPUTS = {9: "an inpainting model", 8: "InstructPix2Pix", 5: "a depth-to-image model", 7: "an upscaler"}
_BY_TEXT_WIDTH = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "Stable Diffusion XL's refiner",
    2048: "Stable Diffusion XL",
}


def generation(text_width: object) -> str | None:
    """The Stable Diffusion whose UNet looks at text of so many channels; None where none does."""
    return _BY_TEXT_WIDTH.get(text_width) if type(text_width) is int else None


def kind_of(in_channels: object, text_width: object) -> str | None:
    """What a UNet of these `in_channels` and `cross_attention_dim` draws, unless it is Stable Diffusion 1.x's text-to-image or unknown.

    Both may be anything that a config or a file of weights says.
    """
    kind = _BY_INPUTS.get(in_channels) if type(in_channels) is int else None
    of = generation(text_width)
    if kind is None:
        return None if text_width == 768 else of
    return f"{kind} of {of}" if of and text_width != 768 else kind


def kind_of_unet(config: Mapping[str, Any]) -> str | None:
    """The same from a UNet's config, which may hold anything."""
    if config.get("time_cond_proj_dim") is not None:
        return "a latent consistency model"
    return kind_of(config.get("in_channels", 4), config.get("cross_attention_dim"))
