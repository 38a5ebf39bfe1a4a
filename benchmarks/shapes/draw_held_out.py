"""Draw the held-out prompts with a bundle of the demo model and judge the pixels:
the README's figures and contact sheets.

    python -m ondevice.convert demo --out demo.ondevice
    python -m benchmarks.shapes.draw_held_out demo.ondevice --sheet docs/images/demo_sheet.png
    python -m ondevice.convert demo-lcm --out demo-lcm.ondevice
    python -m benchmarks.shapes.draw_held_out demo-lcm.ondevice --sheet docs/images/demo_lcm_sheet.png
    python -m ondevice.convert demo-inpaint --out demo-inpaint.ondevice
    python -m benchmarks.shapes.draw_held_out demo-inpaint.ondevice --count 30 \\
        --sheet docs/images/demo_inpaint_sheet.png
    python -m ondevice.convert demo --taesd --out demo-taesd.ondevice
    python -m benchmarks.shapes.draw_held_out demo-taesd.ondevice --taesd
    python -m ondevice.convert demo-sd3 --out demo-sd3.ondevice
    python -m benchmarks.shapes.draw_held_out demo-sd3.ondevice --sheet docs/images/demo_sd3_sheet.png

Combinations of shape, colour and background are ones that training never showed. A bundle that needs a mask replaces
each picture's object by what is asked for (masks.py), and leaves the pixels outside as they are; the sheet has each
picture, greyed where its mask is, above what was drawn. Exits with 1 where fewer of 100 are fully right
than are needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.shapes.masks import judge, tasks
from benchmarks.shapes.pictures import Spec, held_out_prompts
from benchmarks.shapes.score import score, tally
from ondevice.bundle.reader import open_bundle
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

ACROSS = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--steps", type=int, help="default: the bundle's")
    parser.add_argument("--guidance", type=float, help="default: the bundle's")
    parser.add_argument("--sampler")
    parser.add_argument("--seed", type=int, default=0, help="picture i is drawn with seed + i")
    parser.add_argument("--needed", type=int, default=90, help="of 100, for exit code 0")
    parser.add_argument("--device")
    parser.add_argument("--taesd", action="store_true", help="judge the pictures of the bundle's fast decoder")
    parser.add_argument(
        "--sheet", type=Path, help="PNG with every picture; a red frame marks one that is not fully right"
    )
    args = parser.parse_args()

    bundle = open_bundle(args.bundle)
    paint = Pipeline.of(bundle, Session(bundle, choose_device(args.device)))
    steps = bundle.pipeline.steps if args.steps is None else args.steps
    guidance = bundle.pipeline.numbers["guidance_scale"].default if args.guidance is None else args.guidance
    given = bundle.pipeline.pictures.get("mask")
    todo: list[tuple[dict[str, np.ndarray], Spec]] = (
        [
            ({"image": picture, "mask": mask * np.uint8(255)}, spec)
            for picture, mask, spec in tasks(args.count, args.split)
        ]
        if given and not given.optional
        else [({}, spec) for spec in held_out_prompts(args.count, split=args.split)]
    )
    fast = paint.previewer("taesd") if args.taesd else None
    scores, pictures, alike, started = [], [], [], time.perf_counter()
    for number, (before, spec) in enumerate(todo):
        drawn = paint(
            spec.caption,
            num_inference_steps=steps,
            guidance_scale=guidance,
            seed=args.seed + number,
            sampler=args.sampler,
            **before,
        )
        shown = drawn.pixels
        if fast is not None:
            shown = fast(drawn.latents)
            alike.append(decibels(shown, drawn.pixels))
            scores.append(score(shown, spec))
        elif before:
            image, mask = before["image"], before["mask"] > 0
            scores.append(judge(drawn.pixels, image, mask, spec))
            shown = np.concatenate([np.where(mask[..., None], image // 2 + np.uint8(64), image), shown])
        else:
            scores.append(score(drawn.pixels, spec))
        pictures.append(framed(shown, all(scores[-1].values())))
        if not all(scores[-1].values()):
            print(
                f"{spec.caption}: wrong {', '.join(name for name, right in scores[-1].items() if not right)}",
                file=sys.stderr,
            )
    result = tally(scores)
    seconds = (time.perf_counter() - started) / len(todo)
    said = {"steps": steps, "guidance": guidance, "seed": args.seed, "seconds_a_picture": round(seconds, 2)}
    if alike:
        said["taesd_db"] = {"mean": round(float(np.mean(alike)), 2), "least": round(min(alike), 2)}
    print(json.dumps(result | said))
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        rows = [np.concatenate(pictures[i : i + ACROSS], 1) for i in range(0, len(pictures) // ACROSS * ACROSS, ACROSS)]
        Image.fromarray(np.concatenate(rows)).quantize(256).save(args.sheet, optimize=True)  # flat colours need no more
    return int(result["all"] * 100 < args.needed * result["of"])


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR of two pictures of bytes."""
    return float(20 * np.log10(255 / np.sqrt(np.mean((one.astype(np.float64) - other) ** 2))))


def framed(pixels: np.ndarray, right: bool) -> np.ndarray:
    """The picture with a line around it."""
    colour = (255, 255, 255) if right else (255, 0, 0)
    return np.stack([np.pad(pixels[..., c], 2, constant_values=colour[c]) for c in range(3)], -1)


if __name__ == "__main__":
    sys.exit(main())
