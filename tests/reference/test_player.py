"""The reference player gives the goldens, and draws the same latents as `Pipeline` to the last bit."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diffusion.fake_networks import Letters, OtherDevice
from diffusion.sampler_helpers import SD15
from diffusion.test_pipeline_shapes import PIXELS, PLACE, controlnet, golden, network, picture_guided, pipeline
from family_files import SMALL, TINY
from reference.philox import Cuda, turned
from reference.pictures import Pictures
from reference.player import Noise, Player, Tokenizer
from reference.prompts import Texts
from reference.target import target_of

from ondevice.base.paths import MODELS
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.tiny_files import with_random_taesd
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.diffusion.samplers import make_table
from ondevice.diffusion.text.chunks import Token, padded
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
PROMPTS = GOLDEN.parent / "data" / "prompts" / "clip_tokens.json"


def goldens(folder: str, names: str = "*") -> list[Any]:
    paths = sorted((GOLDEN / folder).glob(f"{names}.json"))
    return [pytest.param(json.loads(path.read_text()), id=path.stem) for path in paths if path.stem != "refused"]


def test_it_is_short_and_knows_nothing_of_this_package() -> None:
    sources = [Path(sys.modules[of.__module__].__file__ or "").read_text() for of in (Player, Pictures, Texts)]
    names = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert {str(name).split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy", "PIL", "reference"}
    assert all(len(source.splitlines()) <= 400 for source in sources)


@pytest.mark.parametrize("rows", [*goldens("noise", "seed_*"), *goldens("noise", "cuda_*")])
def test_noise(rows: dict[str, Any]) -> None:
    stream = Cuda(rows["seed"]) if rows.get("mode") == "cuda" else Noise(rows["seed"])
    for draw in rows["draws"]:
        got = stream.draw(draw["shape"])
        if "sha256" in draw:
            assert hashlib.sha256(got.astype("<f4").tobytes()).hexdigest() == draw["sha256"]
        else:
            assert got.tobytes() == np.array(draw["values"], np.float32).tobytes()


@pytest.mark.parametrize("rows", goldens("noise", "a1111_*"))
def test_noise_of_webui(rows: dict[str, Any]) -> None:
    noise, stream = Cuda(rows["seed"]).draw(rows["shape"]), Cuda(rows["seed"])
    stream.draws = 1
    if rows["noise_seed_delta"]:
        stream = Cuda(rows["seed"] + rows["noise_seed_delta"])
    if rows["variation_strength"]:
        noise = turned(rows["variation_strength"], noise, Cuda(rows["variation_seed"]).draw(rows["shape"]))
    assert noise.tobytes() == np.array(rows["initial"], np.float32).tobytes()
    for values in rows["loop"]:
        assert stream.draw(rows["shape"]).tobytes() == np.array(values, np.float32).tobytes()


@pytest.mark.parametrize("rows", goldens("tokens"))
def test_tokens(rows: dict[str, Any]) -> None:
    files = {name: (MODELS / "clip_tokenizer" / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    tokenizer = Tokenizer(
        files | {name: json.dumps(held).encode() for name, held in rows["files"].items()}, rows["length"]
    )
    texts = [(row["text"], row["ids"]) for row in rows["texts"]]
    if rows["pad"] == 49407 and "special_tokens_map.json" in rows["files"]:
        texts += [(row["prompt"], row["ids77"]["pad_eos"]) for row in json.loads(PROMPTS.read_text())["prompts"]]
    for text, ids in texts:
        assert tokenizer(text).tolist() == [[*ids, *[rows["pad"]] * (rows["length"] - len(ids))]], text


def test_targets() -> None:
    folder = GOLDEN / "bundle"
    manifest = json.loads((folder / "targets.ondevice" / "bundle.json").read_text())
    expected = json.loads((folder / "expected_targets.json").read_text())
    assert [target_of(manifest, device) for device in expected["devices"]] == [d["takes"] for d in expected["devices"]]
    for name, files in expected["plans"].items():
        player = Player.__new__(Player)
        player.manifest, player.target, player.texts = manifest, name, SimpleNamespace(length=1, count=lambda _: 1)
        found = []
        for width in (8, 1000):
            player.place = {"width": width}
            found.append(player.plan("tiny", 1)["file"])
        assert sorted(found) == sorted(files)


@pytest.mark.parametrize("rows", goldens("samplers"))
def test_samplers(rows: dict[str, Any]) -> None:
    """The same replay as in a picture, with the model of the goldens in a loop's place."""
    shape, table = rows["shape"], rows["table"]
    image, noise, *draws = (
        np.array(v, np.float32).reshape(shape) for v in (rows["image"], rows["noise"], *rows["draws"])
    )
    player = Player.__new__(Player)
    player.pipeline = {"numbers": {}, "latents": {"strength": "strength"}, "denoise": [{"from": 0, "until": 1}]}
    player.predict = lambda _: player.get("latents") * np.float32(0.5)
    for call, result in [(None, rows["result"]), *((row["call"], row["result"]) for row in rows["begun"])]:
        player.values, player.noise = (
            {},
            SimpleNamespace(draw=functools.partial(lambda left, _: next(left), iter(draws))),
        )
        player.numbers = {} if call is None else {"strength": (table["steps"] - call) / table["steps"] + 1e-9}
        got = player.denoise(table, noise, None if call is None else image)
        assert got.tobytes() == np.array(result, np.float32).tobytes(), call


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The demo model, and tiny models of the other families, by name."""
    folder = tmp_path_factory.mktemp("player")

    @functools.cache
    def bundle(name: str) -> Path:
        if name == "demo":
            return compile_bundle(
                open_checkpoint(None, family="demo"), folder / "demo.ondevice", Recipe(), sizes=[SIZES["demo"]]
            )
        if name == "demo_taesd":
            whole = with_random_taesd(open_checkpoint(None, family="demo"), 5)
            return compile_bundle(whole, folder / f"{name}.ondevice", Recipe(), sizes=[SIZES["demo"]])
        family, _, chunks = name.partition("_")
        tiny = random_checkpoint_from_configs(**(TINY | SMALL)[family], seed=5, family=family)
        recipe = Recipe(chunks=int(chunks or 1))
        return compile_bundle(tiny, folder / f"{name}.ondevice", recipe, sizes=[SIZES[name]])

    return bundle


SIZES = {"demo": (64, 72), "sd21": (24, 16), "sdxl": (16, 24), "sdxl_3": (16, 24), "sdxs": (16, 16), "ssd-1b": (24, 16)}
SIZES["demo_taesd"] = SIZES["demo"]
SIZES |= dict.fromkeys(("lcm", "sd15-inpaint", "instruct-pix2pix", "sdxl-refiner", "sd3", "sd3-without-t5"), (24, 16))
MASK = np.pad(np.full((40, 50, 3), 255, np.uint8), ((30, 20), (5, 15), (0, 0)))
PICTURE = np.random.default_rng(5).integers(0, 256, (90, 70, 3), np.uint8)
NEGATIVE = {"negative_prompt": "a dog, DOGS"}
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("demo", {}),
    ("demo", NEGATIVE),
    ("demo", NEGATIVE | {"guidance_scale": 1.0}),
    ("demo", {"sampler": "euler_a", "num_inference_steps": 4, "seed": 2**32 - 1}),
    ("demo", {"sampler": "ddim", "num_inference_steps": 10, "image": PICTURE, "strength": 0.45}),
    ("demo", {"sampler": "euler_a", "num_inference_steps": 6, "image": PICTURE}),
    ("demo", {"numbers": {"guidance_rescale": 0.7}}),
    ("sd21", NEGATIVE | {"numbers": {"guidance_rescale": 0.7}}),
    ("sd21", {"guidance_scale": 0.0}),
    ("sd21", {"sampler": "ddim", "image": PICTURE, "strength": 0.3}),
    ("sdxl", {}),
    ("sdxl", {"negative_prompt": ""}),
    ("sdxl", {"guidance_scale": 1.0, "sampler": "euler", "numbers": {"crop_top": 8, "original_width": 900}}),
    ("sdxl", NEGATIVE | {"sampler": "euler_a", "image": PICTURE, "strength": 0.6}),
    ("demo", {"prompt": "a (red:1.3) [cat] AND a dog:0.5", "emphasis": "mean", "numbers": {"guidance_rescale": 0.7}}),
    ("demo", {"prompt": "a (red:0.6) (cat:1.4)", "emphasis": "compel", "negative_prompt": "(dogs:0.2)"}),
    ("sdxl_3", {"prompt": "cats, " * 50 + "(red:1.5) BREAK end", "emphasis": "mean", "long": "fit"}),
    ("sdxl_3", NEGATIVE | {"prompt": "a cat BREAK (dog:0.5) AND cats", "emphasis": "compel", "long": "chunk"}),
    ("sdxs", {"prompt": "a red cat, " * 60, "sampler": "euler", "num_inference_steps": 1, "guidance_scale": 0.0}),
    ("ssd-1b", NEGATIVE),
    ("lcm", {"sampler": "lcm", "num_inference_steps": 4}),
    ("sd15-inpaint", NEGATIVE | {"image": PICTURE, "mask": MASK}),
    ("sd15-inpaint", {"sampler": "euler", "image": PICTURE, "mask": MASK, "strength": 0.6}),
    ("instruct-pix2pix", NEGATIVE | {"image": PICTURE, "numbers": {"image_guidance_scale": 1.25}}),
    ("sd3", NEGATIVE | {"sampler": "flow_heun", "prompt": "a red cat, naïve ﬁsh"}),
    ("sd3-without-t5", {"sampler": "flow_euler", "image": PICTURE, "mask": MASK, "strength": 0.6}),
    ("demo_taesd", {"taesd": True, "image": PICTURE, "sampler": "ddim"}),
    ("sdxl-refiner", NEGATIVE | {"sampler": "euler", "image": PICTURE, "numbers": {"aesthetic_score": 7.0}}),
]


@pytest.mark.device
@pytest.mark.parametrize(
    ("name", "options"), WAYS, ids=lambda value: value if isinstance(value, str) else "_".join(value) or "plain"
)
def test_it_draws_the_same_latents_as_the_pipeline(
    bundles: Callable[[str], Path], name: str, options: dict[str, Any]
) -> None:
    options = {"num_inference_steps": 8, "sampler": "dpmpp_2m", "seed": -3, "prompt": PROMPT} | options
    (width, height), bundle = SIZES[name], open_bundle(bundles(name))
    session = Session(bundle, choose_device("cpu"))
    want = Pipeline.of(bundle, session).draw(Request(width=width, height=height, **options))
    player = Player(bundle.path, lambda component, sizes, inputs: session.run(component, inputs, **sizes))
    latents, pixels = draw(player, (width, height), options)
    assert latents.tobytes() == want.latents.tobytes()
    assert np.array_equal(pixels, [want.pixels])


PROMPT = "A red cat's 3 hats"


def draw(player: Player, size: tuple[int, int], options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """What is asked of `Pipeline` with these options, asked of the player."""
    numbers = {name: options[name] for name in ("guidance_scale", "strength") if name in options} | options.get(
        "numbers", {}
    )
    return player.draw(
        {"prompt": options.get("prompt", PROMPT), "negative_prompt": options.get("negative_prompt")},
        size,
        seed=options["seed"],
        numbers=numbers,
        pictures={name: options[name] for name in ("image", "mask") if name in options} or None,
        sampler=f"{options['sampler']}_{options['num_inference_steps']}",
        emphasis=options.get("emphasis", "none"),
        fast=options.get("taesd", False),
    )


class ReferenceLetters(Letters):
    """The same tokenizer as the reference player asks for it."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def spelled(self, text: str) -> str:
        return text

    def padded(self, ids: list[int]) -> np.ndarray:
        return padded([Token(index, 1, 0, 0) for index in ids], self)[np.newaxis]


