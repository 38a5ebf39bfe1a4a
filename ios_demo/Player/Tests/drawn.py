"""What Python draws, for the Swift player's tests: bundles of drawn_models.py in FOLDER/NAME.ondevice, and in
FOLDER/drawn.json a row for each picture. They are drawn with the same stand-in for Metal (tests/metal), so that the
Swift player's files are the same to the byte, and some also on the host's OpenCL device. And bundles that are made to
break a player: FOLDER/hostile.

    python ios_demo/Player/Tests/drawn.py FOLDER
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from drawn_models import MODELS

from ondevice import __version__
from ondevice.bundle import Bundle, open_bundle
from ondevice.diffusion.canny import edge_picture
from ondevice.diffusion.image import resize
from ondevice.diffusion.parameters import describe
from ondevice.diffusion.picture_file import encoded
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Picture, Request
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

PROMPT = "a red circle on a blue background"
IMAGE = np.random.default_rng(5).integers(0, 256, (90, 70, 3), np.uint8)
SMALL = {"width": 64, "height": 64}
NEGATIVE = {"negative_prompt": "a dog, (été):\n Negative prompt: 猫"}
BEGUN = {"image": IMAGE, "strength": 0.5, "sampler": "ddim"}
DDIM = {"sampler": "ddim", "num_inference_steps": 2}
LORA = {"lora": [["ink", 0.7], ["clay", -0.4]]}
SQUARES = np.repeat(np.repeat(IMAGE[:4, :6], 8, 0), 8, 1)  # edges to be found
CONTROL = {"pictures": {"control": SQUARES}, "width": 24, "height": 16, "sampler": "euler", "num_inference_steps": 4}
REQUESTS: dict[str, list[dict[str, Any]]] = {
    "demo": [
        {"seed": 3, "sampler": "ddim", "num_inference_steps": 4, "preview_every": 3},
        {"seed": 2**32 - 1, "sampler": "euler_a", "num_inference_steps": 2, **NEGATIVE},
        {"seed": 1, "num_inference_steps": 4, **BEGUN, **SMALL},
        {"seed": 1, **DDIM, "guidance_scale": 1.0},
        {"seed": 5, **DDIM, "numbers": {"guidance_rescale": 0.7}},
    ],
    "sd21": [{"seed": 2, "sampler": "euler", "num_inference_steps": 4, "preview_every": 3, **NEGATIVE}],
    "sdxl": [
        {
            "seed": 2,
            "sampler": "dpmpp_2m",
            "num_inference_steps": 2,
            "numbers": {"crop_top": 8.0, "original_width": 900.0},
        },
        {"seed": 4, "sampler": "unipc", "num_inference_steps": 2, **NEGATIVE},
        {"seed": 4, "sampler": "unipc", "num_inference_steps": 2, "negative_prompt": ""},
    ],
    # one pipeline that switches: to both, to one, to none, and back
    "adapted": [
        {"seed": 1, **DDIM, **LORA},
        {"seed": 1, **DDIM, "lora": [["clay", None], ["ink", 0.0]]},
        {"seed": 1, **DDIM},
        {"seed": 1, **DDIM, **LORA},
    ],
    "adapted_i8": [{"seed": 1, **DDIM, **LORA}, {"seed": 1, **DDIM}],
    "adapted_i4": [{"seed": 1, **DDIM, **LORA}, {"seed": 1, **DDIM}],
    "fast": [
        {"seed": 1, "sampler": "ddim", "num_inference_steps": 4, "fast": True, "preview_every": 3},
        {"seed": 1, **DDIM},
    ],
    "control": [
        {"seed": 4, **CONTROL, "pictures": {}},
        {"seed": 4, **CONTROL, "numbers": {"control_scale": 0.6, "control_end": 0.5}, "preview_every": 3},
        {"seed": 4, **CONTROL, "numbers": {"control_guess": 1.0, "control_negative_scale": 0.0}, **NEGATIVE},
        {"seed": 4, **CONTROL, "pictures": {"control": SQUARES, "control_2": IMAGE}, "canny": [150.5, 60.0]},
        {"seed": 4, **CONTROL, "image": IMAGE, "strength": 0.5, "canny": [100.0, 200.0]},
    ],
}
OF_OPENCL = ("demo", "sd21", "sdxl")  # drawn on another device, too


def plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return {key: plain(one) for key, one in value.items()} if isinstance(value, dict) else value


def facts_of(bundle: Bundle, picture: Picture, **more: Any) -> dict[str, Any]:
    """All that a picture's file says it was drawn with."""
    version = {"model": bundle.model["source"], "version": f"ondevice {__version__}"}
    return {**picture.parameters, **more, **version}


