"""Generate held-out prompts with a model folder and score the pictures.

    python -m benchmarks.demo_model.evaluate --model ondevice/models/demo --split test --count 100 --sheet sheet.png

Use `--split validation` to choose guidance and steps; `--split test` only for the figure that is reported.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline
from PIL import Image

from benchmarks.demo_model.export import NOISE, load, scheduler
from benchmarks.shapes.pictures import Spec, held_out_prompts
from benchmarks.shapes.score import score, tally

BATCH = 20


def make_scheduler(name: str) -> object:
    """`ddim` as exported, or a drop-in alternative over the same noise levels."""
    if name == "ddim":
        return scheduler()
    if name == "pndm":
        return PNDMScheduler(**NOISE, skip_prk_steps=True)
    plain = {key: value for key, value in NOISE.items() if key != "set_alpha_to_one"}
    return DPMSolverMultistepScheduler(**plain)


@torch.no_grad()
def generate(
    pipe: StableDiffusionPipeline, specs: list[Spec], guidance: float, steps: int, seed: int = 1000
) -> np.ndarray:
    """One picture for each description, uint8 [N, 128, 128, 3]. Picture i starts from noise of seed + i."""
    pictures = []
    for first in range(0, len(specs), BATCH):
        part = specs[first : first + BATCH]
        seeds = [torch.Generator().manual_seed(seed + first + i) for i in range(len(part))]
        captions = [spec.caption for spec in part]
        images = pipe(
            captions,
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=128,
            width=128,
            output_type="np",
            generator=seeds,
        ).images
        pictures.append((images * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def contact_sheet(pictures: np.ndarray, across: int = 10) -> Image.Image:
    """Pictures in rows of `across`, with a thin grey line between them."""
    framed = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)
    rows = [np.concatenate(list(framed[i : i + across]), 1) for i in range(0, len(framed) // across * across, across)]
    return Image.fromarray(np.concatenate(rows, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--scheduler", choices=("ddim", "pndm", "dpm"), nargs="+", default=["ddim"])
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--misses", action="store_true", help="print the captions that went wrong")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipe = load(args.model)
    specs = held_out_prompts(args.count, split=args.split)
    for name in args.scheduler:
        pipe.scheduler = make_scheduler(name)
        for steps in args.steps:
            for guidance in args.guidance:
                pictures = generate(pipe, specs, guidance, steps)
                scores = [score(picture, spec) for picture, spec in zip(pictures, specs, strict=True)]
                row = {
                    "split": args.split,
                    "scheduler": name,
                    "steps": steps,
                    "guidance": guidance,
                    "right": tally(scores),
                }
                print(json.dumps(row), flush=True)
                if args.misses:
                    for spec, one in zip(specs, scores, strict=True):
                        if not all(one.values()):
                            print("  ", spec.caption, [key for key, right in one.items() if not right])
                if args.sheet:
                    contact_sheet(pictures).save(args.sheet)


if __name__ == "__main__":
    main()
