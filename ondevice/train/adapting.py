"""A LoRA that is trained: on pictures with captions, with those of a class beside them or without."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from ondevice.base.publish import published
from ondevice.diffusion.request import Picture
from ondevice.errors import OutputError, UsageError
from ondevice.train.beginnings import begun
from ondevice.train.drawn import Asked, drawing
from ondevice.train.engine import Engine, Job
from ondevice.train.finetune import Finetune
from ondevice.train.lora_files import add_lora, write_lora
from ondevice.train.noising import Diffusion, Flow
from ondevice.train.parts import SD1, SD3, SDXL, Parts, Texts, kind_of, open_parts, place_of, stored_in
from ondevice.train.pictures import Cut, Sample
from ondevice.train.samples import Pictures, collated

MODEL = "model"
"""The folder of a model that was trained, in the output folder."""

RATES = {SD1: 5e-4, SDXL: 1e-4, SD3: 1e-4}
"""The usual learning rates, where the settings leave them open."""
SIDES = {SD1: 512, SDXL: 1024, SD3: 512}
"""The same of resolutions."""
OF_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The layers of text encoders that get adapters."""


def adapted(
    settings: argparse.Namespace, engine: Engine, own: Sequence[Sample], prior: Sequence[Sample] = (), name: str = ""
) -> Job:
    """What is trained: adapters on the model's network.

    Args:
        own, prior: pictures that are learned, and of a class.
        name: of the file, without its ending; "": as the settings have it.
    """
    settle(settings)
    parts = opened_parts(settings, engine)
    add_lora(parts.net, settings.rank, settings.target_modules)
    encoders = encoders_that_learn(parts, settings)
    for encoder in encoders:
        add_lora(encoders[encoder], settings.rank, OF_TEXT)
        keep_to(parts, encoder)
    prepare_net(parts, settings)
    file = f"{name or settings.ckpt_name}.safetensors"
    groups = groups_of(parts, encoders, settings, engine, RATES[parts.kind])

    def write(folder: Path) -> Path:
        return write_lora({parts.net_name: parts.net} | encoders, folder / file)

    def draw() -> list[Picture]:
        with (
            tempfile.TemporaryDirectory(prefix="ondevice-train-") as folder,
            drawing(place_of(settings.pretrained_model_name_or_path), settings.resolution, settings.revision) as pipe,
        ):
            pipe.load_lora_weights(write(Path(folder)))
            return list(asked(settings).by(pipe))

    data = Pictures(own, cut_of(settings), settings.seed, prior)
    texts = texts_of(parts, settings, bool(encoders))
    step = Finetune(parts, noising(parts, settings), texts, prior_of(settings, prior))
    return Job(step, groups, data, len(data), collated, write, write, draw)


def settle(settings: argparse.Namespace) -> None:
    """Fill in what is left open and depends on the kind of model. Raises CheckpointError as `kind_of` does."""
    if settings.resolution is None:
        settings.resolution = SIDES[kind_of(settings.pretrained_model_name_or_path, settings.revision)]


def encoders_that_learn(parts: Parts, settings: argparse.Namespace) -> dict[str, torch.nn.Module]:
    """By their names in the folder. Raises UsageError for those of Stable Diffusion 3."""
    if not settings.train_text_encoder:
        return {}
    if parts.kind == SD3:
        what = "the text encoders of Stable Diffusion 3 are not trained here."
        raise UsageError(what, where="--train_text_encoder", fix="leave it out")
    return parts.encoders()


def keep_to(parts: Parts, encoder: str) -> None:
    """Let nothing of a text encoder learn that the network reads nothing of."""
    for name, one in parts.encoders()[encoder].named_parameters():
        one.requires_grad_(one.requires_grad and name in parts.read(encoder))


def groups_of(
    parts: Parts, encoders: Iterable[str], settings: argparse.Namespace, engine: Engine, usual: float = 0.0
) -> list[dict[str, Any]]:
    """What learns of the network and of text encoders, each with its rate; `usual`: the rate where none is given."""
    rate = engine.rate(usual)
    asked_of = settings.text_encoder_lr
    of_text = rate if asked_of is None else engine.scaled(asked_of)
    modules = {"": parts.net} | {name: parts.encoders()[name] for name in encoders}
    return [
        {"params": [one for one in module.parameters() if one.requires_grad], "lr": of_text if name else rate}
        for name, module in modules.items()
    ]


def opened_parts(settings: argparse.Namespace, engine: Engine) -> Parts:
    """The model, nothing of which learns yet, in what such weights are kept in."""
    parts = open_parts(settings.pretrained_model_name_or_path, settings.revision, settings.variant)
    if (vae := settings.pretrained_vae_model_name_or_path) is not None:
        given = begun(AutoencoderKL, vae, "vae", "pretrained_vae_model_name_or_path")
        parts.pipe.register_modules(vae=given.float().requires_grad_(False).eval())
    for module in (parts.net, *parts.encoders().values()):
        stored_in(module, engine.half)
    return parts


def prepare_net(parts: Parts, settings: argparse.Namespace) -> None:
    """Make the network, and text encoders that learn, compute again what takes memory, where that is asked for."""
    if not settings.gradient_checkpointing:
        return
    net: Any = parts.net
    net.enable_gradient_checkpointing()
    encoder: Any
    for encoder in parts.encoders().values():
        if any(one.requires_grad for one in encoder.parameters()):
            encoder.gradient_checkpointing_enable({"use_reentrant": False})


def noising(parts: Parts, settings: argparse.Namespace) -> Diffusion | Flow:
    """What the model's network learns."""
    config = parts.pipe.scheduler.config
    if parts.kind != SD3:
        return Diffusion.of(config, settings.noise_offset, settings.snr_gamma)
    names = {"scheme": "weighting_scheme", "mean": "logit_mean", "spread": "logit_std", "scale": "mode_scale"}
    return Flow.of(config, **{field: getattr(settings, name) for field, name in names.items()})


def texts_of(parts: Parts, settings: argparse.Namespace, trained: bool = False) -> Texts:
    """What reads the captions."""
    return Texts(parts, trained, getattr(settings, "max_sequence_length", 77))


def cut_of(settings: argparse.Namespace) -> Cut:
    """What is cut out of pictures."""
    fixed = getattr(settings, "use_fix_crop_and_size", False)
    resampling = getattr(settings, "interpolation", "bilinear")
    return Cut(settings.resolution, settings.center_crop, settings.random_flip, fixed, resampling)


def prior_of(settings: argparse.Namespace, prior: Sequence[Sample]) -> float | None:
    """How much pictures of a class weigh, where there are any."""
    return float(settings.prior_loss_weight) if prior else None


def write_model(pipe: Any, folder: Path) -> Path:
    """diffusers' folder of a pipeline, as MODEL in `folder`, whole or not there. Raises OutputError where the system
    refuses."""
    with published(folder / MODEL, OutputError) as made:
        pipe.save_pretrained(made)
    return folder / MODEL


def drawn_of(write: Callable[[Path], Path], settings: argparse.Namespace) -> list[Picture]:
    """The validation pictures of a model that `write` writes."""
    with (
        tempfile.TemporaryDirectory(prefix="ondevice-train-") as folder,
        drawing(str(write(Path(folder))), settings.resolution) as pipe,
    ):
        return list(asked(settings).by(pipe))


def asked(settings: argparse.Namespace, sampler: str | None = None) -> Asked:
    """The validation pictures."""
    return Asked(
        settings.validation_prompt,
        settings.num_validation_images,
        settings.resolution,
        settings.num_inference_steps,
        settings.validation_guidance,
        settings.seed,
        sampler,
    )
