"""Teach a model a subject by a few pictures of it (DreamBooth, arXiv 2208.12242), all of its network.

python -m ondevice.train dreambooth --pretrained_model_name_or_path sd15-folder --instance_data_dir pictures \\
    --instance_prompt "a photo of sks dog" --output_dir out \\
    --with_prior_preservation --class_data_dir dogs --class_prompt "a photo of dog"

Pictures of the class that are missing in class_data_dir are drawn by the model itself. What comes out is a diffusers
folder, for `convert --checkpoint`.
"""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from ondevice.errors import UsageError
from ondevice.train import common
from ondevice.train.settings import NEEDED, Setting, changed

if TYPE_CHECKING:  # torch takes seconds to import
    from ondevice.train.engine import Engine, Job

HELP = "a subject, by a few pictures of it"
log = logging.getLogger(__name__)
SUBJECT = (
    Setting("instance_data_dir", NEEDED, str, "folder of pictures of the subject"),
    Setting("instance_prompt", NEEDED, str, "their caption, with a rare word for the subject"),
    Setting("repeats", 1, int, "how often each is taken in an epoch", 1),
    Setting(
        "with_prior_preservation", False, bool, "train pictures of the class beside them, so that it stays as it is"
    ),
    Setting("class_data_dir", None, str, "folder of pictures of the class, with or without a metadata.jsonl"),
    Setting("class_prompt", None, str, "the caption of these"),
    Setting("num_class_images", 100, int, "so many are needed; the model draws those that are missing", 1, 1 << 20),
    Setting("prior_loss_weight", 1.0, float, "of these pictures, beside the subject's", 0),
)
SETTINGS = {
    "model": (*common.MODEL, *common.VAE),
    "subject": SUBJECT,
    "pictures": common.BY_KIND,
    "what learns": common.TEXT_ENCODERS,
    "length": common.LENGTH,
    "optimiser": changed(common.OPTIMISER, learning_rate=5e-6),
    "noise": common.NOISE,
    "flow": common.FLOW,
    "machine": common.MACHINE,
    "output": changed(common.OUTPUT, output_dir="dreambooth-model"),
    "validation": common.VALIDATION,
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The settings. Raises UsageError where pictures of a class lack their folder or caption."""
    for name in ("class_data_dir", "class_prompt"):
        given = getattr(settings, name)
        if settings.with_prior_preservation and not given:
            what = "prior preservation needs pictures of a class and their caption."
            raise UsageError(what, where=f"--{name}", fix="give --class_data_dir and --class_prompt")
        if given and not settings.with_prior_preservation:
            log.warning("--%s does nothing without --with_prior_preservation", name)
    return settings


def job(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or pictures that cannot be read."""
    from ondevice.train.subject import whole

    return whole(settings, engine)
