"""The reference player gives the goldens, and draws the same latents as `Pipeline` to the last bit."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from reference.player import Noise, Player, Tokenizer

from ondevice import cli
from ondevice.base.paths import MODELS
from ondevice.bundle import open_bundle
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
PROMPTS = GOLDEN.parent / "data" / "prompts" / "clip_tokens.json"


def goldens(folder: str) -> list[Any]:
    paths = sorted((GOLDEN / folder).glob("*.json"))
    return [pytest.param(json.loads(path.read_text()), id=path.stem) for path in paths if path.stem != "refused"]


def test_it_is_short_and_knows_nothing_of_this_package() -> None:
    source = Path(sys.modules[Player.__module__].__file__ or "").read_text()
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.Import | ast.ImportFrom)}  # fmt: skip
    assert {str(name).split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy", "PIL"}
    assert len(source.splitlines()) <= 250


@pytest.mark.parametrize("golden", goldens("noise"))
def test_noise(golden: dict[str, Any]) -> None:
    stream = Noise(golden["seed"])
    for draw in golden["draws"]:
        got = stream.draw(draw["shape"])
        if "sha256" in draw:
            assert hashlib.sha256(got.astype("<f4").tobytes()).hexdigest() == draw["sha256"]
        else:
            assert got.tobytes() == np.array(draw["values"], np.float32).tobytes()


@pytest.mark.parametrize("golden", goldens("tokens"))
def test_tokens(golden: dict[str, Any]) -> None:
    files = {name: (MODELS / "clip_tokenizer" / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    tokenizer = Tokenizer(files | {name: json.dumps(held).encode() for name, held in golden["files"].items()}, golden["length"])
    rows = [(row["text"], row["ids"]) for row in golden["texts"]]
    if golden["pad"] == 49407 and "special_tokens_map.json" in golden["files"]:
        rows += [(row["prompt"], row["ids77"]["pad_eos"]) for row in json.loads(PROMPTS.read_text())["prompts"]]
    for text, ids in rows:
        assert tokenizer(text).tolist() == [[*ids, *[golden["pad"]] * (golden["length"] - len(ids))]], text


@pytest.mark.parametrize("golden", goldens("samplers"))
def test_samplers(golden: dict[str, Any]) -> None:
    """The same replay as in a picture, with the model of the goldens in a loop's place."""
    shape, table = golden["shape"], golden["table"]
    image, noise, *draws = (np.array(v, np.float32).reshape(shape) for v in (golden["image"], golden["noise"], *golden["draws"]))
    player = Player.__new__(Player)
    player.pipeline = {"numbers": {}, "latents": {"strength": "strength"}, "denoise": [{"from": 0, "until": 1}]}
    player.predict = lambda _: player.get("latents") * np.float32(0.5)
    for call, result in [(None, golden["result"]), *((row["call"], row["result"]) for row in golden["begun"])]:
        player.values, player.noise = {}, SimpleNamespace(draw=functools.partial(lambda left, _: next(left), iter(draws)))
        player.numbers = {} if call is None else {"strength": (table["steps"] - call) / table["steps"] + 1e-9}
        got = player.denoise(table, noise, None if call is None else image)
        assert got.tobytes() == np.array(result, np.float32).tobytes(), call


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("player") / "demo.ondevice"
    assert cli.main(["convert", "demo", "--out", str(path), "--size", "64x72"]) == 0
    return path


PICTURE = np.random.default_rng(5).integers(0, 256, (90, 70, 3), np.uint8)
WAYS: dict[str, dict[str, Any]] = {
    "guided": {},
    "with a negative prompt": {"negative_prompt": "a dog, DOGS"},
    "without guidance": {"guidance_scale": 1.0, "negative_prompt": "a dog"},
    "ancestral": {"sampler": "euler_a", "num_inference_steps": 4, "seed": 2**32 - 1},
    "from a picture": {"sampler": "ddim", "num_inference_steps": 10, "image": PICTURE, "strength": 0.45},
    "from a picture, ancestral": {"sampler": "euler_a", "num_inference_steps": 6, "image": PICTURE},
    "rescaled": {"numbers": {"guidance_rescale": 0.7}, "sampler": "unipc", "num_inference_steps": 6},
}


@pytest.mark.parametrize("way", WAYS)
def test_it_draws_the_same_latents_as_the_pipeline(demo: Path, way: str) -> None:
    options = {"num_inference_steps": 8, "sampler": "dpmpp_2m", "seed": -3} | WAYS[way]
    width, height = 64, 72
    bundle = open_bundle(demo)
    session = Session(bundle, choose_device("cpu"))
    player = Player(demo, lambda component, sizes, inputs: session.run(component, inputs, **sizes))
    pipeline = Pipeline.of(bundle, session)
    want = pipeline.draw(Request(prompt="A red cat's 3 hats", width=width, height=height, **options))
    numbers = {name: options[name] for name in ("guidance_scale", "strength") if name in options} | options.get("numbers", {})
    latents, pixels = player.draw(
        {"prompt": "A red cat's 3 hats", "negative_prompt": options.get("negative_prompt")},
        (width, height),
        seed=options["seed"],
        numbers=numbers,
        pictures={"image": options["image"]} if "image" in options else None,
        sampler=f"{options['sampler']}_{options['num_inference_steps']}",
    )
    assert latents.tobytes() == want.latents.tobytes()
    assert np.array_equal(pixels, want.pixels)
