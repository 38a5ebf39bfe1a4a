"""Distil an autoencoder into a tiny one, for previews and fast decoding (as TAESD was, of Stable Diffusion's).

python -m ondevice.train taesd --vae_name_or_path sd15-folder --file_list data.filelist.list --output_dir out
ondevice convert sd15 --taesd out/model

Both halves are learned of what the whole autoencoder makes of a batch: the encoder of means of latents, the decoder of
pictures of latents as the encoder gives them, with a little noise, as a UNet's have, and on the way from noise, as
previews show them. What comes out is a folder (AutoencoderTiny).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ondevice.train import common
from ondevice.train.pretrain import DATA
from ondevice.train.settings import NEEDED, Setting, changed

if TYPE_CHECKING:  # torch takes seconds to import
    from ondevice.train.engine import Engine, Job

HELP = "a tiny autoencoder, of a whole one"
SETTINGS = {
    "model": (
        Setting(
            "vae_name_or_path", NEEDED, str, "what is distilled: a folder or a hub id, also of a whole model, or demo"
        ),
        Setting(
            "taesd_name_or_path",
            None,
            str,
            "what learns: a folder or a hub id; a config's .json: one at random (default: one of TAESD's size)",
        ),
    ),
    "data": (*DATA, *common.PICTURES),
    "loss": (
        Setting("edge_weight", 3.0, float, "so much more weight has what is near edges of pictures", 0),
        Setting("latent_noise", 0.15, float, "spread of noise in latents that are decoded, at most", 0),
        Setting("on_the_way", 0.25, float, "part of the latents that are on the way from noise", 0, 1),
    ),
    "length": changed(common.LENGTH, train_batch_size=4, max_train_steps=10_000),
    "optimiser": common.OPTIMISER,
    "machine": common.MACHINE,
    "output": common.OUTPUT,
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The settings, which any value of goes with any other."""
    return settings


def job(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or part files that cannot be read."""
    from ondevice.train.tiny_autoencoding import tiny

    return tiny(settings, engine)
