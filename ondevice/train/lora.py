"""Train a LoRA on pictures with captions.

python -m ondevice.train lora --pretrained_model_name_or_path sd15-folder --data_dir pictures --output_dir out --rank 8
python -m ondevice.train lora CONFIG.json

`data_dir` holds pictures and metadata.jsonl, a line {"file_name": "a.png", "text": "a cat"} for each. What comes out is
one .safetensors file for `convert --lora`, `generate --lora` and diffusers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ondevice.train import common
from ondevice.train.pictures import captioned
from ondevice.train.settings import NEEDED, Setting, changed

if TYPE_CHECKING:  # torch takes seconds to import
    from ondevice.train.engine import Engine, Job

HELP = "a LoRA, of pictures with captions"
TARGETS = Setting(
    "target_modules",
    ("to_k", "to_q", "to_v", "to_out.0"),
    str,
    "layers that get one, by the ends of their names",
    several=True,
)
RANK = Setting("rank", 4, int, "of the change of each layer", 1, 4096, also=("lora_rank",))
SETTINGS = {
    "model": (*common.MODEL, *common.VAE),
    "data": (
        Setting("data_dir", NEEDED, str, "folder of pictures and metadata.jsonl", also=("train_data_dir",)),
        *changed(common.BY_KIND, dataloader_num_workers=1),
    ),
    "LoRA": (RANK, TARGETS, Setting("ckpt_name", "pytorch_lora_weights", str, "the file's name, without its ending")),
    "what learns": common.TEXT_ENCODERS,
    "length": changed(common.LENGTH, num_train_epochs=200, train_batch_size=1),
    "optimiser": common.OPTIMISER,
    "noise": changed(common.NOISE, noise_offset=0.1),
    "flow": common.FLOW,
    "machine": common.MACHINE,
    "output": common.OUTPUT,
    "validation": common.VALIDATION,
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The settings, which any value of goes with any other."""
    return settings


def job(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or pictures that cannot be read."""
    from ondevice.train.adapting import adapted

    return adapted(settings, engine, captioned(Path(settings.data_dir), "data_dir"))
