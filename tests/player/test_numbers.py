"""Noise, sampler tables and prepared pictures as the C++ player has them: bit for bit what Python has."""

import hashlib
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from diffusion.sampler_helpers import SD15
from PIL import Image

from ondevice.diffusion.canny import edge_picture
from ondevice.diffusion.image import from_pixels, resize, to_pixels
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.samplers import make_table

GOLDEN = Path(__file__).parents[1] / "golden"
NOISE = [*(GOLDEN / "noise").glob("seed_*.json"), *(GOLDEN / "noise").glob("cuda_*.json")]
VARIED = sorted((GOLDEN / "noise").glob("a1111_*.json"))
TABLES = [path for path in sorted((GOLDEN / "samplers").glob("*.json")) if path.name != "refused.json"]
PICTURES = json.loads((GOLDEN / "pictures" / "fit.json").read_text())


@pytest.fixture
def call(tool):
    """`call(what, ..., data=b"")`: what the tool writes, as bytes."""

    def run(*arguments, data=b""):
        done = tool("check_numbers", *arguments, input=data, text=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("path", NOISE, ids=lambda path: path.stem)
def test_noise_is_the_goldens(call, path):
    golden = json.loads(path.read_text())
    counts = [math.prod(draw["shape"]) for draw in golden["draws"]]
    drawn = call("noise", golden.get("mode", "torch"), golden["seed"] % 2**64, *counts)
    for draw, count in zip(golden["draws"], counts, strict=True):
        part, drawn = drawn[: 4 * count], drawn[4 * count :]
        if "values" in draw:
            assert part == np.array(draw["values"], "<f4").tobytes()
        else:
            assert hashlib.sha256(part).hexdigest() == draw["sha256"]
    assert not drawn


@pytest.mark.parametrize("path", VARIED, ids=lambda path: path.stem)
def test_noise_of_a_picture_is_the_goldens(call, path):
    golden = json.loads(path.read_text())
    _, channels, height, width = golden["shape"]
    other, strength = golden["variation_seed"] or 0, golden["variation_strength"]
    words = [golden["mode"], golden["seed"] % 2**64, other % 2**64, strength, golden["noise_seed_delta"]]
    drawn = call("picture", *words, channels, height, width, len(golden["loop"]))
    assert drawn == np.array([golden["initial"], *golden["loop"]], "<f4").tobytes()


def test_philox_is_pythons(call):
    stream = Noise(987654321, "cuda")
    counts = [1 << 18, 7]
    want = np.concatenate([stream.randn((count,)) for count in counts])
    got = np.frombuffer(call("noise", "cuda", 987654321, *counts), "<f4")
    # logarithms and sines in double are a C library's; rounded to float32 they may differ once in 2^29 times
    assert (got != want).sum() <= 1 and np.abs(got - want).max() < 1e-6


def test_a_million_numbers_are_pythons(call):
    """Of 2^29 sums one may differ in the last bit: Python has no fused multiply-add (docs/noise.md)."""
    counts = [1 << 19, 7, (1 << 19) + 5]
    stream = Noise(123456789)
    assert call("noise", "torch", 123456789, *counts) == b"".join(stream.randn((count,)).tobytes() for count in counts)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_tables_replay_as_the_goldens(call, path):
    golden = json.loads(path.read_text())
    results = [golden["result"], *(begun["result"] for begun in golden["begun"])]
    assert call("replay", data=path.read_bytes()) == np.array(results, "<f4").tobytes()


def test_what_is_no_table_is_refused(call):
    lines, taken = [], []
    for change in json.loads((GOLDEN / "samplers" / "refused.json").read_text()):
        table = json.loads((GOLDEN / "samplers" / f"{change['table']}.json").read_text())["table"]
        whole = {"table": table}
        at, keys = whole, ["table", *change["path"]]
        for key in keys[:-1]:
            at = at[key]
        taken.append(json.dumps(table))
        at[keys[-1]] = change["value"]
        lines.append(json.dumps(whole["table"]))
    answers = call("tables", data="".join(f"{line}\n" for line in [*taken, *lines]).encode()).decode().splitlines()
    assert answers[: len(taken)] == ["read"] * len(taken)
    for line, answer in zip(lines, answers[len(taken) :], strict=True):
        assert answer.startswith("samplers/x.json: ") and ". Fix: copy the bundle again" in answer, line
        assert len(answer) < 500
    assert any("calls[0].rows[1].terms[0][0] slot 2 is read before it is written" in answer for answer in answers)


def test_where_a_run_begins(call):
    def answers(name, strengths, rounds="down"):
        data = json.dumps(make_table(name, 20, SD15).to_json()).encode()
        return call("first", rounds, *strengths, data=data).decode().splitlines()

    strengths = [0.05, 0.3, 0.55, 0.7, 0.8, 0.999, 1]
    assert answers("ddim", strengths) == [str(20 - int(20 * strength)) for strength in strengths]
    assert answers("ddim", strengths, "up") == [str(int(20 - 20 * strength)) for strength in strengths]
    assert answers("ddim", [1e-9, 0.04], "up") == ["19", "19"]
    assert answers("ddim", [0], "up")[0].startswith("strength: is too low (got 0, expected more).")
    low, beyond, other = answers("ddim", [0.04, 1.5, -1])
    assert low.startswith("strength: is too low (got 0.04, expected at least 0.05 with 20 steps).")
    assert beyond.startswith("strength: is out of range (got 1.5") and other.startswith("strength: is out of range")
    assert "pndm at 20 steps cannot begin from a picture. Fix: choose a sampler" in answers("pndm", [0.5])[0]


@pytest.mark.parametrize("row", PICTURES, ids=range(len(PICTURES)))
def test_pictures_are_resized_as_the_goldens(call, row):
    pixels, size = np.array(row["pixels"], np.uint8), (row["width"], row["height"])
    sizes = (pixels.shape[1], pixels.shape[0], *size)
    resized = np.array(row["resized"], np.uint8)
    assert call("resize", *sizes, data=pixels.tobytes()) == resized.tobytes()
    fitted = call("fit", *sizes, data=pixels.tobytes())
    assert fitted == from_pixels(resized).tobytes()
    assert np.frombuffer(fitted, "<f4").reshape(3, -1)[:, 0].tolist() == row["first"]


def test_pictures_of_any_size_are_resized_as_python_does(call):
    chance = random.Random(3)
    for _ in range(40):
        width, height, to_width, to_height = (int(2 ** chance.uniform(0, 8)) for _ in range(4))
        pixels = np.frombuffer(chance.randbytes(width * height * 3), np.uint8).reshape(height, width, 3)
        got = call("resize", width, height, to_width, to_height, data=pixels.tobytes())
        assert got == resize(pixels, to_width, to_height).tobytes(), (width, height, to_width, to_height)


def test_masks_are_as_the_page_says(call):
    """Grey as Pillow has it, of the fitted mask; the tensor has the pixel of each latent's first corner."""
    chance = np.random.default_rng(2)
    for width, height, to_width, to_height in [(40, 24, 40, 24), (57, 33, 40, 64), (9, 90, 64, 8)]:
        mask, picture = chance.integers(0, 256, (2, height, width, 3), np.uint8)
        sizes = (width, height, to_width, to_height)
        grey = np.asarray(Image.fromarray(resize(mask, to_width, to_height)).convert("L")) >= 128
        assert call("mask", *sizes, data=mask.tobytes()) == grey[::8, ::8].astype("<f4").tobytes()
        kept = np.where(grey, np.float32(0), from_pixels(resize(picture, to_width, to_height)))
        assert call("masked", *sizes, data=picture.tobytes() + mask.tobytes()) == kept.tobytes()


def test_edges_and_units_are_pythons(call):
    """Of any thresholds: between these lie what is an edge by itself, what is one beside others, and what is none."""
    chance = np.random.default_rng(9)
    noise = np.cumsum(chance.integers(-30, 31, (40, 57, 3)), axis=1).clip(0, 255).astype(np.uint8)
    found = []
    for low, high in [(100, 200), (60.9, 150.5), (250, 40), (0, 0), (1e12, 3)]:
        want = edge_picture(resize(noise, 48, 32), low, high)
        assert call("trace", 57, 40, 48, 32, low, high, data=noise.tobytes()) == want.tobytes()
        found.append(int(want.sum()))
    assert len({*found}) == len(found)
    unit = call("unit", 57, 40, 48, 32, data=noise.tobytes())
    assert unit == (resize(noise, 48, 32).astype("<f4") / np.float32(255)).transpose(2, 0, 1).tobytes()


def test_what_cannot_be_prepared_is_refused(tool):
    done = tool("check_numbers", "fit", 0, 0, 8, 8, input=b"", text=False)
    assert done.returncode == 2 and b"cannot be resized (got 0 x 0, to be 8 x 8)" in done.stderr
    done = tool("check_numbers", "clip_vision", 0, 1, 8, 8, input=b"", text=False)
    assert done.returncode == 2 and b"cannot be prepared (got 0 x 1, expected 1 x 1 to" in done.stderr


def test_pixels_are_rounded_as_python_does(call):
    whole = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    halves = (np.arange(256, dtype=np.float32) + np.float32(0.5)) / np.float32(127.5) - np.float32(1)
    sample = np.concatenate([whole, halves, np.random.default_rng(0).normal(size=256)])
    sample = sample.astype(np.float32).reshape(1, 3, 16, 16)
    assert (np.float32(255) * (sample * np.float32(0.5) + np.float32(0.5)) % 1 == 0.5).any()
    assert call("pixels", 16, 16, data=sample.tobytes()) == to_pixels(sample).tobytes()
