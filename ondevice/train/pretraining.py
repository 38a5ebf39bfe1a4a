"""Pretraining: a UNet, and where it is asked for the text encoder, on part files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ondevice.diffusion.request import Picture
from ondevice.errors import CheckpointError, OnDeviceError
from ondevice.train.adapting import cut_of, drawn_of, prepare_net, texts_of, write_model
from ondevice.train.engine import Engine, Job
from ondevice.train.finetune import Finetune
from ondevice.train.lines import Lines
from ondevice.train.noising import Diffusion
from ondevice.train.part_files import parts_of
from ondevice.train.parts import SD1, Parts, open_parts
from ondevice.train.samples import collated


def pretraining(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or part files that cannot be read."""
    data = Lines(
        parts_of(Path(settings.file_list)),
        cut_of(settings),
        engine.share,
        settings.seed,
        settings.buffer_count,
        settings.dataloader_num_workers,
    )
    parts = opened(settings)
    net: Any = parts.net
    text: Any = parts.pipe.text_encoder
    parts.pipe.vae.to(engine.half)
    text.to(torch.float32 if settings.train_text_encoder else engine.half)
    groups = [{"params": _learning(net), "lr": _rate(settings.unet_learning_rate, engine)}]
    if settings.train_text_encoder:
        rate = _rate(settings.text_encoder_learning_rate, engine)
        groups.append({"params": _learning(text), "lr": rate})
    prepare_net(parts, settings)
    if settings.gradient_checkpointing and settings.train_text_encoder:
        text.gradient_checkpointing_enable()

    def write(folder: Path) -> Path:
        return write_model(parts.pipe, folder)

    def updated(folder: Path) -> None:
        if not settings.only_save_updated_model:
            parts.pipe.save_pretrained(folder)
            return
        net.save_pretrained(folder / "unet")
        if settings.train_text_encoder:
            text.save_pretrained(folder / "text_encoder")

    def draw() -> Sequence[Picture]:
        return drawn_of(write, settings)

    noising = Diffusion.of(
        parts.pipe.scheduler.config, settings.noise_offset, settings.snr_gamma, settings.input_perturbation
    )
    step = Finetune(parts, noising, texts_of(parts, settings, settings.train_text_encoder))
    every = settings.image_logging_steps if settings.image_logging_steps > 0 else None
    return Job(
        step,
        groups,
        data,
        settings.num_records,
        collated,
        write,
        updated,
        draw if every else None,
        drawn_every=every,
    )


def _rate(asked: float | None, engine: Engine) -> float:
    return engine.rate() if asked is None else engine.scaled(asked)


def _learning(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    module.requires_grad_(True)
    return list(module.parameters())


def opened(settings: argparse.Namespace) -> Parts:
    """The model with its other parts in their places, nothing of which learns yet.
    Raises CheckpointError for one that cannot be read, or does not go with the others."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    parts = open_parts(settings.pretrained_model_name_or_path, settings.revision, settings.variant)
    if parts.kind != SD1:
        what = "pretraining is of Stable Diffusion 1.x and 2.x."
        raise CheckpointError(what, where="--pretrained_model_name_or_path", fix="give such a model")
    pipe = parts.pipe
    given = {
        "vae": (settings.vae_name_or_path, AutoencoderKL.from_pretrained),
        "text_encoder": (settings.text_encoder_name_or_path, CLIPTextModel.from_pretrained),
        "tokenizer": (settings.tokenizer_name, CLIPTokenizer.from_pretrained),
        "unet": (settings.unet_name_or_path, UNet2DConditionModel.from_pretrained),
    }
    for name, (source, read) in given.items():
        if source is not None:
            read = _of_config if name == "unet" and source.endswith(".json") else read
            pipe.register_modules(**{name: _part(name, source, read)})
    if settings.prediction_type is not None:
        pipe.scheduler.register_to_config(prediction_type=settings.prediction_type)
    if settings.model_max_length is not None:
        pipe.tokenizer.model_max_length = settings.model_max_length
    for module in parts.modules():
        module.float().requires_grad_(False).eval()
    _check(pipe)
    return parts


def _of_config(source: str) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    config = json.loads(Path(source).read_text("utf-8"))
    return UNet2DConditionModel.from_config(config)


def _part(name: str, source: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(source)
    except OnDeviceError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        kind = "tokenizer_name" if name == "tokenizer" else f"{name}_name_or_path"
        fix = f"give a diffusers folder of a {name}" + (", or its config's .json" if name == "unet" else "")
        raise CheckpointError(f"it cannot be read ({error}).", where=f"--{kind} {source}", fix=fix) from error


def _check(pipe: Any) -> None:
    """Raises CheckpointError where parts do not go together."""
    unet, vae, text = pipe.unet.config, pipe.vae.config, pipe.text_encoder.config
    wanted = {
        "in_channels": (unet.in_channels, vae.latent_channels, "the vae's latent_channels"),
        "out_channels": (unet.out_channels, vae.latent_channels, "the vae's latent_channels"),
        "cross_attention_dim": (unet.cross_attention_dim, text.hidden_size, "the text encoder's hidden_size"),
    }
    for name, (got, expected, of) in wanted.items():
        if got != expected:
            what = f"its {name} is not {of} (got {got}, expected {expected})."
            raise CheckpointError(what, where="unet", fix="give parts that go together")
    if pipe.tokenizer.model_max_length > text.max_position_embeddings:
        got = f"got {pipe.tokenizer.model_max_length}, expected {text.max_position_embeddings} or less"
        what = f"it reads more tokens than the text encoder ({got})."
        raise CheckpointError(what, where="tokenizer", fix="give --model_max_length")
