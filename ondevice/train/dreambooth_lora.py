"""Teach a model a subject by a few pictures of it (DreamBooth), by a LoRA beside its network.

python -m ondevice.train dreambooth_lora --pretrained_model_name_or_path sd3-folder --instance_data_dir pictures \\
    --instance_prompt "a photo of sks dog" --output_dir out --rank 8

What comes out is pytorch_lora_weights.safetensors, for `convert --lora`, `generate --lora` and diffusers.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ondevice.train import common, dreambooth, lora
from ondevice.train.settings import Setting, changed

if TYPE_CHECKING:  # torch takes seconds to import
    from ondevice.train.engine import Engine, Job

HELP = "the same by a LoRA"
SETTINGS = dreambooth.SETTINGS | {
    "what learns": (lora.RANK, lora.TARGETS, *common.TEXT_ENCODERS),
    "optimiser": tuple(
        Setting("learning_rate", None, float, "at its highest (default 0.0005, of XL and 3 0.0001)", 0, 1e30)
        if one.name == "learning_rate"
        else one
        for one in common.OPTIMISER
    ),
    "output": changed(common.OUTPUT, output_dir="lora-dreambooth-model"),
}
checked = dreambooth.checked


def job(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or pictures that cannot be read."""
    from ondevice.train.subject import beside

    return beside(settings, engine)
