"""`generate`'s files: which size is drawn from an init image, what is refused before the work,
and that nothing is lost after it.

The pictures are made up: what is drawn on a device is tested in test_cli.py.
"""

import json
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ondevice import cli, errors
from ondevice.diffusion.request import Picture
from ondevice.drawing import drawer, engine, outputs
from ondevice.run.profile import Profile

SIZES = ("64", "64x", "x64", "-64x64", "6.4x64", "64x64x64", "٦٤x64", "")  # that are none


@pytest.fixture(scope="module")
def bundle(demo_bundle):
    return demo_bundle


@pytest.fixture
def drawn(bundle, tmp_path, monkeypatch, capsys):
    """What the pipeline is asked for; run `generate` in a folder of its own by calling it with flags."""
    calls = []

    class Painter:
        takes_adapters = False

        @classmethod
        def of(cls, bundle, session):
            return cls()

        def draw_series(self, requests, way, on_step, keepers):
            return map(self.draw, requests)

        def draw(self, request):
            if len(calls) == run.stop_after:
                raise KeyboardInterrupt
            calls.append(asdict(request))
            pixels = np.full((request.height, request.width, 3), len(calls), np.uint8)
            about = {"prompt": request.prompt, "sampler": "ddim", "steps": request.num_inference_steps or 20}
            about |= {"seed": request.seed, "width": request.width, "height": request.height}
            return Picture(pixels, np.zeros((1, 4, 8, 8), np.float32), np.ones((1, 4, 8, 8), np.float32), about)

    facts = {"kind": "cpu", "global_bytes": 1 << 40, "maps_weights": True, "name": "none"}
    device = SimpleNamespace(name="none", dialect="opencl", facts=lambda: facts)
    monkeypatch.setattr(drawer, "Pipeline", Painter)
    monkeypatch.setattr(engine, "choose_device", lambda _: device)
    session = SimpleNamespace(profile=Profile({}, launches=[]), has_mended=False, stream_weights=lambda nbytes: None)
    monkeypatch.setattr(engine, "GuardedSession", lambda *_, **__: session)
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        assert cli.main(["generate", str(bundle), "a red circle", *map(str, words)]) == code
        return capsys.readouterr()

    run.calls, run.stop_after = calls, None
    return run


def picture(path, size, mode="RGB", colour=(10, 20, 30)):
    Image.new(mode, size, colour).save(path)
    return path


@pytest.mark.parametrize(
    "size, flags, expected, said",
    [
        ((96, 64), [], (96, 64), []),
        ((103, 71), [], (96, 64), []),
        ((64, 64), [], (64, 64), []),
        ((300, 200), [], (96, 64), ["the bundle has no 296x200, so 96x64 is drawn"]),
        (
            (64, 96),
            [],
            (64, 64),
            ["the bundle has no 64x96, so 64x64 is drawn", "is squashed from 64x96 to 64x64 (from 2:3 to 1:1)"],
        ),
        ((96, 64), ["--size", "64x64"], (64, 64), ["is squashed from 96x64 to 64x64 (from 3:2 to 1:1)"]),
        ((300, 200), ["--size", "96x64"], (96, 64), []),
        (None, [], (64, 64), []),
    ],
)
def test_an_init_image_is_drawn_at_its_own_size_where_the_bundle_has_it(size, flags, expected, said, drawn, caplog):
    begin = [] if size is None else ["--init-image", picture("begin.png", size)]
    drawn(*begin, *flags)
    (asked,) = drawn.calls
    assert (asked["width"], asked["height"]) == expected and Image.open("image.png").size == expected
    # a picture that is only resized is given as it is: the pipeline resizes it
    assert asked["image"] is None if size is None else asked["image"].shape == (size[1], size[0], 3)
    assert len(caplog.messages) == len(said) and all(
        words in line for words, line in zip(said, caplog.messages, strict=True)
    )


def test_the_ground_under_an_init_image(drawn, caplog):
    picture("begin.png", (64, 64), "RGBA", (255, 0, 255, 0))
    for flags, colour in (
        ([], [255] * 3),
        (["--background", "#102030"], [16, 32, 48]),
        (["--background", "red"], [255, 0, 0]),
    ):
        drawn("--init-image", "begin.png", *flags, "--out", "a.png")
        assert drawn.calls[-1]["image"][5, 5].tolist() == colour
        assert ("Background: " in Image.open("a.png").text["parameters"]) == bool(flags)
    assert caplog.messages[1] == "begin.png: its transparent parts are laid on #102030 (--background chooses)"
    assert "'rot' is not a colour" in drawn("--init-image", "begin.png", "--background", "rot", code=2).err
    assert "--background: there is no picture to begin from" in drawn("--background", "red", code=2).err


