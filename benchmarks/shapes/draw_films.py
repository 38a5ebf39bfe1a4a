"""Draw films of held-out pictures with a bundle of the demo's video model, and judge the pixels.

    python -m ondevice.convert demo-video --out demo-video.ondevice
    python -m benchmarks.shapes.draw_films demo-video.ondevice --sheet docs/images/demo_video_sheet.png

Combinations of shape, colour and background are ones that training never showed. The sheet has two pictures, one beside
the other, and a row for each motion number: the more it is, the further the shape goes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.shapes.draw_held_out import framed
from benchmarks.shapes.films import HEIGHT, MOTIONS, WIDTH, Film, judge, tally, tasks
from ondevice.bundle.reader import open_bundle
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=25)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--steps", type=int, help="default: the bundle's")
    parser.add_argument("--guidance", type=float, help="of the last frame (default: the bundle's)")
    parser.add_argument("--seed", type=int, default=0, help="film i is drawn with seed + i")
    parser.add_argument("--device")
    parser.add_argument("--sheet", type=Path, help="PNG; a red frame marks a film that is not fully right")
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    paint = Pipeline.of(bundle, Session(bundle, choose_device(args.device)))

    def drawn(film: Film, seed: int) -> tuple[np.ndarray, dict[str, bool]]:
        frames = paint(
            image=film.frames()[0],
            width=WIDTH,
            height=HEIGHT,
            motion_bucket_id=film.motion,
            num_inference_steps=args.steps,
            max_guidance_scale=args.guidance,
            seed=seed,
        ).frames
        assert frames is not None, "the bundle draws films"
        return frames, judge(frames, film)

    started, scores = time.perf_counter(), []
    for number, film in enumerate(tasks(args.count, args.split)):
        scores.append(drawn(film, args.seed + number)[1])
        if not all(scores[-1].values()):
            wrong = ", ".join(name for name, right in scores[-1].items() if not right)
            print(f"{film.first.caption}, motion {film.motion}: wrong {wrong}", file=sys.stderr)
    seconds = (time.perf_counter() - started) / max(args.count, 1)
    print(json.dumps(tally(scores) | {"seed": args.seed, "seconds_a_film": round(seconds, 2)}))
    if args.sheet:
        columns = []
        for number, film in enumerate(tasks(2, args.split)):
            rows = []
            for motion in MOTIONS:
                frames, right = drawn(Film(film.first, motion), args.seed + number)
                rows.append(np.concatenate([framed(frame, all(right.values())) for frame in frames], 1))
            columns.append(np.concatenate(rows))
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(columns, 1)).quantize(256).save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
