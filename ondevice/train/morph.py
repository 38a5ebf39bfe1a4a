"""Morph one picture into another: a LoRA for each, both inverted, and frames drawn on the way between.

python -m ondevice.train morph --pretrained_model_name_or_path sd15-folder --image_a day.jpg --image_b night.jpg \\
    --prompt "a mountain lake" --output_dir lake

Each picture's LoRA is trained as `train lora` does, in output_dir/a and output_dir/b. The model is converted, to
output_dir/model.ondevice, and `ondevice morph` draws n_frames + 1 frames and films of them into output_dir/frames, the
first LoRA less and less, the other more and more: with that bundle and both files it can also be told to draw others.
After SingleZombie/DiffusersExample (LoRA/train_lora.py, LoRA/morph.py), whose defaults these are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.diffusion.samplers.inverse import INVERSIONS
from ondevice.errors import UsageError
from ondevice.train import common, lora
from ondevice.train.settings import NEEDED, Setting, changed

HELP = "a film from one picture to another, with a LoRA for each"
PICTURES = (
    Setting("image_a", NEEDED, str, "the picture to begin with", also=("img1_path",)),
    Setting("image_b", NEEDED, str, "the picture to end with", also=("img2_path",)),
    Setting("prompt", NEEDED, str, "what they show, or the first of them"),
    Setting("prompt_b", None, str, "what the other one shows (default: as prompt)"),
    Setting("resolution", 512, int, "side of the square that is cut out of the middle of each, in pixels", 8, 8192),
)
WAY = (
    Setting("n_frames", 10, int, "steps from one picture to the other; frames are one more", 1, 999),
    Setting("num_inference_steps", 50, int, "steps of each inversion and of each frame", 1, 1000),
    Setting("inversion", INVERSIONS[0], str, "how the pictures' noise is found (docs/morph.md)", choices=INVERSIONS),
    Setting("refine", 0, int, "do each step of an inversion so many times more", 0, 1000),
    Setting("fps", 10.0, float, "frames per second of the films", 0.1, 50),
)
SETTINGS = {
    "model": common.MODEL,
    "pictures": PICTURES,
    "LoRA": changed((lora.RANK, lora.TARGETS), rank=8),
    "length": changed(common.LENGTH, num_train_epochs=200, train_batch_size=1),
    "optimiser": common.OPTIMISER,
    "noise": changed(common.NOISE, noise_offset=0.1),
    "way": WAY,
    "machine": common.MACHINE,
    "output": common.OUTPUT,
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The settings. Raises UsageError for pictures that are not there."""
    for name in ("image_a", "image_b"):
        if not Path(getattr(settings, name)).is_file():
            what = "there is no such file."
            raise UsageError(what, where=f"--{name} {getattr(settings, name)}", fix="give a picture")
    return settings


def made(settings: argparse.Namespace) -> Path | None:
    """Train both, convert, and draw; the folder of the frames, in the process that writes it.
    Raises OnDeviceError for a model or pictures that cannot be read, and where there is nothing to draw on."""
    from ondevice.train.morphing import morphed

    return morphed(settings)