def test_masks_and_other_pictures(drawn, caplog):
    """A mask is cut and padded as its picture is, though it has another size and shape."""
    picture("begin.png", (128, 64))
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:, 40:] = 255  # five eighths from the left
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(mask[..., 0]).save("grey.png")
    given = ["--init-image", "begin.png", "--mask", "mask.png", "--size", "64x64", "--out", "a.png"]
    for fit, first in (("resize", 40), ("crop", 48), ("pad", 40)):  # of a picture twice as wide as high
        drawn(*given, "--fit", fit, "--picture", "pose=grey.png")
        asked = drawn.calls[-1]
        light = (asked["mask"] >= 128).all(2)
        assert asked["mask"].shape == (64, 64, 3) and light[32].argmax() == first and light[32, first:].all(), fit
        assert asked["pictures"]["pose"].shape == (64, 64, 3)
    about = Image.open("a.png").text["parameters"]
    assert "Init image: begin.png, Mask: mask.png, Pictures: pose=grey.png" in about


def test_a_film_has_a_file_per_frame(drawn, tmp_path, monkeypatch):
    frames = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((64, 64, 3), np.uint8)
    film = Picture(frames[0], np.zeros((12, 4, 8, 8)), np.zeros((12, 4, 8, 8)), {"seed": 1}, frames)
    monkeypatch.setattr(drawer.Pipeline, "draw_series", lambda *_: iter([film]))
    said = drawn("--out", "a.png").out.split()
    assert said == [f"a-{i}.png" for i in range(1, 13)]
    assert sorted(said) == sorted(path.name for path in tmp_path.iterdir())
    assert Image.open("a-12.png").getpixel((0, 0)) == (11, 11, 11)


def test_without_out_no_picture_is_lost(drawn, tmp_path):
    before = picture(tmp_path / "image.png", (64, 64)).read_bytes()
    assert drawn("--init-image", "image.png").out == "image-1.png\n"
    assert json.loads(drawn("--json").out)["out"] == "image-2.png"
    assert (tmp_path / "image.png").read_bytes() == before
    for _ in range(2):  # a file that was named is replaced
        assert drawn("--out", "own.png").out == "own.png\n"
    assert np.asarray(Image.open("own.png"))[0, 0, 0] == len(drawn.calls) == 4


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--out", "o.gif"], "--out: o.gif: pictures are written as PNG, JPEG or WebP (got '.gif'"),
        (["--out", "o"], "Fix: name it o.png."),
        (["--out", "o" * 300 + ".png"], "its name is too long (got 304 bytes, expected at most 255). Fix: shorten it."),
        (["--out", "begin.png", "--init-image", "begin.png"], "--init-image and --out name the same file"),
        (["--out", "link.png", "--init-image", "begin.png"], "--init-image and --out name the same file"),
        (["--latents", "noise.npy", "--save-latents", "noise.npy"], "--latents and --save-latents name the same file"),
        (["--latents", "noise.npy", "--save-noise", "./noise.npy"], "--latents and --save-noise name the same file"),
        (["--save-noise", "image.png"], "--out and --save-noise name the same file"),
        (["--fit", "crop"], "--fit: there is no picture to begin from."),
        (["--mask", "begin.png"], "--mask: there is no picture to begin from."),
        (["--picture", "image=begin.png"], "--picture: 'image' is not a name for one more picture. Fix: use --init-im"),
        (["--picture", "a=begin.png", "--picture", "a=b.png"], "'a' is not a name for one more picture. Fix: give it"),
        (["--picture", "a=begin.png", "--out", "begin.png"], "--picture a and --out name the same file"),
        (
            ["--init-image", "begin.png", "--mask", "begin.png", "--refiner", "x"],
            "--mask: the refiner draws all of the",
        ),
        (["--count", "0"], "--count: pictures cannot be counted so (got 0, expected 1 to 10000). Fix: use 1."),
        (["--count", "10001"], "Fix: draw the rest with a higher --seed."),
        (["--count", "2", "--seed", str(2**64 - 1)], "seed: not a seed (got 18446744073709551616"),
        (["--init-image", "x" * 300], "not a readable image (File name too long;"),
        (["--latents", "begin.png"], "it is not a .npy file"),
        *[([f"--size={text}"], f"{text!r} is not a size (expected WIDTHxHEIGHT") for text in SIZES],
    ],
)
def test_what_cannot_be_drawn_or_kept_is_refused_before_the_work(flags, words, drawn, tmp_path):
    picture("begin.png", (64, 64))
    (tmp_path / "link.png").symlink_to("begin.png")
    np.save("noise.npy", np.zeros((1, 4, 8, 8), np.float32))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    said = drawn(*flags, code=2).err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1 and len(said) <= 510
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before and not drawn.calls


