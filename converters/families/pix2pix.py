"""InstructPix2Pix: Stable Diffusion 1.x and XL whose UNet is also given the latents of a picture, which a text says how
to change."""

from __future__ import annotations

from functools import partial

from ondevice.converters.families import sd1, sdxl
from ondevice.converters.families.family import WITH_PICTURE
from ondevice.converters.families.pipelines import edited, text_to_image

FAMILIES = (
    sd1.sd1(
        "instruct-pix2pix",
        "timbrooks/instruct-pix2pix",
        title="Stable Diffusion 1.x InstructPix2Pix",
        joints=partial(sd1.joints, takes=WITH_PICTURE),
        pipelines=("StableDiffusionInstructPix2PixPipeline",),
        pipeline=lambda family, configs: edited(text_to_image(family, configs)),
        changes_scheduler=False,
    ),
    sdxl.sdxl(
        "sdxl-instruct-pix2pix",
        "diffusers/sdxl-instructpix2pix-768",
        title="Stable Diffusion XL InstructPix2Pix",
        joints=partial(sdxl.joints, takes=WITH_PICTURE),
        pipelines=("StableDiffusionXLInstructPix2PixPipeline",),
        pipeline=lambda family, configs: edited(sdxl.pipeline(family, configs)),
    ),
)
