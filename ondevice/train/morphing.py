"""A morph from the pictures on: two LoRAs, a bundle, and what `ondevice morph` draws with them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ondevice.api import opened
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.diffusion.inversion import Inversion
from ondevice.diffusion.morph import request_of_frames
from ondevice.diffusion.request import Request
from ondevice.drawing import morphing
from ondevice.train import lora
from ondevice.train.adapting import adapted
from ondevice.train.engine import Engine
from ondevice.train.parts import place_of
from ondevice.train.pictures import Sample
from ondevice.train.settings import NEEDED

ENDS = ("a", "b")
BUNDLE, FRAMES = "model.ondevice", "frames"


def morphed(settings: argparse.Namespace) -> Path | None:
    """Convert the model, train both ends, draw the frames; their folder, in the process that writes it. Raises
    OnDeviceError as `convert`, `train lora` and `morph` do: of a model whose pictures are not inverted at once."""
    files: list[Path] = []
    bundle = Path(settings.output_dir) / BUNDLE
    for end in ENDS:
        own = of_lora(settings, end)
        engine = Engine("lora", own)
        if engine.is_main and not files:
            convert(settings, bundle)
        files.append(engine.train(adapted(own, engine, [sample_of(settings, end)])))
    if not engine.is_main:
        return None
    parser = argparse.ArgumentParser()
    morphing.add_arguments(parser)
    morphing.run(parser.parse_args(words_of(settings, bundle, files)))
    return bundle.parent / FRAMES


def convert(settings: argparse.Namespace, bundle: Path) -> None:
    """Write the model's bundle. Raises UsageError for a model whose pictures are not inverted."""
    source, side = place_of(settings.pretrained_model_name_or_path), settings.resolution
    compile_bundle(opened(source, revision=settings.revision), bundle, Recipe(), sizes=[(side, side)], force=True)
    files = open_bundle(bundle)
    asked = Request(prompt=settings.prompt, num_inference_steps=settings.num_inference_steps)
    request_of_frames(files.pipeline, files.scheduler, asked, Inversion(settings.inversion, settings.refine))


def sample_of(settings: argparse.Namespace, end: str) -> Sample:
    """An end's picture, with what it shows."""
    prompt = settings.prompt if end == ENDS[0] or settings.prompt_b is None else settings.prompt_b
    return Sample(Path(getattr(settings, f"image_{end}")), prompt)


def of_lora(settings: argparse.Namespace, end: str) -> argparse.Namespace:
    """What `train lora` is told of an end: its own settings as they are here, or by default."""
    usual = {one.name: one.default for group in lora.SETTINGS.values() for one in group}
    found = {name: getattr(settings, name, default) for name, default in usual.items()}
    found |= {"output_dir": str(Path(settings.output_dir) / end), "ckpt_name": end, "center_crop": True}
    found |= {"data_dir": getattr(settings, f"image_{end}"), "dataloader_num_workers": 0}
    assert NEEDED not in found.values(), found
    return lora.checked(argparse.Namespace(**found))


def words_of(settings: argparse.Namespace, bundle: Path, files: Sequence[Path]) -> list[str]:
    """What `ondevice morph` is told."""
    first, last = map(str, files)
    pictures = [str(sample_of(settings, end).path) for end in ENDS]
    flags = {
        "--prompt": settings.prompt,
        "--prompt-b": settings.prompt_b,
        "--lora-a": first,
        "--lora-b": last,
        "--frames": settings.n_frames + 1,
        "--steps": settings.num_inference_steps,
        "--inversion": settings.inversion,
        "--refine": settings.refine,
        "--fps": settings.fps,
        "--fit": "crop",
        "--size": f"{settings.resolution}x{settings.resolution}",
        "--out": bundle.parent / FRAMES,
    }
    return [str(bundle), *pictures, *(f"{name}={value}" for name, value in flags.items() if value is not None)]