def draw(pipeline: Pipeline, asked: dict[str, Any], *, shows: bool) -> tuple[Picture, list[np.ndarray], dict[str, Any]]:
    """A picture, its previews where they are known, and what a front door says of it beside the pipeline."""
    fields, said = dict(asked), {}
    pipeline.set_adapters([name for name, _ in fields.get("lora", [])], [scale for _, scale in fields.pop("lora", [])])
    if "fast" in fields:
        fields["taesd"] = fields.pop("fast")
    if thresholds := fields.pop("canny", None):
        size = fields["width"], fields["height"]
        edges = {name: edge_picture(resize(one, *size), *thresholds) for name, one in fields["pictures"].items()}
        fields["pictures"], said = edges, {"canny": ",".join(f"{one:g}" for one in thresholds)}
    every, shown = fields.pop("preview_every", 0), []

    def on_step(done: int, calls: int, timestep: float, latents: np.ndarray) -> None:
        if every and (done % every == 0 or done == calls):
            shown.append(pipeline.previewer()(latents))

    return pipeline.draw(Request(prompt=PROMPT, **fields), on_step=on_step if shows else None), shown, said


def drawn(name: str, folder: Path, device: Any) -> Iterator[dict[str, Any]]:
    """A row for each request of a bundle, which is written here."""
    bundle = open_bundle(MODELS[name].write(folder / f"{name}.ondevice"))
    pipelines = [Pipeline.of(bundle, Session(bundle, device))]
    if name in OF_OPENCL:
        pipelines.append(Pipeline.of(bundle, Session(bundle, choose_device(None))))
    for pipeline in pipelines:
        for adapter in bundle.manifest.adapters:
            pipeline.load_lora_weights(adapter, adapter)
    shows = bool(bundle.pipeline.latents.preview or bundle.pipeline.fast)
    for asked in REQUESTS[name]:
        (picture, previews, said), *others = (draw(pipeline, asked, shows=shows) for pipeline in pipelines)
        assert picture.pixels is not None
        facts = facts_of(bundle, picture, **said)
        file = encoded(Path("a.png"), picture.pixels, facts, bundle.scheduler)
        yield {
            "bundle": name,
            "prompt": PROMPT,
            **plain(asked),
            "pixels": picture.pixels.tolist(),
            "latents": picture.latents.ravel().astype(float).tolist(),
            "previews": [one.tolist() for one in previews],
            "texts": [describe(facts, bundle.scheduler), json.dumps(facts, sort_keys=True)],
            "file": hashlib.sha256(file).hexdigest(),
            "of_opencl": [other.pixels.tolist() for other, _, _ in others if other.pixels is not None],
        }


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
    from metal.device import MetalOnCpu

    (folder / "metal").mkdir(parents=True, exist_ok=True)
    device = MetalOnCpu(folder / "metal")
    write_hostile(folder / "hostile")
    rows = [row for name in REQUESTS for row in drawn(name, folder, device)]
    (folder / "drawn.json").write_text(json.dumps(rows))
    from drawn_by_hand import changed, drawn_by_hand, prepared

    (folder / "prepared.json").write_text(json.dumps(prepared()))
    (folder / "changed.json").write_text(json.dumps(changed()))
    (folder / "by_hand.json").write_text(json.dumps(drawn_by_hand(folder, device)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
