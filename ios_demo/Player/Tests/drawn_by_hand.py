"""Bundles of tiny plans for the pipelines of tests/golden/pipeline, and what Python draws with them, for the Swift
player's tests."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import __version__
from ondevice.bundle import open_bundle
from ondevice.diffusion.parameters import describe
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.run.session import Session

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden" / "pipeline"
PIXELS = {"image": (16, 24, 1), "mask": (33, 50, 9), "control": (40, 30, 5), "control_2": (21, 24, 3)}
COMMON = {"seed": 6, "sampler": "euler_a", "num_inference_steps": 4, "width": 24, "height": 16}
NEGATIVE = {"negative_prompt": "a red dog"}
FILM = {"frames": 5, "chunks": (1, 2)}
GUESS = {"control_guess": 1.0, "control_negative_scale": 0.0}
WINDOWS = {"control_scale": 0.7, "control_end": 0.5, "control_start_2": 0.25, "control_negative_scale_2": 0.2}
WEBUI = {"seed_mode": "a1111", "variation_seed": 9, "variation_strength": 0.3, "noise_seed_delta": 31337}


def pictures(*names: str) -> dict[str, np.ndarray]:
    """Random squares, uint8 [height, width, 3]."""
    found = {}
    for name in names:
        height, width, side = PIXELS[name]
        chance = np.random.default_rng(height)
        squares = chance.integers(0, 256, (-(-height // side), -(-width // side), 3), np.uint8)
        found[name] = np.repeat(np.repeat(squares, side, 0), side, 1)[:height, :width]
    return found


def _in_some_passes(pipeline: dict[str, Any]) -> None:
    pipeline["denoise"][0]["passes"][0]["zeros"] = ["residual_0", "residual_3"]


def _zeros_for_a_picture(pipeline: dict[str, Any]) -> None:
    pipeline["denoise"][0]["roles"][0]["feed"]["extra"] = {"value": "image_latents", "absent": "zeros"}


def _nothing(pipeline: dict[str, Any]) -> None:
    pass


Case = tuple[str, Callable[[dict[str, Any]], None], dict[str, Any], dict[str, Any]]
CASES: list[Case] = [  # pipeline, how it is changed, the request, what the bundle has
    ("sd1", _nothing, {**NEGATIVE, **pictures("image"), "strength": 0.6}, {}),
    ("sd1", _nothing, {**NEGATIVE, **pictures("image", "mask")}, {}),
    ("sd1", _nothing, {**NEGATIVE, **pictures("image", "mask"), "strength": 0.6}, {}),
    ("sd1", _zeros_for_a_picture, NEGATIVE, {}),
    ("inpaint", _nothing, {**NEGATIVE, **pictures("image", "mask")}, {}),
    ("inpaint", _nothing, {**NEGATIVE, **pictures("image", "mask"), "strength": 0.6}, {}),
    ("sdxl_refiner", _nothing, {**NEGATIVE, "numbers": {"handover": 0.5, "aesthetic_score": 7.0}}, {}),
    ("lcm", _nothing, {"numbers": {"guidance_scale": 3.0}}, {}),
    ("controlnet", _nothing, {**NEGATIVE, "pictures": pictures("control"), "numbers": {"control_end": 0.6}}, {}),
    ("controlnet", _in_some_passes, {**NEGATIVE, "pictures": pictures("control")}, {}),
    ("control", _nothing, NEGATIVE, {}),
    ("control", _nothing, {**NEGATIVE, "pictures": pictures("control"), "numbers": GUESS}, {}),
    ("control", _nothing, {**NEGATIVE, "pictures": pictures("control", "control_2"), "numbers": WINDOWS}, {}),
    ("control", _nothing, {**pictures("image", "mask"), "pictures": pictures("control"), "strength": 0.6}, {}),
    ("svd", _nothing, {"prompt": "", **pictures("image"), "numbers": {"frame_count": 5.0}}, FILM),
    (
        "svd",
        _nothing,
        {"prompt": "", **pictures("image"), "numbers": {"frame_count": 5.0, "max_guidance_scale": 1.0}},
        FILM,
    ),
    ("sd1", _nothing, {"seed_mode": "cuda"}, {}),
    ("sd1", _nothing, {**WEBUI, **pictures("image"), "strength": 0.6}, {}),
    (
        "sd1",
        _nothing,
        {"prompt": "(red:1.3) cat AND re:0.5", "negative_prompt": "a [dog] (ca:1.5)", "emphasis": "mean"},
        {},
    ),
    ("sd1", _nothing, {"prompt": "(re:0.5) cat, [[ca]] (red:1.25) (x:-0.5)", "emphasis": "compel"}, {}),
    ("sdxl_refiner", _nothing, {"prompt": "(re:0.5) cat AND red:-0.25", "emphasis": "compel"}, {}),
    (
        "sd1",
        _nothing,
        {**NEGATIVE, "prompt": "a BREAK (cat:1.2) " + "red, " * 50, "emphasis": "mean", "long": "fit"},
        {"texts": 2},
    ),
    (
        "sdxl_refiner",
        _nothing,
        {"prompt": "cat BREAK re AND " + "red " * 80, "emphasis": "mean", "long": "chunk"},
        {"texts": 2},
    ),
    ("sd1", _nothing, {"denoising_end": 0.6}, {}),
    ("sdxl_refiner", _nothing, {"denoising_start": 0.6, "numbers": {"aesthetic_score": 7.0}}, {}),
]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


def prepared() -> dict[str, Any]:
    """Edges as OpenCV finds them, and CLIP's pictures, of every seventh pixel of each direction."""
    from ondevice.diffusion.clip_picture import clip_picture

    stored = np.load(ROOT / "tests" / "data" / "pictures" / "canny.npz")
    edges = [
        {"pixels": stored[name].tolist(), "edges": stored[f"{name}.edges"].astype(int).tolist()}
        for name in ("picture", "noise")
    ]
    large = np.random.default_rng(1).integers(0, 256, (40, 1000, 3), np.uint8)  # which is blurred, too
    clips = [large, np.load(ROOT / "tests" / "data" / "pictures" / "clip_vision.npz")["picture"]]
    found = [{"pixels": one.tolist(), "every7": clip_picture(one)[:, :, ::7, ::7].tolist()} for one in clips]
    return {"edges": edges, "clip_vision": found}


