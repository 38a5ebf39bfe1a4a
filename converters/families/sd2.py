"""Stable Diffusion 2.x: as 1.x, with OpenCLIP's text encoder (ViT-H), which in diffusers' form ends one layer early."""

from __future__ import annotations

from typing import Any

from ondevice.converters.architectures import clip_text
from ondevice.converters.families import sd1
from ondevice.converters.families.family import Family, Part

PARTS = sd1.PARTS | {"text_encoder": Part(clip_text.CLIP_TEXT, "cond_stage_model.model.", clip_text.OPENCLIP)}


TURBO = {"guidance_scale": 0.0, "steps": 1}
"""What models that were distilled to draw in one to four steps without guidance are drawn with."""


def sd2(name: str, hub_id: str | None, **changes: Any) -> Family:
    """A family of this kind, whose configs are in its folder of models/; `changes` are to other fields of `Family`."""
    return sd1.sd1(name, hub_id, **{"title": "Stable Diffusion 2.x", "parts": PARTS} | changes)


FAMILIES = (
    sd2("sd21", "stabilityai/stable-diffusion-2-1"),
    sd2("sd21-base", "stabilityai/stable-diffusion-2-1-base"),
    sd2("sd-turbo", "stabilityai/sd-turbo", **TURBO),
)
