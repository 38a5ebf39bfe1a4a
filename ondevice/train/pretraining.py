"""Pretraining: a UNet or a MM-DiT, and where it is asked for the text encoder, on part files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ondevice.diffusion.request import Picture
from ondevice.drawing import say
from ondevice.errors import CheckpointError, UsageError
from ondevice.train import adapting
from ondevice.train.adapting import cut_of, drawn_of, prepare_net, texts_of, write_model
from ondevice.train.beginnings import CONFIG, begun, take_what_fits
from ondevice.train.engine import Engine, Job
from ondevice.train.finetune import Finetune
from ondevice.train.inpainting import Inpainting, channels
from ondevice.train.lines import Lines
from ondevice.train.noising import Diffusion, Flow, biased
from ondevice.train.order import mixed
from ondevice.train.part_files import parts_of
from ondevice.train.parts import SD1, SD3, Parts, open_parts, stored_in
from ondevice.train.samples import Item, collated

_EMPTY = 2  # of the seeds' kinds
_READS_TEXTS = "attn2"  # in the names of a UNet's layers


def pretraining(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or part files that cannot be read."""
    parts = opened(settings)
    net: Any = parts.net
    masked = net.config.in_channels != parts.pipe.vae.config.latent_channels
    if masked and settings.validation_prompt is not None:
        what = "pictures of an inpainting model are not drawn here, as they need a picture and a mask."
        raise UsageError(what, where="--validation_prompt", fix="leave it out")
    for module in (parts.pipe.vae, *parts.encoders().values()):
        stored_in(module, engine.half)
    groups = _groups(parts, settings, engine)
    prepare_net(parts, settings)

    def write(folder: Path) -> Path:
        return write_model(_of_masks(parts.pipe) if masked else parts.pipe, folder)

    def updated(folder: Path) -> None:
        if not settings.only_save_updated_model:
            parts.pipe.save_pretrained(folder)
            return
        net.save_pretrained(folder / parts.net_name)
        if settings.train_text_encoder:
            parts.pipe.text_encoder.save_pretrained(folder / "text_encoder")

    def draw() -> Sequence[Picture]:
        return drawn_of(write, settings)

    kind = Inpainting if masked else Finetune
    step = kind(parts, noising(parts, settings), texts_of(parts, settings, settings.train_text_encoder))
    every = settings.image_logging_steps if settings.image_logging_steps > 0 else None
    return Job(
        step,
        groups,
        lines_of(settings, engine),
        settings.num_records,
        without_some(settings.proportion_empty_prompts),
        write,
        updated,
        draw if every else None,
        drawn_every=every,
    )


def lines_of(settings: argparse.Namespace, engine: Engine) -> Lines:
    """The samples of part files. Raises UsageError for such as are not there, or too few."""
    about = (cut_of(settings), engine.share, settings.seed, settings.buffer_count, settings.dataloader_num_workers)
    return Lines(parts_of(Path(settings.file_list)), *about)


def without_some(part: float) -> Callable[[Sequence[list[Item]]], dict[str, Any]]:
    """`collated`, with empty captions in the place of a part of them, by the samples' seeds."""

    def batch(samples: Sequence[list[Item]]) -> dict[str, Any]:
        found = collated(samples)
        kept = [np.random.default_rng(mixed(seed, _EMPTY)).random() >= part for seed in found["seeds"]]
        return found | {"captions": [text * keeps for text, keeps in zip(found["captions"], kept, strict=True)]}

    return batch if part else collated


def noising(parts: Parts, settings: argparse.Namespace) -> Diffusion | Flow:
    """What the network learns. Raises UsageError for timesteps that are none."""
    if parts.kind != SD1:
        return adapting.noising(parts, settings)
    config = parts.pipe.scheduler.config
    found = Diffusion.of(config, settings.noise_offset, settings.snr_gamma, settings.input_perturbation)
    count, many = len(found.alphas), round(settings.timestep_bias_portion * len(found.alphas))
    which = {
        "earlier": slice(0, many),
        "later": slice(count - many, count),
        "range": slice(settings.timestep_bias_begin, settings.timestep_bias_end),
    }.get(settings.timestep_bias_strategy)
    often = None if which is None else biased(count, which, settings.timestep_bias_multiplier)
    return replace(found, floor=settings.snr_floor, often=often)


