"""Latent consistency models: Stable Diffusion 1.x whose UNet was distilled to draw in one to eight steps, in one pass:
how strongly the text guides is a number that it is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ondevice.converters.families import sd1
from ondevice.converters.families.family import Configs, Family, Joint, Role, guidance_joint
from ondevice.converters.families.pipelines import text_to_image, told_guidance

GUIDANCE = Role("unet", "guidance", precise=True)
ROLES = sd1.ROLES | {"guidance": GUIDANCE}


def joints(configs: Configs) -> Iterator[Joint]:
    """As Stable Diffusion 1.x, and the UNet takes the guidance."""
    yield guidance_joint(configs, told=True)
    yield from sd1.shared_joints(configs)


def lcm(name: str, hub_id: str | None, **changes: Any) -> Family:
    """A family of this kind; `changes` are to other fields of `Family`."""
    about: dict[str, Any] = {
        "title": "Stable Diffusion 1.x LCM",
        "roles": ROLES,
        "joints": joints,
        "pipelines": ("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
        "pipeline": lambda family, configs: told_guidance(text_to_image(family, configs)),
        "changes_scheduler": False,
        "steps": 4,
    }
    return sd1.sd1(name, hub_id, **about | changes)


FAMILIES = (
    lcm("lcm", "SimianLuo/LCM_Dreamshaper_v7", guidance_scale=8.5),
    lcm("demo-lcm", None, guidance_scale=2.0, preview=(), base=sd1.DEMO),
)
