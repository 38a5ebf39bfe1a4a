"""Smaller and distilled forms of Stable Diffusion 1.x and XL: fewer blocks, or fewer steps, and nothing else.

Each names the folder of the model that it differs from; its own holds what differs. Where the numbers of its config
come from is in docs/families.md.
"""

from __future__ import annotations

from ondevice.base.paths import MODELS
from ondevice.converters.families.sd1 import sd1
from ondevice.converters.families.sd2 import TURBO
from ondevice.converters.families.sdxl import sdxl

_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_NEGATIVE = 9.0  # the guidance that Segmind's cards ask for, with a negative prompt

FAMILIES = (
    sd1("bk-sdm-base", "nota-ai/bk-sdm-base", base=MODELS / "sd14"),
    sd1("bk-sdm-small", "nota-ai/bk-sdm-small", base=MODELS / "sd14"),
    sd1("bk-sdm-tiny", "nota-ai/bk-sdm-tiny", base=MODELS / "sd14"),
    sd1("sdxs", "IDKiro/sdxs-512-dreamshaper", base=MODELS / "sd15", **TURBO),
    sdxl("ssd-1b", "segmind/SSD-1B", base=MODELS / "sdxl", guidance_scale=_NEGATIVE),
    sdxl("segmind-vega", "segmind/Segmind-Vega", base=MODELS / "sdxl", guidance_scale=_NEGATIVE),
    sdxl(
        "sdxl-lightning",
        _SDXL,
        base=MODELS / "sdxl",
        own_scheduler=True,
        apart={"unet": "sdxl_lightning_4step_unet.safetensors (or 2step, 8step) from ByteDance/SDXL-Lightning"},
        guidance_scale=0.0,
        steps=4,
    ),
    sdxl(
        "sdxl-lightning-1step",  # its UNet predicts the picture
        _SDXL,
        base=MODELS / "sdxl",
        own_scheduler=True,
        apart={"unet": "sdxl_lightning_1step_unet_x0.safetensors from ByteDance/SDXL-Lightning"},
        **TURBO,
    ),
    sdxl(
        "hyper-sd",
        _SDXL,
        base=MODELS / "sdxl",
        own_scheduler=True,
        apart={"unet": "Hyper-SDXL-1step-Unet.safetensors from ByteDance/Hyper-SD"},
        **TURBO,
    ),
)
