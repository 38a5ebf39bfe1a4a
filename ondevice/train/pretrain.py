"""Train a network from nothing, or further, on part files: captions and pictures, many more than memory holds.

python -m ondevice.train create_pretraining_data --input_path rows.jsonl --output_path data
accelerate launch -m ondevice.train pretrain --file_list data/filelist/custom_dataset.filelist.list \\
    --pretrained_model_name_or_path sd15-folder --unet_name_or_path unet_config.json --resolution 256 --output_dir out

A line of a part is `caption TAB anything TAB base64 of a picture file`. What comes out is a diffusers folder, for
`convert --checkpoint`. A UNet with nine input channels learns inpainting, under random masks. Flags are those of
PaddleMIX's train_txt2img_laion400m_trainer.py; of timesteps and empty prompts those of diffusers'
train_text_to_image_sdxl.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ondevice.errors import UsageError
from ondevice.train import common
from ondevice.train.pictures import RESAMPLINGS
from ondevice.train.settings import NEEDED, Setting, changed, renamed

if TYPE_CHECKING:  # torch takes seconds to import
    from ondevice.train.engine import Engine, Job

HELP = "a network, on part files of captions and pictures"
MODEL = (
    Setting("vae_name_or_path", None, str, "another VAE: a folder or a hub id"),
    Setting("text_encoder_name_or_path", None, str, "another text encoder; a config's .json: one at random"),
    Setting("text_encoder_2_name_or_path", None, str, "another second one, of Stable Diffusion 3"),
    Setting(
        "unet_name_or_path",
        None,
        str,
        "another UNet, or MM-DiT; a config's .json: one that begins at random",
        also=("transformer_name_or_path",),
    ),
    Setting(
        "take_what_fits",
        False,
        bool,
        "a UNet of a config begins with those of the model's own weights that have its names and shapes",
    ),
    Setting("tokenizer_name", None, str, "another tokenizer"),
    Setting("model_max_length", None, int, "tokens that are read of a caption (default: the tokenizer's)", 1, 4096),
    Setting(
        "prediction_type",
        None,
        str,
        "what is learned (default: what the model's scheduler says)",
        choices=("epsilon", "v_prediction"),
    ),
)
DATA = (
    Setting("file_list", NEEDED, str, "part files, a path a line (.filelist), or lists of them (.filelist.list)"),
    Setting(
        "buffer_count",
        1000,
        int,
        "samples of each reader among which the next is drawn",
        1,
        1 << 20,
        also=("buffer_size",),
    ),
    Setting("num_records", 10_000_000, int, "samples that the logs call an epoch", 1),
)
RESAMPLED = (Setting("interpolation", "lanczos", str, "how pictures are made smaller or larger", choices=RESAMPLINGS),)
CAPTIONS = (
    Setting("proportion_empty_prompts", 0.0, float, "of captions that are left out, for guidance (0.1 is usual)", 0, 1),
)
LEARNS = (
    Setting("train_text_encoder", False, bool, "the text encoder, too"),
    Setting("unet_learning_rate", None, float, "of the UNet (default: learning_rate)", 0),
    Setting(
        "cross_attention_learning_rate", None, float, "of the UNet's layers that read texts (default: the UNet's)", 0
    ),
    Setting("text_encoder_learning_rate", None, float, "of the text encoder (default: learning_rate)", 0),
)
NOISE = (
    Setting("input_perturbation", 0.0, float, "of more noise, which is seen and not learned (0.1 is usual)", 0),
    Setting("snr_floor", 0.0, float, "steps with hardly any signal, whose ratio to noise is under this, weigh more", 0),
    Setting(
        "timestep_bias_strategy",
        "none",
        str,
        "which timesteps are drawn more often than the others",
        choices=("none", "earlier", "later", "range"),
    ),
    Setting("timestep_bias_multiplier", 1.0, float, "so many times as often", 1e-6),
    Setting("timestep_bias_portion", 0.25, float, "of earlier and later: part of all", 0, 1),
    Setting("timestep_bias_begin", 0, int, "of range: the first", 0),
    Setting("timestep_bias_end", 1000, int, "of range: where it ends", 1),
)
MACHINE = (
    Setting("bf16", False, bool, "as --mixed_precision bf16"),
    Setting("fp16", False, bool, "as --mixed_precision fp16"),
)
OUTPUT = (
    Setting("only_save_updated_model", True, bool, "checkpoints have what learns alone, as diffusers folders, not all"),
)
VALIDATION = (
    Setting("image_logging_steps", 1000, int, "pictures are drawn every so many steps, and at the end; -1: never", -1),
)
SETTINGS = {
    "model": (*changed(common.MODEL), *MODEL),
    "data": (*DATA, *CAPTIONS, *changed(common.PICTURES, dataloader_num_workers=6), *RESAMPLED),
    "what learns": LEARNS,
    "length": renamed(
        changed(common.LENGTH, train_batch_size=16, max_train_steps=200_000),
        train_batch_size="per_device_train_batch_size",
        max_train_steps="max_steps",
    ),
    "optimiser": renamed(
        changed(common.OPTIMISER, lr_warmup_steps=0),
        lr_scheduler="lr_scheduler_type",
        lr_warmup_steps="warmup_steps",
        adam_weight_decay="weight_decay",
    ),
    "noise": (*common.NOISE, *NOISE),
    "flow": common.FLOW,
    "machine": (*renamed(common.MACHINE, gradient_checkpointing="recompute"), *MACHINE),
    "output": (
        *renamed(common.OUTPUT, checkpointing_steps="save_steps", checkpoints_total_limit="save_total_limit"),
        *OUTPUT,
    ),
    "validation": (*common.VALIDATION, *VALIDATION),
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The settings. Raises UsageError for two precisions at once."""
    asked = {name for name in ("bf16", "fp16") if getattr(settings, name)}
    asked |= {settings.mixed_precision} - {None}
    if len(asked) > 1:
        what = f"there are several precisions (got {' and '.join(sorted(asked))})."
        raise UsageError(what, where="--mixed_precision", fix="give one of them")
    settings.mixed_precision = next(iter(asked), None)
    return settings


def job(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or part files that cannot be read."""
    from ondevice.train.pretraining import pretraining

    return pretraining(settings, engine)
