"""Train an autoencoder, from nothing or further, on part files: pictures to latents and back.

python -m ondevice.train autoencoder --vae_name_or_path config.json --file_list pictures.filelist.list \\
    --resolution 128 --crop 64 --output_dir vae
python -m ondevice.train autoencoder --vae_name_or_path vae/model --file_list pictures.filelist.list \\
    --resolution 128 --edge_weight 3 --latent_noise 0.1 --output_dir finer

What comes out is a folder (AutoencoderKL) for `pretrain --vae_name_or_path`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ondevice.errors import UsageError
from ondevice.train import common
from ondevice.train.pretrain import DATA
from ondevice.train.settings import NEEDED, Setting, changed

if TYPE_CHECKING:  # torch takes seconds to import
    from ondevice.train.engine import Engine, Job

HELP = "an autoencoder, on part files of pictures"
LOSS = (
    Setting("l1_weight", 1.0, float, "of differences' sizes", 0),
    Setting("l2_weight", 2.0, float, "of their squares", 0),
    Setting(
        "kl_weight", 1e-6, float, "of how far latents are from noise of unit spread; little keeps pictures sharp", 0
    ),
    Setting("edge_weight", 0.0, float, "so much more weight has what is near edges", 0),
    Setting("latent_noise", 0.0, float, "spread of more noise in the latents, of unit spread, that are decoded", 0),
)
SETTINGS = {
    "model": (Setting("vae_name_or_path", NEEDED, str, "a folder or a hub id; a config's .json: one at random"),),
    "data": (
        *DATA,
        *common.PICTURES,
        Setting("crop", None, int, "train on squares of this side, out of the pictures, which are cheaper", 8, 8192),
    ),
    "loss": LOSS,
    "latents": (
        Setting(
            "fold_latents",
            True,
            bool,
            "in the end let latents have mean 0 and spread 1 / scaling_factor in every channel",
        ),
    ),
    "length": changed(common.LENGTH, train_batch_size=8, max_train_steps=10_000),
    "optimiser": common.OPTIMISER,
    "machine": common.MACHINE,
    "output": common.OUTPUT,
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The settings. Raises UsageError for squares that are larger than the pictures."""
    if settings.crop is not None and settings.crop > settings.resolution:
        what = (
            f"the squares are larger than the pictures (got {settings.crop}, expected {settings.resolution} or less)."
        )
        raise UsageError(what, where="--crop", fix="make it smaller")
    return settings


def job(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or part files that cannot be read."""
    from ondevice.train.autoencoding import autoencoded

    return autoencoded(settings, engine)
