"""Latent consistency models: Stable Diffusion 1.x whose UNet was distilled to draw in one to eight steps, in one pass:
how strongly the text guides is a number that it is told."""

from __future__ import annotations

from collections.abc import Iterator

from ondevice.converters.families import sd1
from ondevice.converters.families.family import Configs, Joint, Role, guidance_joint
from ondevice.converters.families.pipelines import text_to_image, told_guidance

ROLES = sd1.ROLES | {"guidance": Role("unet", "guidance", precise=True)}


def joints(configs: Configs) -> Iterator[Joint]:
    """As Stable Diffusion 1.x, and the UNet takes the guidance."""
    yield guidance_joint(configs, told=True)
    yield from sd1.shared_joints(configs)


FAMILIES = (
    sd1.sd1(
        "lcm",
        "SimianLuo/LCM_Dreamshaper_v7",
        title="Stable Diffusion 1.x LCM",
        roles=ROLES,
        joints=joints,
        pipelines=("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
        pipeline=lambda family, configs: told_guidance(text_to_image(family, configs)),
        changes_scheduler=False,
        guidance_scale=8.5,
        steps=4,
    ),
)
