"""A latent consistency model of Stable Diffusion XL: its UNet was distilled to draw in one to eight steps, in one pass,
and is told how strongly the text guides. The published one is a UNet alone."""

from __future__ import annotations

import functools

from ondevice.base.paths import MODELS
from ondevice.converters.families.lcm import GUIDANCE
from ondevice.converters.families.pipelines import told_guidance
from ondevice.converters.families.sdxl import ROLES, joints, pipeline, sdxl

FAMILIES = (
    sdxl(
        "lcm-sdxl",
        "stabilityai/stable-diffusion-xl-base-1.0",
        title="Stable Diffusion XL LCM",
        roles=ROLES | {"guidance": GUIDANCE},
        joints=functools.partial(joints, told=True),
        pipeline=lambda family, configs: told_guidance(pipeline(family, configs)),
        base=MODELS / "sdxl",
        apart={"unet": "latent-consistency/lcm-sdxl"},
        guidance_scale=8.0,
        steps=4,
    ),
)
