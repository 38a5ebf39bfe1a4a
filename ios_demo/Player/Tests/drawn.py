"""Bundles for an iPhone, of the demo model and of tiny ones of other families, and what Python draws with them on the
host's OpenCL device, for the Swift player's tests: FOLDER/NAME.ondevice and FOLDER/drawn.json. And bundles that are
made to break a player: FOLDER/hostile.

    python ios_demo/Player/Tests/drawn.py FOLDER
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import __version__
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import Checkpoint, open_checkpoint
from ondevice.diffusion.parameters import describe
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

PROMPT = "a red circle on a blue background"
IMAGE = np.random.default_rng(5).integers(0, 256, (90, 70, 3), np.uint8)
SMALL = {"width": 64, "height": 64}
NEGATIVE = {"negative_prompt": "a dog, (été):\n Negative prompt: 猫"}
BEGUN = {"image": IMAGE, "strength": 0.5, "sampler": "ddim"}
REQUESTS: dict[str, list[dict[str, Any]]] = {
    "demo": [
        {"seed": 3, "sampler": "ddim", "num_inference_steps": 4},
        {"seed": 2**32 - 1, "sampler": "euler_a", "num_inference_steps": 2, **NEGATIVE},
        {"seed": 1, "num_inference_steps": 4, **BEGUN, **SMALL},
        {"seed": 1, "sampler": "ddim", "num_inference_steps": 2, "guidance_scale": 1.0},
        {"seed": 5, "sampler": "ddim", "num_inference_steps": 2, "numbers": {"guidance_rescale": 0.7}},
    ],
    "sd21": [{"seed": 2, "sampler": "euler", "num_inference_steps": 2, **NEGATIVE}],
    "sdxl": [
        {
            "seed": 2,
            "sampler": "dpmpp_2m",
            "num_inference_steps": 2,
            "numbers": {"crop_top": 8.0, "original_width": 900.0},
        },
        {"seed": 4, "sampler": "unipc", "num_inference_steps": 2, **NEGATIVE},
    ],
}
SIZES = {"demo": (64, 64), "sd21": (24, 16), "sdxl": (16, 24)}


def checkpoint_of(name: str) -> Checkpoint:
    if name == "demo":
        return open_checkpoint(None, family="demo")
    from family_files import TINY

    return random_checkpoint_from_configs(**TINY[name], seed=5, family=name)


def drawn(name: str, folder: Path) -> list[dict[str, Any]]:
    """What Python draws with a bundle that is written here: a row for each request."""
    recipe = Recipe(target=load_target("apple_a16"), tile_vae=32 if name == "demo" else 0)
    path = compile_bundle(
        checkpoint_of(name), folder / f"{name}.ondevice", recipe, sizes=[SIZES[name]], sampler="ddim", force=True
    )
    bundle = open_bundle(path)
    pipeline = Pipeline.of(bundle, Session(bundle, choose_device(None)))
    rows = []
    for request in REQUESTS[name]:
        picture = pipeline.draw(Request(prompt=PROMPT, **request))
        asked = {key: value.tolist() if key == "image" else value for key, value in request.items()}
        facts = picture.parameters | {"model": bundle.model["source"], "version": f"ondevice {__version__}"}
        texts = [describe(facts, bundle.scheduler), json.dumps(facts, sort_keys=True)]
        latents = [float(value) for value in picture.latents.ravel()]
        rows.append({"bundle": name, "prompt": PROMPT, **asked, "texts": texts, "latents": latents})
        rows[-1]["pixels"] = picture.pixels.tolist()
    return rows


def write_hostile(folder: Path) -> None:
    """The bundles of tests/player/hostile.py, and `hostile.json`: what each is, its path, and how a refusal begins."""
    from player import test_hostile

    shutil.rmtree(folder, ignore_errors=True)
    messages = dict(json.loads(test_hostile.GOLDEN.read_text()))
    rows = []
    for number, case in enumerate(test_hostile.cases()):
        place = folder / str(number)
        place.mkdir(parents=True)
        path = case.make(place).relative_to(folder)
        rows.append({"what": case.what, "path": str(path), "message": messages[case.what]})
    (folder / "hostile.json").write_text(json.dumps(rows))


def main(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests"))
    write_hostile(folder / "hostile")
    rows = [row for name in REQUESTS for row in drawn(name, folder)]
    (folder / "drawn.json").write_text(json.dumps(rows))
    from drawn_by_hand import drawn_by_hand, prepared

    (folder / "prepared.json").write_text(json.dumps(prepared()))
    (folder / "by_hand.json").write_text(json.dumps(drawn_by_hand(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