def guided_early() -> dict[str, Any]:
    """Guidance in a window of calls."""
    whole = golden("sd1")
    edges, windowed = {"begin": {"default": 0}, "end": {"default": 0.5}}, {"default": 7.5, "window": ["begin", "end"]}
    whole["pipeline"]["numbers"] = edges | whole["pipeline"]["numbers"] | {"guidance_scale": windowed}
    return whole


@pytest.mark.parametrize("batches", [(1, 2, 3), (1,)])
@pytest.mark.parametrize(
    ("whole", "options"),
    [
        (
            controlnet(),
            {"image": PIXELS, "numbers": {"control_scale": 0.5, "control_start": 0.25, "control_end": 0.75}},
        ),
        (golden("sdxl_refiner"), {"numbers": {"handover": 0.5, "crop_top": 3, "aesthetic_score": 7}}),
        (
            golden("sdxl_refiner"),
            NEGATIVE | {"image": PIXELS, "sampler": "ddim", "strength": 0.8, "numbers": {"handover": 0.3}},
        ),
        (picture_guided(), NEGATIVE | {"image": PIXELS}),
        (golden("lcm"), {"guidance_scale": 3.0}),
        (guided_early(), NEGATIVE),
    ],
    ids=["controlnet", "sdxl_refiner", "sdxl_refiner_from_a_picture", "picture_guided", "lcm", "guided_early"],
)
def test_it_draws_the_pipelines_written_by_hand(
    whole: dict[str, Any], options: dict[str, Any], batches: tuple[int, ...], tmp_path: Path
) -> None:
    """With made-up networks: two stretches, roles before the UNet, windows, numbers per text, zeros,
    passes one after another."""
    options = {"num_inference_steps": 4, "sampler": "euler_a", "seed": 6} | options
    given = dict.fromkeys(whole["components"], batches)
    want = pipeline(whole, OtherDevice(network), given).draw(Request(prompt=PROMPT, **options))
    operands = [("last_hidden_state", [1, 7, 1]), ("hidden_states", [1, 7, 1]), ("text_embeds", [1, 1])]
    files = {
        "bundle.json": {
            "pipeline": whole["pipeline"],
            "tokenizers": {},
            "plans": [
                {"component": name, "sizes": {"batch": batch} | at, "file": "text.json"}
                for name in whole["components"]
                for at in [{} if "text" in name or "condition" in name else PLACE]
                for batch in batches
            ],
        },
        "text.json": {"operands": [{"name": name, "shape": shape, "dtype": "f32"} for name, shape in operands]},
        f"{options['sampler']}_4.json": make_table(options["sampler"], 4, SD15).to_json(),
    }
    (tmp_path / "samplers").mkdir()
    for name, content in files.items():
        (tmp_path / ("samplers" if name.endswith("_4.json") else "") / name).write_text(json.dumps(content))
    player = Player(tmp_path, lambda component, sizes, inputs: network(component, inputs))
    player.tokenizers = {name: ReferenceLetters(7) for name in whole["tokenizers"]}
    latents, pixels = draw(player, (24, 16), options)
    assert latents.tobytes() == want.latents.tobytes()
    assert np.array_equal(pixels, [want.pixels])
