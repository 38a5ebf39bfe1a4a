"""A LoRA that is trained: on pictures with captions, with those of a class beside them or without."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ondevice.base.publish import published
from ondevice.diffusion.request import Picture
from ondevice.errors import OutputError
from ondevice.train.drawn import Asked, drawing
from ondevice.train.engine import Engine, Job
from ondevice.train.finetune import Finetune
from ondevice.train.lora_files import add_lora, write_lora
from ondevice.train.noising import Diffusion, Flow
from ondevice.train.parts import SD1, SD3, Parts, Texts, open_parts, place_of, stored_in
from ondevice.train.pictures import Cut, Sample
from ondevice.train.samples import Pictures, collated

MODEL = "model"
"""The folder of a model that was trained, in the output folder."""

RATES = {SD1: 5e-4, SD3: 1e-4}
"""The usual learning rates, where the settings leave them open."""


def adapted(
    settings: argparse.Namespace, engine: Engine, own: Sequence[Sample], prior: Sequence[Sample] = (), name: str = ""
) -> Job:
    """What is trained: adapters on the model's network.

    Args:
        own, prior: pictures that are learned, and of a class.
        name: of the file, without its ending; "": as the settings have it.
    """
    parts = opened_parts(settings, engine)
    add_lora(parts.net, settings.rank, settings.target_modules)
    prepare_net(parts, settings)
    file = f"{name or settings.ckpt_name}.safetensors"
    learns = [one for one in parts.net.parameters() if one.requires_grad]

    def write(folder: Path) -> Path:
        return write_lora({parts.net_name: parts.net}, folder / file)

    def draw() -> list[Picture]:
        with (
            tempfile.TemporaryDirectory(prefix="ondevice-train-") as folder,
            drawing(place_of(settings.pretrained_model_name_or_path), settings.resolution, settings.revision) as pipe,
        ):
            pipe.load_lora_weights(write(Path(folder)))
            return list(asked(settings).by(pipe))

    data = Pictures(own, cut_of(settings), settings.seed, prior)
    step = Finetune(parts, noising(parts, settings), texts_of(parts, settings), prior_of(settings, prior))
    return Job(
        step, [{"params": learns, "lr": engine.rate(RATES[parts.kind])}], data, len(data), collated, write, write, draw
    )


def opened_parts(settings: argparse.Namespace, engine: Engine) -> Parts:
    """The model, nothing of which learns yet, in what such weights are kept in."""
    parts = open_parts(settings.pretrained_model_name_or_path, settings.revision, settings.variant)
    for module in (parts.net, *parts.encoders().values()):
        stored_in(module, engine.half)
    return parts


def prepare_net(parts: Parts, settings: argparse.Namespace) -> None:
    """Make the network compute again what takes memory, where that is asked for."""
    net: Any = parts.net
    if settings.gradient_checkpointing:
        net.enable_gradient_checkpointing()


def noising(parts: Parts, settings: argparse.Namespace) -> Diffusion | Flow:
    """What the model's network learns."""
    config = parts.pipe.scheduler.config
    if parts.kind == SD1:
        return Diffusion.of(config, settings.noise_offset, settings.snr_gamma)
    names = {"scheme": "weighting_scheme", "mean": "logit_mean", "spread": "logit_std", "scale": "mode_scale"}
    return Flow.of(config, **{field: getattr(settings, name) for field, name in names.items()})


def texts_of(parts: Parts, settings: argparse.Namespace, trained: bool = False) -> Texts:
    """What reads the captions."""
    return Texts(parts, trained, getattr(settings, "max_sequence_length", 77))


def cut_of(settings: argparse.Namespace) -> Cut:
    """What is cut out of pictures."""
    return Cut(settings.resolution, settings.center_crop, settings.random_flip)


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
