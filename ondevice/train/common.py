"""Settings that several recipes have, by group. Recipes give some of them other defaults (`settings.changed`)."""

from __future__ import annotations

from dataclasses import replace

from ondevice.train.settings import NEEDED, Setting

RATES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")

MODEL = (
    Setting(
        "pretrained_model_name_or_path",
        NEEDED,
        str,
        "what is trained further: a diffusers folder, a hub id, or demo, the model inside the package",
    ),
    Setting("revision", None, str, "branch, tag or commit of a hub id"),
    Setting("variant", None, str, "weight files to take, such as fp16"),
)
VAE = (Setting("pretrained_vae_model_name_or_path", None, str, "another VAE: a folder or a hub id"),)
PICTURES = (
    Setting("resolution", 512, int, "side of the square that is cut out of each picture, in pixels", 8, 8192),
    Setting("center_crop", False, bool, "cut it out of the middle instead of at random"),
    Setting("random_flip", False, bool, "mirror every other picture, at random"),
    Setting("dataloader_num_workers", 0, int, "processes that read pictures; 0: the one that trains", 0, 256),
)
BY_KIND = tuple(
    replace(one, default=None, about=f"{one.about} (default 512, of Stable Diffusion XL 1024)")
    if one.name == "resolution"
    else one
    for one in PICTURES
)
"""PICTURES, of a size that the kind of model decides where it is left open."""
TEXT_ENCODERS = (
    Setting("train_text_encoder", False, bool, "the text encoders, too (not those of Stable Diffusion 3)"),
    Setting(
        "text_encoder_lr",
        None,
        float,
        "their learning rate (default: learning_rate)",
        0,
        1e30,
        also=("text_encoder_learning_rate",),
    ),
)
LENGTH = (
    Setting("num_train_epochs", 1, int, "how often each picture is taken", 1, also=("n_epochs",)),
    Setting("max_train_steps", None, int, "steps in all, instead of epochs", 1),
    Setting("train_batch_size", 4, int, "pictures per process at a time", 1, 65536),
    Setting("gradient_accumulation_steps", 1, int, "batches per step", 1, 65536),
    Setting("seed", None, int, "of all that is random (default: one is drawn, and said)", 0, 2**63 - 1),
)
OPTIMISER = (
    Setting("learning_rate", 1e-4, float, "at its highest", 0, 1e30),
    Setting("scale_lr", False, bool, "multiply it by processes, batches per step and pictures per batch"),
    Setting("lr_scheduler", "constant", str, "how it goes on", choices=RATES, also=("lr_scheduler_name",)),
    Setting("lr_warmup_steps", 500, int, "steps in which it rises, where lr_scheduler has such", 0),
    Setting("lr_num_cycles", 1, int, "restarts of cosine_with_restarts", 1),
    Setting("lr_power", 1.0, float, "of polynomial", 0),
    Setting("adam_beta1", 0.9, float, "of AdamW", 0, 1),
    Setting("adam_beta2", 0.999, float, "of AdamW", 0, 1),
    Setting("adam_weight_decay", 1e-2, float, "of AdamW", 0),
    Setting("adam_epsilon", 1e-8, float, "of AdamW", 0),
    Setting("max_grad_norm", 1.0, float, "gradients are scaled to this length where they are longer; 0: never", 0),
    Setting("use_ema", False, bool, "write the weights' average over time instead of the last ones"),
    Setting("ema_decay", 0.9999, float, "what of the average stays in a step, in the end", 0, 1),
)
MACHINE = (
    Setting(
        "mixed_precision",
        None,
        str,
        "what products are computed in (default: what accelerate is set to)",
        choices=("no", "fp16", "bf16"),
    ),
    Setting("gradient_checkpointing", False, bool, "compute some of the forward pass again, to need less memory"),
    Setting("ddp_timeout", 1800, int, "seconds until several processes give up one that does not answer", 1, 1 << 24),
    Setting(
        "enable_xformers_memory_efficient_attention",
        False,
        bool,
        "is read and changes nothing: torch's own attention is as sparing",
    ),
)
NOISE = (
    Setting("noise_offset", 0.0, float, "of a number per channel that is added to the noise", 0),
    Setting("snr_gamma", None, float, "weights of steps with little noise are held down by this (5 is usual)", 0),
)
FLOW = (
    Setting(
        "weighting_scheme",
        "sigma_sqrt",
        str,
        "of Stable Diffusion 3: how much noise is drawn (logit_normal, mode), or how it weighs (sigma_sqrt, cosmap)",
        choices=("sigma_sqrt", "logit_normal", "mode", "cosmap", "none"),
    ),
    Setting("logit_mean", 0.0, float, "of logit_normal"),
    Setting("logit_std", 1.0, float, "of logit_normal", 0),
    Setting("mode_scale", 1.29, float, "of mode"),
    Setting("max_sequence_length", 77, int, "tokens that T5 reads", 1, 512),
)
OUTPUT = (
    Setting("output_dir", NEEDED, str, "folder of all that is written"),
    Setting(
        "report_to", "tensorboard", str, "where steps are logged, beside training_log.jsonl", choices=("tensorboard",)
    ),
    Setting("logging_dir", "logs", str, "folder of TensorBoard's files, in output_dir", also=("log_dir",)),
    Setting("checkpointing_steps", 500, int, "a checkpoint every so many steps", 1),
    Setting("checkpoints_total_limit", None, int, "keep so many of them, the newest", 1),
    Setting("resume_from_checkpoint", None, str, "go on from this one: its folder's name, or latest"),
)
VALIDATION = (
    Setting("validation_prompt", None, str, "what is drawn now and then by this package's own runtime"),
    Setting("num_validation_images", 4, int, "pictures each time", 1, 1000),
    Setting("validation_epochs", 50, int, "every so many epochs, and at the end", 1),
    Setting("num_inference_steps", 25, int, "steps of each", 1, 1000),
    Setting("validation_guidance", None, float, "of each (default: the model's)", 0),
)
