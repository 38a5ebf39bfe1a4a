"""Train a Stable Video Diffusion, from nothing or further, on films: it makes a picture move.

python -m ondevice.train video --pretrained_model_name_or_path svd-folder --data_dir films --output_dir out \\
    --num_frames 14 --width 576 --height 320

`data_dir` holds films (animated WebP, GIF or PNG) and metadata.jsonl, a line {"file_name": "a.webp",
"motion_bucket_id": 127} for each, and "fps" where it is not that of the settings. What comes out is a diffusers folder,
for `convert svd --checkpoint`. Flags are those of SVD_Xtend's train_svd.py, where it has them.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ondevice.train import common
from ondevice.train.settings import NEEDED, Setting, changed

if TYPE_CHECKING:  # torch takes seconds to import
    from ondevice.train.engine import Engine, Job

HELP = "a model that makes pictures move, on films"
SETTINGS = {
    "model": (
        Setting(
            "pretrained_model_name_or_path",
            NEEDED,
            str,
            "what is trained further: a diffusers folder or a hub id, which may lack what is given beside it",
        ),
        Setting("vae_name_or_path", None, str, "another VAE: a folder or a hub id, also of a whole model, or demo"),
        Setting("unet_name_or_path", None, str, "another UNet; a config's .json: one at random"),
        Setting("image_encoder_name_or_path", None, str, "another image encoder; a config's .json: one at random"),
    ),
    "data": (
        Setting("data_dir", NEEDED, str, "folder of films and metadata.jsonl", also=("train_data_dir",)),
        Setting("num_frames", 14, int, "frames that are taken of each, from a random one on", 1, 1024),
        Setting("width", 1024, int, "pixels, to which films are made smaller or larger, and cut", 8, 8192),
        Setting("height", 576, int, "pixels", 8, 8192),
        Setting("fps", 7, int, "frames per second, where a film's line says nothing of it", 1, 1000),
        Setting("dataloader_num_workers", 0, int, "processes that read films; 0: the one that trains", 0, 256),
    ),
    "what learns": (Setting("train_image_encoder", False, bool, "the image encoder, too"),),
    "length": changed(common.LENGTH, train_batch_size=1),
    "optimiser": common.OPTIMISER,
    "noise": (
        Setting("noise_aug_strength", 0.02, float, "spread of noise in the picture that is made to move", 0),
        Setting(
            "conditioning_dropout_prob", 0.1, float, "part of the films whose picture is hidden, for guidance", 0, 1
        ),
        Setting("log_sigma_mean", 0.7, float, "of the logarithm of the noise's spread"),
        Setting("log_sigma_std", 1.6, float, "its spread", 0),
        Setting(
            "even_sigmas",
            0.0,
            float,
            "part of the films whose logarithm is drawn evenly, from the least to the most",
            0,
            1,
        ),
    ),
    "machine": common.MACHINE,
    "output": common.OUTPUT,
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The settings, which any value of goes with any other."""
    return settings


def job(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or films that cannot be read."""
    from ondevice.train.filming import filmed

    return filmed(settings, engine)