def _groups(parts: Parts, settings: argparse.Namespace, engine: Engine) -> list[dict[str, Any]]:
    """What learns, and how fast. Raises UsageError where there are several text encoders."""
    parts.net.requires_grad_(True)
    own = _rate(settings.unet_learning_rate, engine.rate(), engine)
    of_texts = _rate(settings.cross_attention_learning_rate, own, engine)
    apart = parts.kind == SD1 and of_texts != own
    named = list(parts.net.named_parameters())
    groups = [{"params": [one for name, one in named if not (apart and _READS_TEXTS in name)], "lr": own}]
    if apart:
        groups.append({"params": [one for name, one in named if _READS_TEXTS in name], "lr": of_texts})
    if settings.train_text_encoder:
        if parts.kind != SD1:
            what = "the model has several text encoders, which are not trained here."
            raise UsageError(what, where="--train_text_encoder", fix="leave it out")
        text = parts.pipe.text_encoder.requires_grad_(True)
        stored_in(text, torch.float32)
        rate = _rate(settings.text_encoder_learning_rate, engine.rate(), engine)
        groups.append({"params": list(text.parameters()), "lr": rate})
    return groups


def _rate(asked: float | None, usual: float, engine: Engine) -> float:
    return usual if asked is None else engine.scaled(asked)


def opened(settings: argparse.Namespace) -> Parts:
    """The model with its other parts in their places, nothing of which learns yet.
    Raises CheckpointError for one that cannot be read, or does not go with the others."""
    parts = open_parts(settings.pretrained_model_name_or_path, settings.revision, settings.variant)
    if parts.kind not in (SD1, SD3):
        what = "pretraining is of Stable Diffusion 1.x, 2.x and 3."
        raise CheckpointError(what, where="--pretrained_model_name_or_path", fix="give such a model")
    pipe = parts.pipe
    for name in ("vae", "text_encoder", "text_encoder_2", "tokenizer"):
        source = getattr(settings, "tokenizer_name" if name == "tokenizer" else f"{name}_name_or_path")
        if source is not None:
            if getattr(pipe, name, None) is None:
                what = f"the model has no {name}."
                raise CheckpointError(what, where=f"--{name}_name_or_path", fix="leave it out")
            pipe.register_modules(**{name: begun(type(getattr(pipe, name)), source, name)})
    if settings.tokenizer_name is not None and parts.kind == SD3:
        pipe.register_modules(tokenizer_2=pipe.tokenizer)
    if (source := settings.unet_name_or_path) is not None:
        net = begun(type(parts.net), source, parts.net_name)
        if settings.take_what_fits and source.endswith(CONFIG):
            take_what_fits(net, parts.net, say)
        pipe.register_modules(**{parts.net_name: net})
    if settings.prediction_type is not None:
        pipe.scheduler.register_to_config(prediction_type=settings.prediction_type)
    if settings.model_max_length is not None:
        pipe.tokenizer.model_max_length = settings.model_max_length
    for module in parts.modules():
        stored_in(module, torch.float32)
        module.requires_grad_(False).eval()
    _check(parts)
    return parts


def _check(parts: Parts) -> None:
    """Raises CheckpointError where parts do not go together."""
    pipe, net = parts.pipe, parts.net_name
    of_net: Any = parts.net.config
    latents, text = pipe.vae.config.latent_channels, pipe.text_encoder.config
    masked = parts.kind == SD1 and of_net.in_channels == channels(latents)
    wanted = [
        ("in_channels", channels(latents) if masked else latents, "the vae's latent_channels"),
        ("out_channels", latents, "the vae's latent_channels"),
    ]
    if parts.kind == SD1:
        wanted.append(("cross_attention_dim", text.hidden_size, "the text encoder's hidden_size"))
    else:
        pooled = text.projection_dim + pipe.text_encoder_2.config.projection_dim
        wanted.append(("pooled_projection_dim", pooled, "the text encoders' projection_dim together"))
    for name, expected, of in wanted:
        if (got := getattr(of_net, name)) != expected:
            what = f"its {name} is not {of} (got {got}, expected {expected})."
            raise CheckpointError(what, where=net, fix="give parts that go together")
    if pipe.tokenizer.model_max_length > text.max_position_embeddings:
        got = f"got {pipe.tokenizer.model_max_length}, expected {text.max_position_embeddings} or less"
        what = f"it reads more tokens than the text encoder ({got})."
        raise CheckpointError(what, where="tokenizer", fix="give --model_max_length")


def _of_masks(pipe: Any) -> Any:
    """The same parts as a pipeline that inpaints."""
    from diffusers import StableDiffusionInpaintPipeline

    kind: Any = StableDiffusionInpaintPipeline
    return kind(**pipe.components, requires_safety_checker=False)
