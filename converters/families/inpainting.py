"""Inpainting: Stable Diffusion 1.x, 2.x and XL whose UNet is also given a mask and the latents of the picture without
what the mask covers."""

from __future__ import annotations

from functools import partial
from typing import Any

from ondevice.converters.families import sd1, sd2, sdxl
from ondevice.converters.families.family import WITH_MASK, Family
from ondevice.converters.families.pipelines import STRENGTH_OF_SDXL, inpainted, text_to_image

ONE_ENCODER: dict[str, Any] = {
    "joints": partial(sd1.joints, takes=WITH_MASK),
    "pipelines": ("StableDiffusionInpaintPipeline",),
    "pipeline": lambda family, configs: inpainted(text_to_image(family, configs)),
}
"""Fields of `Family` beside Stable Diffusion 1.x and 2.x."""


def sd1_inpaint(name: str, hub_id: str | None, **changes: Any) -> Family:
    """A family of this kind beside Stable Diffusion 1.x; `changes` are to other fields of `Family`."""
    return sd1.sd1(name, hub_id, title="Stable Diffusion 1.x inpainting", **ONE_ENCODER | changes)


FAMILIES = (
    sd1_inpaint("sd15-inpaint", "stable-diffusion-v1-5/stable-diffusion-inpainting"),
    sd1_inpaint("demo-inpaint", None, guidance_scale=2.0, preview=(), base=sd1.DEMO),
    sd2.sd2(
        "sd2-inpaint",
        "stabilityai/stable-diffusion-2-inpainting",
        title="Stable Diffusion 2.x inpainting",
        **ONE_ENCODER,
    ),
    sdxl.sdxl(
        "sdxl-inpaint",
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        title="Stable Diffusion XL inpainting",
        joints=partial(sdxl.joints, takes=WITH_MASK),
        pipelines=("StableDiffusionXLInpaintPipeline",),
        pipeline=lambda family, configs: inpainted(sdxl.pipeline(family, configs), STRENGTH_OF_SDXL),
        guidance_scale=7.5,
    ),
)
