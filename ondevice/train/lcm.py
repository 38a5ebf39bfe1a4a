"""Distil a model into one that draws in a few steps: latent consistency distillation (arXiv 2310.04378).

python -m ondevice.train lcm --pretrained_teacher_model sd15-folder --output_dir out \\
    --train_shards_path_or_url 'data/{000..031}.tar'
python -m ondevice.train lcm_lora ...     # a LoRA (arXiv 2311.05556), for `convert --lora` and `--sampler lcm`

Data are WebDataset shards, or with --file_list part files. What comes out is a diffusers folder for `convert lcm
--checkpoint`. Flags are those of diffusers' train_lcm_distill_sd_wds.py and train_lcm_distill_sdxl_wds.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ondevice.errors import UsageError
from ondevice.train import common
from ondevice.train.settings import Setting, changed, renamed

if TYPE_CHECKING:  # torch takes seconds to import
    from ondevice.train.engine import Engine, Job

HELP = "a model that draws in a few steps, of one that takes many"
DATA = (
    Setting("train_shards_path_or_url", None, str, "tar files: a/{000..031}.tar, several behind ::"),
    Setting("file_list", None, str, "part files, as pretrain has them, instead"),
    Setting("allow_urls", False, bool, "shards may be at http and https addresses"),
    Setting("allow_pipes", False, bool, "shards may be pipe:COMMAND, a program that is run"),
    Setting("buffer_count", 1000, int, "samples of each reader among which the next is drawn", 1, 1 << 20),
    Setting("max_train_samples", 1_000_000, int, "samples that the logs call an epoch", 1),
)
FIXED = (Setting("use_fix_crop_and_size", False, bool, "tell XL that pictures are whole, and of the resolution"),)
DISTILLED = (
    Setting("w_min", 5.0, float, "guidance that the student learns, less one: the least"),
    Setting("w_max", 15.0, float, "and the most"),
    Setting("num_ddim_timesteps", 50, int, "timesteps of the teacher's path, of DDIM", 2, 1000),
    Setting("loss_type", "l2", str, "how far two guesses are apart", choices=("l2", "huber")),
    Setting("huber_c", 0.001, float, "where huber goes from squares to sizes", 0),
    Setting("timestep_scaling_factor", 10.0, float, "of the weights at the path's end", 0),
)
STUDENT = (
    Setting(
        "student_name_or_path",
        None,
        str,
        "the UNet that the student begins as; a config's .json: one with what fits of the teacher's weights (default: "
        "the teacher)",
    ),
    Setting("unet_time_cond_proj_dim", 256, int, "width of what the student is told of guidance", 4, 4096),
    Setting("ema_decay", 0.95, float, "what of the target's weights stays in a step", 0, 1),
)
OPTIMISER = tuple(one for one in common.OPTIMISER if one.name not in ("use_ema", "ema_decay"))
SETTINGS = {
    "model": renamed(
        (*common.MODEL, *common.VAE),
        pretrained_model_name_or_path="pretrained_teacher_model",
        revision="teacher_revision",
    ),
    "data": (*DATA, *changed(common.BY_KIND, center_crop=True), *FIXED),
    "distillation": DISTILLED,
    "student": STUDENT,
    "length": changed(common.LENGTH, train_batch_size=16, max_train_steps=1000),
    "optimiser": OPTIMISER,
    "machine": common.MACHINE,
    "output": changed(common.OUTPUT, output_dir="lcm-distilled"),
    "validation": (
        *changed(common.VALIDATION, num_inference_steps=4),
        Setting("validation_steps", 200, int, "pictures are drawn every so many steps, and at the end", 1),
    ),
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The settings. Raises UsageError for no data or two, and for bounds of guidance that are none."""
    if (settings.train_shards_path_or_url is None) == (settings.file_list is None):
        what = "the data are shards or part files, one of both."
        raise UsageError(what, where="--train_shards_path_or_url", fix="give it, or --file_list")
    if settings.w_min > settings.w_max:
        what = f"the least guidance is over the most (got {settings.w_min:g} and {settings.w_max:g})."
        raise UsageError(what, where="--w_min", fix="let --w_max be larger")
    settings.use_ema = hasattr(settings, "ema_decay")  # of the student's weights: the target
    return settings


def job(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or data that cannot be read."""
    from ondevice.train.distilling import distilled

    return distilled(settings, engine)
