"""DreamBooth: pictures of a subject, and of its class, which the model draws itself where they are missing."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch

from ondevice.base.publish import system
from ondevice.diffusion.picture_file import write_picture
from ondevice.diffusion.request import Picture
from ondevice.drawing import say
from ondevice.errors import OutputError
from ondevice.train.adapting import (
    adapted,
    cut_of,
    drawn_of,
    encoders_that_learn,
    groups_of,
    keep_to,
    noising,
    opened_parts,
    prepare_net,
    prior_of,
    settle,
    texts_of,
    write_model,
)
from ondevice.train.drawn import Asked, drawing
from ondevice.train.engine import Engine, Job
from ondevice.train.finetune import Finetune
from ondevice.train.order import mixed
from ondevice.train.parts import place_of, stored_in
from ondevice.train.pictures import ENDINGS, METADATA, Sample, captioned, files_of
from ondevice.train.samples import Pictures, collated


def beside(settings: argparse.Namespace, engine: Engine) -> Job:
    """A LoRA for the subject."""
    return adapted(settings, engine, *pictures_of(settings, engine), name="pytorch_lora_weights")


def whole(settings: argparse.Namespace, engine: Engine) -> Job:
    """The network itself, and where it is asked for the text encoders.
    Raises UsageError where these are Stable Diffusion 3's."""
    own, prior = pictures_of(settings, engine)
    parts = opened_parts(settings, engine)
    encoders = encoders_that_learn(parts, settings)
    for module in (parts.net, *encoders.values()):
        stored_in(module, torch.float32)
        module.requires_grad_(True)
    for encoder in encoders:
        keep_to(parts, encoder)
    prepare_net(parts, settings)

    def write(folder: Path) -> Path:
        return write_model(parts.pipe, folder)

    def draw() -> list[Picture]:
        return drawn_of(write, settings)

    data = Pictures(own, cut_of(settings), settings.seed, prior)
    texts = texts_of(parts, settings, settings.train_text_encoder)
    step = Finetune(parts, noising(parts, settings), texts, prior_of(settings, prior))
    return Job(step, groups_of(parts, encoders, settings, engine), data, len(data), collated, write, draw=draw)


def pictures_of(settings: argparse.Namespace, engine: Engine) -> tuple[list[Sample], list[Sample]]:
    """Pictures of the subject, each as often as it is repeated, and of the class: with the captions of metadata.jsonl
    where a folder has one, else all with that of the settings."""
    settle(settings)
    folder = Path(settings.instance_data_dir)
    own = (
        captioned(folder, "instance_data_dir")
        if (folder / METADATA).is_file()
        else [Sample(path, settings.instance_prompt) for path in files_of(folder, "instance_data_dir")]
    )
    own = [one for one in own for _ in range(settings.repeats)]
    if not settings.with_prior_preservation:
        return own, []
    folder = Path(settings.class_data_dir)
    if (folder / METADATA).is_file():
        return own, captioned(folder, "class_data_dir")[: settings.num_class_images]
    if engine.is_main:
        draw_class(settings)
    engine.accelerator.wait_for_everyone()
    files = files_of(folder, "class_data_dir")[: settings.num_class_images]
    return own, [Sample(path, settings.class_prompt) for path in files]


def draw_class(settings: argparse.Namespace) -> None:
    """Let the model draw what is missing of the class's pictures, each under a name of its number."""
    folder = Path(settings.class_data_dir)
    with system(str(folder), OutputError):
        folder.mkdir(parents=True, exist_ok=True)
        there = sum(path.suffix.lower() in ENDINGS for path in folder.iterdir())
    missing = settings.num_class_images - there
    if missing <= 0:
        return
    say(f"{there} of {settings.num_class_images} pictures of the class are there; drawing {missing}")
    source = place_of(settings.pretrained_model_name_or_path)
    wanted = Asked(
        settings.class_prompt,
        missing,
        settings.resolution,
        settings.num_inference_steps,
        settings.validation_guidance,
        mixed(settings.seed, there) % 2**32,
    )
    with drawing(source, settings.resolution, settings.revision) as pipe:
        places = (folder / f"class-{number:05}.png" for number in itertools.count(there))
        free = (path for path in places if not path.exists())  # some may have been taken out
        for picture, path in zip(wanted.by(pipe), free, strict=False):
            assert picture.pixels is not None, "no other model goes on"
            write_picture(path, picture.pixels, picture.parameters)
