"""A fast decoder and previews in the C++ player: the files that Python writes."""

import json
from pathlib import Path

import pytest
from family_files import TINY
from player.opencl_environment import environment

from ondevice import cli
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.run.opencl import choose_device

pytestmark = pytest.mark.device
PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo model with a tiny decoder of made-up weights."""
    path = tmp_path_factory.mktemp("fast") / "demo.ondevice"
    words = ["convert", "demo", "--random-weights", "0", "--taesd", "--size", "64x64", "--out", str(path)]
    assert cli.main(words) == 0
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A tiny model of a family whose latents' sums are known."""
    made = random_checkpoint_from_configs(seed=3, family="sd21", **TINY["sd21"])
    return compile_bundle(made, tmp_path_factory.mktemp("known") / "m.ondevice", Recipe(), sizes=[(24, 16)])


def both(tool, bundle, folder, *words):
    """Files that od_player wrote, and Python: by name, with what is in them."""
    found = []
    for name in ("player", "python"):
        (folder / name).mkdir()
        out = ["--preview", str(folder / name / "p"), "--out", str(folder / name / "a.png")]
        words = [str(bundle), PROMPT, *map(str, words)]
        if name == "player":
            done = tool("od_player", "draw", *words, *out, "--device", choose_device().name, env=environment())
            assert done.returncode == 0, done.stderr
        else:
            assert cli.main(["generate", *words, *out]) == 0
        words = words[2:]
        files = sorted(path for path in (folder / name).rglob("*.*") if path.is_file())
        found.append({str(path.relative_to(folder / name)): path.read_bytes() for path in files})
        said = json.loads(found[-1]["p/progress.json"])
        found[-1]["p/progress.json"] = json.dumps(said | {"out": Path(said["out"]).name})
    return found


def test_a_picture_and_previews_by_the_fast_decoder(tool, demo, tmp_path):
    flags = ["--taesd", "--steps", 4, "--preview-every", 3, "--count", 2]
    ours, theirs = both(tool, demo, tmp_path, *flags)
    assert ours == theirs and len(ours) == 2 + 4 + 2
    assert json.loads(ours["p/progress.json"]) == {
        "step": 4, "steps": 4, "seconds_left": 0, "picture": "2-step-0004.png", "number": 2, "count": 2,
        "out": "a-2.png",
    }  # fmt: skip
    assert b"VAE Decoder: TAESD" in ours["a-1.png"]


@pytest.mark.parametrize("by", [(), ("--preview-by", "rgb")], ids=["as the bundle has it", "rgb"])
def test_previews_by_sums(tool, known, tmp_path, by):
    ours, theirs = both(tool, known, tmp_path, "--steps", 4, "--sampler", "euler", "--preview-every", 3, *by)
    assert ours == theirs and len(ours) == 5


def test_progress_is_told_and_what_cannot_be_written_ends_it_alone(tool, known, tmp_path):
    """Without a picture at the end, the last that is told is that all steps are done; and a preview that cannot be
    written costs no picture."""
    device = ["--device", choose_device().name, "--steps", 4, "--preview", tmp_path / "p"]
    words = ["draw", known, PROMPT, *device, "--preview-every", 3]
    done = tool("od_player", *words, "--out", tmp_path / "none" / "a.png", env=environment())
    assert done.returncode == 16, done.stderr
    said = {"step": 4, "steps": 4, "seconds_left": 0, "picture": "step-0004.png", "number": 1, "count": 1, "out": None}
    assert json.loads((tmp_path / "p" / "progress.json").read_text()) == said
    (tmp_path / "p" / "latest.png").unlink()
    (tmp_path / "p" / "latest.png").mkdir()
    done = tool("od_player", *words, "--out", tmp_path / "a.png", env=environment())
    assert done.returncode == 16 and "latest.png" in done.stderr and (tmp_path / "a.png").exists(), done.stderr
    assert json.loads((tmp_path / "p" / "progress.json").read_text())["picture"] is None


def test_memory_is_that_of_what_decodes(tool, demo, tmp_path):
    """The demo model's own decoder is the smaller one."""
    device = ["--device", choose_device().name]
    words = ["draw", demo, PROMPT, "--steps", 1, "--json", *device, "--out", tmp_path / "a.png"]
    whole, fast = (
        json.loads(tool("od_player", *words, *more, env=environment()).stdout)["device_bytes"]
        for more in ((), ("--taesd",))
    )
    limit = ["--max-memory", f"{(whole + fast) // 2}B"]
    assert tool("od_player", *words, *limit, env=environment()).returncode == 0
    assert tool("od_player", *words, *limit, "--taesd", env=environment()).returncode == 12
    shown = json.loads(tool("od_player", "show", demo, *device, env=environment()).stdout)
    assert shown["fast_decoder"] is True and shown["adapters"] == []


def test_what_it_cannot_do_is_refused(tool, demo, known, tmp_path):
    for bundle, words, said in (
        (demo, ("--taesd", "--tile-vae", 0), "--tile-vae: the fast decoder works in one piece. Fix: leave it out."),
        (
            demo,
            ("--preview", tmp_path, "--preview-by", "rgb"),
            "--preview-by: no sum of this model's channels is known",
        ),
        (
            known,
            ("--preview", tmp_path, "--preview-by", "taesd"),
            "--preview-by: the bundle has no fast decoder. Fix: ",
        ),
        (known, ("--preview", tmp_path, "--preview-by", "vae"), '--preview-by: is "vae" (expected rgb, taesd).'),
    ):
        words = ["draw", bundle, PROMPT, *words, "--device", choose_device().name, "--out", tmp_path / "a.png"]
        done = tool("od_player", *words, env=environment())
        assert done.returncode == 2 and done.stderr.startswith(f"error: {said}"), done.stderr
