"""`generate --from`: a picture that is drawn again from its own file is the same file, byte for byte.

Networks are formulas here (made_up_device.py); the texts, samplers, noise, pictures and files are those of the verbs.
On a device, the demo model draws one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up_device
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ondevice import cli
from ondevice.errors import StrictError, UsageError

Draw = Callable[..., Path]


@pytest.fixture(scope="module")
def bundles(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("replay")
    siblings = ("demo-lcm", "demo-inpaint")
    for name in siblings:
        assert cli.main(["convert", name, "--out", str(folder / name), "--size", "64x64"]) == 0
    return {"demo": demo_bundle} | {name: folder / name for name in siblings}


@pytest.fixture
def draw(bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    made_up_device.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save("begin.png")
    mask = np.zeros((64, 96), np.uint8)
    mask[:, 50:] = 255
    Image.fromarray(mask).save("mask.png")
    np.save("noise.npy", rng.standard_normal((1, 4, 8, 8)).astype(np.float32))

    def run(out: str, *words: object, model: str = "demo", code: int = 0) -> Path:
        assert cli.main(["generate", str(bundles[model]), *map(str, words), "--out", out]) == code
        return Path(out)

    return run


PROMPT = 'a (red:1.2) circle, "quoted"\nNegative prompt: on a line'
IMAGE = ["--init-image", "begin.png", "--fit", "crop", "--size", "64x64"]
ASKED: dict[str, tuple[str, list[str]]] = {
    "nothing more": ("demo", []),
    "texts": ("demo", ["--negative", "é, [b]", "--emphasis", "compel", "--long", "truncate"]),
    "signs as letters": ("demo", ["--emphasis", "none"]),
    "no guidance": ("demo", ["--guidance", "0.5", "--negative", "unused"]),
    "seeds": ("demo", ["--seed", str(2**64 - 1), "--seed-mode", "a1111", "--variation-seed", "3",
                       "--variation-strength", "0.25", "--noise-seed-delta", "-7", "--sampler", "euler_a"]),
    "eta": ("demo", ["--sampler", "ddim", "--eta", "0.3", "--spacing", "trailing"]),
    "karras": ("demo", ["--sampler", "dpmpp_2m", "--karras", "--set", "algorithm_type=sde-dpmsolver++"]),
    "ays": ("demo", ["--sampler", "euler", "--schedule", "ays"]),
    "sigmas": ("demo", ["--sampler", "heun", "--sigmas", "14.6,3.1,0.7"]),
    "numbers": ("demo", ["--number", "guidance_rescale=0.7"]),
    "latents": ("demo", ["--latents", "noise.npy", "--size", "64x64"]),
    "image": ("demo", [*IMAGE, "--strength", "0.6", "--sampler", "dpmpp_sde"]),
    "image at its size": ("demo", ["--init-image", "begin.png", "--background", "#ff0000"]),
    "mask": ("demo", [*IMAGE, "--mask", "mask.png"]),
    "lcm": ("demo-lcm", ["--guidance", "3"]),
    "inpaint": ("demo-inpaint", [*IMAGE, "--mask", "mask.png", "--negative", "b"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_a_picture_drawn_again_is_the_same_file(name: str, draw: Draw) -> None:
    model, words = ASKED[name]
    steps = [] if "--sigmas" in words else ["--steps", "3"]
    first = draw("a.png", PROMPT, *steps, *words, model=model)
    again = draw("b.png", "--from", "a.png", "--strict", model=model)
    assert again.read_bytes() == first.read_bytes()
    if name not in ("seeds", "mask"):
        return
    third = draw("c.jpg", "--from", "b.png", model=model)
    assert draw("d.webp", "--from", third, "--strict", model=model).exists()
    assert draw("e.png", "--from", "d.webp", model=model).read_bytes() == first.read_bytes()


def test_what_is_given_beside_it_wins(draw: Draw) -> None:
    draw("a.png", "a cat", "--seed", 5, "--steps", 3, "--sampler", "euler", "--karras", "--negative", "b", *IMAGE)
    for words, plain in (
        (["--seed", 0], ["a cat", "--seed", 0, "--karras"]),
        (["a dog", "--seed-mode", "torch"], ["a dog", "--seed", 5, "--karras"]),
        (["--schedule", "beta"], ["a cat", "--seed", 5, "--schedule", "beta"]),
        (["--init-image", "mask.png"], ["a cat", "--seed", 5, "--karras", "--init-image", "mask.png"]),
    ):
        shared = ["--steps", 3, "--sampler", "euler", "--negative", "b", *IMAGE]
        expected = draw("b.png", *shared, *plain)
        assert draw("c.png", "--from", "a.png", *words, "--strict").read_bytes() == expected.read_bytes()


def test_files_that_are_not_there_and_other_models_are_said(
    draw: Draw, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    draw("a.png", "a cat", "--steps", 2, *IMAGE)
    Path("away").mkdir()
    moved = Path("a.png").rename("away/a.png")
    caplog.clear()
    draw("b.png", "--from", moved)
    assert caplog.messages == ["away/a.png: begin.png is not beside it (--init-image FILE)"]
    draw("c.png", "--from", moved, "--strict", code=StrictError.exit_code)
    said = capsys.readouterr().err
    assert "away/a.png: it cannot be drawn again as it was: begin.png is not beside it (--init-image FILE)." in said
    assert not Path("c.png").exists()
    draw("c.png", "--from", moved, "--init-image", "begin.png", "--strict")
    assert Path("c.png").read_bytes() == moved.read_bytes()
    draw("d.png", "--from", moved, "--init-image", "begin.png", "--strict", model="demo-lcm", code=14)
    assert "it was drawn with demo, and this model is demo-lcm" in capsys.readouterr().err
    draw("a.png", "--from", "a.png", code=UsageError.exit_code)
    draw("moved.png", "--from", "nothing.png", code=UsageError.exit_code)


def test_a_refiner_is_given_again(draw: Draw, bundles: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    end = ["--refiner", bundles["demo"]]
    words = ["--steps", 5, "--sampler", "euler_a", "--refiner-start", 0.6, "--seed", 3, "--noise-seed-delta", 2]
    first = draw("a.png", "a cat", *words, *end)
    assert draw("b.png", "--from", first, *end, "--strict").read_bytes() == first.read_bytes()
    caplog.clear()
    draw("c.png", "--from", first)
    assert caplog.messages == ["a.png: demo drew its end (--refiner BUNDLE)"]


def test_a_name_in_a_file_leads_nowhere_else(draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
    Path("away").mkdir()
    for name in ("../begin.png", "/etc/hostname", "..", "", "a/b", "begin.png\0"):
        own = {"prompt": "x", "steps": 1, "seed": 1, "width": 64, "height": 64, "init_image": name, "model": "demo"}
        with_text("away/a.png", ondevice=json.dumps(own))
        caplog.clear()
        draw("b.png", "--from", "away/a.png")
        assert "is not beside it (--init-image FILE)" in caplog.messages[0]


def with_text(path: str, **texts: str) -> None:
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)


def test_webuis_text_is_drawn_from(draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "a cat <lora:x:1>\nNegative prompt: dog\nSteps: 3, Sampler: Euler a, Schedule type: Automatic, CFG scale: 5, "
        "Seed: 9, Size: 64x64, Model: dreamy, ENSD: 31337, Variation seed: 4, Variation seed strength: 0.5, "
        "Tiling: True"
    )
    with_text("w.png", parameters=text)
    caplog.clear()
    draw("a.png", "--from", "w.png")
    assert caplog.messages == [
        "w.png: <lora:x:1> of the prompt names a file (give it with --lora)",
        "w.png: not known here: Tiling: True",
        "w.png: it was drawn with dreamy, and this model is demo",
    ]
    seeds = ["--seed", 9, "--seed-mode", "a1111", "--noise-seed-delta", 31337, "--variation-seed", 4]
    plain = ["a cat ", "--negative", "dog", "--steps", 3, "--sampler", "euler_a", "--spacing", "linspace"]
    draw("b.png", *plain, *seeds, "--variation-strength", 0.5, "--guidance", 5, "--size", "64x64")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({}, "it does not say what it was drawn with. Fix: name a picture that was drawn"),
        ({"ondevice": "{"}, "its parameters are damaged (they are no JSON)."),
        ({"ondevice": "[]"}, "its parameters are damaged (they are no object, or too large a one)."),
        ({"ondevice": "[" * 5000}, "its parameters are damaged ("),
        ({"ondevice": json.dumps({"a": [0] * 5000})}, "or too large a one"),
        ({"ondevice": '{"prompt": "x", "a": NaN}'}, "they are no JSON"),
        ({"ondevice": '{"prompt": "x", "a": 1e999}'}, "or too large a one"),
        ({"ondevice": '{"prompt": 1}'}, "its parameters are damaged (prompt is '1')."),
        ({"ondevice": '{"prompt": "x", "steps": true}'}, "its parameters are damaged (steps is 'True')."),
        ({"ondevice": '{"prompt": "x", "width": 64, "height": "64"}'}, "width and height are no whole numbers"),
        (
            {"ondevice": '{"prompt": "x", "sampler": "no such"}'},
            "--sampler: there is no such choice (got 'no such',",
        ),
        ({"ondevice": '{"prompt": "x", "width": 50, "height": 64}'}, "width: not a size the model can draw (got 50"),
        ({"ondevice": '{"steps": 2}'}, "prompt: it was not said what to draw."),
    ],
)
def test_what_says_nothing_or_lies_is_refused(
    texts: dict[str, str], words: str, draw: Draw, capsys: pytest.CaptureFixture[str], bundles: dict[str, Path]
) -> None:
    with_text("w.png", **texts)
    assert cli.main(["generate", str(bundles["demo"]), "--from", "w.png", "--out", "a.png"]) in (2, 9)
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and not Path("a.png").exists()


def test_options_that_are_unknown_are_listed(draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
    own: dict[str, Any] = {"prompt": "x", "steps": 2, "sampler": "euler", "model": "demo", "width": 64, "height": 64}
    with_text("w.png", ondevice=json.dumps(own | {"later": [1], "use_karras_sigmas": True, "a b": 1}))
    caplog.clear()
    draw("a.png", "--from", "w.png")
    assert caplog.messages == [
        "w.png: later = [1] is nothing that euler takes here",
        "w.png: a b = 1 is nothing that euler takes here",
    ]
    assert json.loads(Image.open("a.png").text["ondevice"])["use_karras_sigmas"] is True


@pytest.mark.device
def test_the_demo_model_draws_its_picture_again(bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle, first, again = str(bundles["demo"]), tmp_path / "a.png", tmp_path / "b.png"
    words = ["a red circle", "--steps", "2", "--seed", "4", "--sampler", "euler_a"]
    assert cli.main(["generate", bundle, *words, "--out", str(first)]) == 0
    assert cli.main(["generate", bundle, "--from", str(first), "--strict", "--out", str(again)]) == 0
    assert first.read_bytes() == again.read_bytes()