def test_a_second_output_that_fails_costs_nothing_but_itself(drawn, tmp_path, monkeypatch):
    real = outputs.write_output

    def full(path, fill):
        if path.name == "noise.npy":
            raise errors.UsageError(
                "cannot be written (No space left on device).", where=str(path), fix="free space on this disk"
            )
        real(path, fill)

    monkeypatch.setattr(outputs, "write_output", full)
    said = drawn("--out", "a.jpg", "--save-noise", "noise.npy", "--save-latents", "l.npy", "--trace", "t.json", code=2)
    assert said.out == "a.jpg\n" and said.err.startswith(
        "error: noise.npy: cannot be written (No space left on device)."
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "l.npy", "t.json"]


def test_without_a_stderr_nothing_is_lost_and_stdout_is_the_path_alone(drawn, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert drawn("--max-memory", "4GB", "--profile").out == "image.png\n"


def test_several_pictures_have_a_file_each(drawn, tmp_path):
    said = drawn("--count", 3, "--seed", 7, "--out", "a.png", "--save-noise", "n.npy", "--trace", "t.json").out
    assert said == "a-1.png\na-2.png\na-3.png\n"
    assert [call["seed"] for call in drawn.calls] == [7, 8, 9]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a-1.png", "a-2.png", "a-3.png", "n-1.npy", "n-2.npy", "n-3.npy", "t.json"),
    ]
    with Image.open("a-2.png") as second:
        assert "Seed: 8," in second.text["parameters"] and second.getpixel((0, 0)) == (2, 2, 2)
    drawn("--count", 2, "--variation-seed", 5, "--variation-strength", 0.1)
    assert [(call["seed"], call["variation_seed"]) for call in drawn.calls[3:]] == [(0, 5), (0, 6)]
    assert {path.name for path in tmp_path.iterdir()} >= {"image.png", "image-1.png"}


def test_pictures_that_are_done_are_kept_when_one_is_interrupted(drawn, tmp_path):
    drawn.stop_after = 2
    said = drawn("--count", 4, "--out", "a.png", code=cli.INTERRUPTED)
    assert said.out == "a-1.png\na-2.png\n" and "interrupted" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.png", "a-2.png"]


def test_no_array_of_a_series_takes_a_pictures_place(drawn, tmp_path):
    np.save("noise-2.npy", np.zeros((1, 4, 8, 8), np.float32))
    for flags, words in (
        (["--latents", "noise-2.npy", "--save-noise", "noise.npy"], "--latents and --save-noise name the same file"),
        (["--save-noise", "n.npy", "--trace", "n-2.npy"], "--save-noise and --trace name the same file"),
    ):
        assert words in drawn("--count", 2, "--out", "a.png", *flags, code=2).err


@pytest.mark.parametrize(
    "flags, corner",
    [
        (["--fit", "crop"], [10, 20, 30]),
        (["--fit", "pad"], [10, 20, 30]),
        (["--fit", "pad", "--background", "#010203"], [1, 2, 3]),
    ],
)
def test_an_init_image_of_another_shape_is_fitted_as_asked(flags, corner, drawn):
    picture("begin.png", (128, 64))
    said = drawn("--init-image", "begin.png", "--size", "64x64", *flags).err
    image = drawn.calls[-1]["image"]
    assert "squashed" not in said and image.shape == (64, 64, 3)
    assert image[0, 0].tolist() == corner and image[32, 32].tolist() == [10, 20, 30]
    with Image.open("image.png") as written:
        assert json.loads(written.text["ondevice"])["fit"] == flags[1]
