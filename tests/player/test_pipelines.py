"""od_player and Python draw the same files with any pipeline: those by hand, and changes of them, over tiny plans."""

import copy

import numpy as np
import pytest
from bundle.pipeline_bundle import write_pipeline
from diffusion.test_pipeline_shapes import golden, picture_guided
from PIL import Image
from player.opencl_environment import environment

from ondevice import cli
from ondevice.run.opencl import choose_device

pytestmark = pytest.mark.device
PROMPT = "a red cat"
SAMPLERS = {"euler_a": 4}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, chance = tmp_path_factory.mktemp("pictures"), np.random.default_rng(4)
    paths = {}
    for name, shape in {"image": (16, 24, 3), "mask": (33, 50, 3)}.items():
        paths[name] = folder / f"{name}.png"
        Image.fromarray(chance.integers(0, 256, shape, np.uint8)).save(paths[name])
    return paths


def early() -> dict:
    """Guidance in the first half of the calls."""
    whole = golden("sd1")
    edges, windowed = {"begin": {"default": 0}, "end": {"default": 0.5}}, {"default": 7.5, "window": ["begin", "end"]}
    whole["pipeline"]["numbers"] = edges | whole["pipeline"]["numbers"] | {"guidance_scale": windowed}
    return whole


NEGATIVE = ("--negative", "a red dog")
CASES = {
    "sd1": (golden("sd1"), NEGATIVE),
    "sd1 from a picture": (golden("sd1"), ("--init-image", "image", "--strength", 0.6)),
    "one pass": (golden("lcm"), ("--guidance", 3)),
    "two stretches": (golden("sdxl_refiner"), ("--number", "handover=0.5", "--number", "aesthetic_score=7")),
    "two stretches from a picture": (
        golden("sdxl_refiner"),
        (*NEGATIVE, "--init-image", "image", "--strength", 0.8, "--number", "handover=0.3"),
    ),
    "a pass with zeros": (picture_guided(), (*NEGATIVE, "--init-image", "image")),
    "guided early": (early(), NEGATIVE),
    "weights": (golden("sd1"), ("--negative", "a [dog] (ca:1.5)", "(red:1.3) cat AND re:0.5")),
    "compel": (golden("sd1"), ("--emphasis", "compel", "(re:0.5) cat, [[ca]] (red:1.25) (x:-0.5)")),
    "signs are letters": (golden("sd1"), ("--emphasis", "none", "(red:1.3) cat AND re")),
    "several encoders": (golden("sdxl_refiner"), (*NEGATIVE, "(re:0.5) cat AND red:-0.25", "--emphasis", "compel")),
    "chunks": (golden("sd1"), (*NEGATIVE, "a BREAK (cat:1.2) " + "red, " * 50)),
    "chunks of several encoders": (golden("sdxl_refiner"), ("--long", "chunk", "cat BREAK re AND " + "red " * 80)),
    "truncated": (golden("sd1"), ("--long", "truncate", "a BREAK (cat:1.2) " + "red, " * 50)),
    "seeds of CUDA": (golden("sd1"), ("--seed-mode", "cuda")),
    "seeds of WebUI": (
        golden("sd1"),
        ("--seed-mode", "a1111", "--variation-seed", 9, "--variation-strength", 0.3, "--noise-seed-delta", 31337),
    ),
}


@pytest.mark.parametrize("batches", [(1, 2, 3), (1,)], ids=["at once", "one by one"])
@pytest.mark.parametrize("name", CASES)
def test_the_same_file(tool, pictures, tmp_path, name, batches):
    whole, words = CASES[name]
    texts = 2 if "chunks" in name else 1
    bundle = write_pipeline(tmp_path / "bundle", copy.deepcopy(whole), batches=batches, samplers=SAMPLERS, texts=texts)
    words = [str(pictures.get(word, word)) for word in words]
    prompt = [PROMPT] if all(" " not in word or word == "a red dog" for word in words) else []
    flags = [*prompt, *words, "--steps", "4", "--sampler", "euler_a", "--seed", "6", "--out"]
    ours, theirs = tmp_path / "player.png", tmp_path / "python.png"
    done = tool("od_player", "draw", bundle, *flags, ours, "--device", choose_device().name, env=environment())
    assert done.returncode == 0, done.stderr
    assert cli.main(["generate", str(bundle), *flags, str(theirs)]) == 0
    assert ours.read_bytes() == theirs.read_bytes()
    assert np.asarray(Image.open(ours)).std() > 2
