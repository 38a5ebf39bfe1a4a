"""Tiny autoencoders and previews through the commands: what `convert --taesd` and `generate` write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_files import TINY
from PIL import Image

from ondevice import cli
from ondevice.bundle import open_bundle
from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.jobs import Job
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.source import Source
from ondevice.diffusion.image import to_pixels
from ondevice.diffusion.latents_file import read_latents
from ondevice.diffusion.previews import by_sum
from ondevice.lower.kernel_file import load_all
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = pytest.mark.device
FAST = "taesd_decoder"
LEAST_DB = 20.0  # of pictures of shapes; those of the recipe's log are of noisy latents, too
PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a tiny decoder of made-up weights."""
    path = tmp_path_factory.mktemp("previews") / "demo.ondevice"
    words = ["convert", "demo", "--random-weights", "0", "--taesd", "--size", "64x64", "--out", str(path)]
    assert cli.main(words) == 0
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of a family whose latents' sums are known, which has no other decoder."""
    made = random_checkpoint_from_configs(seed=3, family="sd21", **TINY["sd21"])
    return compile_bundle(made, tmp_path_factory.mktemp("known") / "m.ondevice", Recipe(), sizes=[(24, 16)])


def test_the_demo_models_own_knows_its_latents() -> None:
    """Of pictures' latents both decoders make nearly the same, and the tiny encoder's latents are as good."""
    model = build(Source("demo", taesd="").open())
    assert {"vae_decoder", "taesd_decoder"} <= {*model.roles}
    place = {"batch": 1, "height": 8, "width": 8}
    made = list(programs(model, Recipe("f16"), [Job(role, place) for role in ("vae_encoder", "vae_decoder", FAST)]))
    weights = {key: one for compiled in made for key, one in weight_sources(compiled.program).items()}
    session = Session(MemoryBundle([one.plan() for one in made], weights, load_all()), choose_device())
    y, x = np.mgrid[:64, :64]
    found = []
    for colour, ground, radius in (((225, 35, 35), (35, 75, 225), 20), ((250, 225, 40), (30, 160, 60), 12)):
        inside = np.hypot(x - 30, y - 35) < radius
        pixels = np.where(inside[..., None], colour, ground).transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
        latents = session.run("vae_encoder", {"sample": pixels}, **place)["latent_parameters"][:, :4]
        whole, tiny = (
            to_pixels(session.run(role, {"latent_sample": latents}, **place)["sample"])
            for role in ("vae_decoder", FAST)
        )
        found.append(20 * np.log10(255 / np.sqrt(np.mean((whole.astype(np.float64) - tiny) ** 2))))
    assert min(found) >= LEAST_DB, found


def generate(bundle: Path, *words: str) -> int:
    return cli.main(["generate", str(bundle), PROMPT, *words])


def about(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return json.loads(image.info["ondevice"]) | {"parameters": image.info["parameters"]}


def test_a_picture_by_the_tiny_decoder(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, more in (("a", ()), ("b", ("--taesd", "--max-memory", "1GB"))):
        out = ["--out", str(tmp_path / f"{name}.png"), "--save-latents", str(tmp_path / f"{name}.npy")]
        assert generate(demo, "--steps", "2", *out, *more) == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert "; by the fast decoder" in capsys.readouterr().err
    found = about(tmp_path / "b.png")
    assert found["taesd"] is True and ", VAE Decoder: TAESD, Version: " in found["parameters"]
    assert "taesd" not in about(tmp_path / "a.png")
    assert (np.asarray(Image.open(tmp_path / "a.png")) != np.asarray(Image.open(tmp_path / "b.png"))).any()


def test_previews_by_the_tiny_decoder(demo: Path, tmp_path: Path) -> None:
    """The demo model has no known sums, so it is the default; its last preview is its picture of the last latents."""
    folder, out = tmp_path / "p", tmp_path / "a.png"
    assert (
        generate(demo, "--steps", "3", "--sampler", "ddim", "--taesd", "--preview", str(folder), "--out", str(out)) == 0
    )
    said = json.loads((folder / "progress.json").read_text())
    assert said == {
        "step": 3, "steps": 3, "seconds_left": 0.0, "picture": "step-0003.png", "number": 1, "count": 1, "out": str(out)
    }  # fmt: skip
    names = {*(f"step-000{step}.png" for step in (1, 2, 3)), "latest.png", "progress.json"}
    assert {*os.listdir(folder)} == names
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "step-0003.png")), np.asarray(Image.open(out)))


def test_previews_by_sums(known: Path, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    words = ["--preview", str(folder), "--preview-every", "2", "--save-latents", str(tmp_path / "l.npy")]
    assert generate(known, "--steps", "3", "--sampler", "euler", "--out", str(tmp_path / "a.png"), *words) == 0
    assert {*os.listdir(folder)} == {"step-0002.png", "step-0003.png", "latest.png", "progress.json"}
    expected = by_sum(open_bundle(known).pipeline.latents.preview, read_latents(tmp_path / "l.npy"))
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "latest.png")), expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--taesd",), "--taesd: the bundle has no fast decoder. Fix: convert the checkpoint again with --taesd."),
        (
            ("--preview", "p", "--preview-by", "taesd"),
            "preview: this bundle has no fast decoder. Fix: use rgb, or convert with --taesd.",
        ),
    ],
)
def test_without_a_tiny_decoder(
    known: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert generate(known, *words) != 0
    assert message in capsys.readouterr().err


def test_other_formats_have_one_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", "demo", "--random-weights", "0", "--taesd", "--format", "onnx", "--out", str(tmp_path / "x")]
    assert cli.main(words) != 0
    assert "--taesd: graphs in other formats have one decoder. Fix: leave --taesd out" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_leaves_whole_files(demo: Path, tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "p"
    words = [
        "generate",
        str(demo),
        PROMPT,
        "--steps",
        "50",
        "--preview",
        str(folder),
        "--out",
        str(tmp_path / "a.png"),
    ]
    process = subprocess.Popen([sys.executable, "-m", "ondevice", *words], cwd=tmp_path, stderr=subprocess.DEVNULL)
    ends = time.monotonic() + 120
    while not (folder / "step-0003.png").exists() and time.monotonic() < ends:
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait(30) != 0
    said = json.loads((folder / "progress.json").read_text())
    seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
    assert said["picture"] in {path.name for path in seen} and not (tmp_path / "a.png").exists()
    for path in seen:
        if path.suffix == ".png":
            Image.open(path).load()
    if how == signal.SIGINT:
        assert len(seen) == len(list(folder.iterdir()))