def changed() -> dict[str, str]:
    """Weights of the golden bundle with a change of next to nothing: int4's exact units are found again, and all else
    is rounded as Python rounds it; hexadecimal, by key. Shares of weights are left alone by players."""
    from ondevice.bundle.changed import ChangedWeights, changes_of
    from ondevice.bundle.made_file import key_of

    bundle = open_bundle(ROOT / "tests" / "golden" / "bundle" / "adapters.ondevice")
    changes = changes_of(bundle, bundle.manifest.adapters["first"])
    made = ChangedWeights(bundle, {leaf: [(1e-30, change) for change in terms] for leaf, terms in changes.items()})
    rows = {key: bundle.manifest.weights[key].made for key in made.keys}
    own = [key for key, one in rows.items() if one is not None and key_of(one) == "made"]
    return {key: made.values(key).tobytes().hex() for key in own}


def drawn_by_hand(folder: Path, device: Any) -> list[dict[str, Any]]:
    """A row for each case, as `drawn.py` writes them; bundles are FOLDER/hand_NUMBER.ondevice."""
    from bundle.pipeline_bundle import write_pipeline

    rows: list[dict[str, Any]] = []
    for number, (name, change, asked, has) in enumerate(CASES):
        whole = copy.deepcopy(json.loads((GOLDEN / f"{name}.json").read_text()))
        change(whole["pipeline"])
        path = folder / f"hand_{number}.ondevice"
        shutil.rmtree(path, ignore_errors=True)
        write_pipeline(path, whole, samplers={"euler_a": 4}, **has)
        bundle = open_bundle(path)
        request = {"prompt": "a red cat", **COMMON, **asked}
        if "denoising_start" in asked:
            request["latents"] = np.array(rows[-1]["latents"], np.float32).reshape(1, 4, 2, 3)
        picture = Pipeline.of(bundle, Session(bundle, device)).draw(Request(**request))
        facts = picture.parameters | {"model": bundle.model["source"], "version": f"ondevice {__version__}"}
        texts = [describe(facts, bundle.scheduler), json.dumps(facts, sort_keys=True)]
        frames = [picture.pixels] if picture.frames is None else picture.frames
        rows.append({"bundle": path.stem, "what": name, "request": _plain(request), "texts": texts})
        rows[-1] |= {
            "latents": picture.latents.ravel().astype(float).tolist(),
            "frames": [one.tolist() for one in frames if one is not None],
        }
    return rows
