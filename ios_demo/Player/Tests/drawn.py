"""The demo model's bundle for an iPhone, and what Python draws with it on the host's OpenCL device, for the Swift
player's tests: FOLDER/demo.ondevice and FOLDER/drawn.json.

    python ios_demo/Player/Tests/drawn.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import __version__
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.parameters import describe
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

PROMPT = "a red circle on a blue background"
IMAGE = np.random.default_rng(5).integers(0, 256, (90, 70, 3), np.uint8)
SMALL = {"width": 64, "height": 64}
REQUESTS: list[dict[str, Any]] = [
    {"seed": 3, "sampler": "ddim", "num_inference_steps": 4},
    {
        "seed": 2**32 - 1,
        "sampler": "euler_a",
        "num_inference_steps": 2,
        "negative_prompt": "a dog, (été):\n Negative prompt: 猫",
    },
    {"seed": 1, "sampler": "ddim", "num_inference_steps": 4, "image": IMAGE, "strength": 0.5, **SMALL},
    {"seed": 1, "sampler": "ddim", "num_inference_steps": 2, "guidance_scale": 1.0},
    {"seed": 5, "sampler": "ddim", "num_inference_steps": 2, "numbers": {"guidance_rescale": 0.7}},
]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(target=load_target("apple_a16"), tile_vae=32)
    path = compile_bundle(
        open_checkpoint(None, family="demo"), folder / "demo.ondevice", recipe, sizes=[(64, 64)], force=True
    )
    bundle = open_bundle(path)
    pipeline = Pipeline.of(bundle, Session(bundle, choose_device(None)))
    rows = []
    for request in REQUESTS:
        picture = pipeline.draw(Request(prompt=PROMPT, **request))
        asked = {key: value.tolist() if key == "image" else value for key, value in request.items()}
        facts = picture.parameters | {"model": bundle.model["source"], "version": f"ondevice {__version__}"}
        texts = [describe(facts, bundle.scheduler), json.dumps(facts, sort_keys=True)]
        result = {
            "texts": texts,
            "pixels": picture.pixels.tolist(),
            "latents": [float(value) for value in picture.latents.ravel()],
        }
        rows.append({"prompt": PROMPT, **asked, **result})
    (folder / "drawn.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
