"""ControlNets in the C++ player: the files that Python writes, with no, one and two nets; and its refusals."""

import functools
from pathlib import Path

import pytest
from control_files import squares, with_nets
from PIL import Image
from player.opencl_environment import environment

from ondevice import cli
from ondevice.compiler import Recipe, compile_bundle
from ondevice.run.opencl import choose_device

pytestmark = pytest.mark.device
PROMPT = "a photo of an astronaut riding a horse on mars"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """`bundle(family)`: tiny networks with two ControlNets."""

    @functools.cache
    def made(family):
        path = tmp_path_factory.mktemp("control") / f"{family}.ondevice"
        return Path(compile_bundle(with_nets(family, 2), path, Recipe("f32"), sizes=[(24, 16)]))

    return made


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Files in the working folder."""
    for number, (name, size) in enumerate({"first": (16, 24), "second": (20, 31), "photo": (16, 24)}.items()):
        Image.fromarray(squares(number + 1, *size)).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)


BOTH = ["--control", "first.png", "--control", "second.png"]
DRAWS = {
    "no net": [],
    "one net": ["--control", "first.png", "--control-scale", "0.6"],
    "two nets": [*BOTH, "--control-scale", "1", "--control-scale", "0.5", "--control-end", "0.5"],
    "guess": ["--control", "first.png", "--guess", "--negative", "blurry"],
    "edges of a photo that it begins from": [
        *["--control", "photo.png", "--canny", "150.5,60", "--control-start", "0.2"],
        *["--init-image", "photo.png", "--strength", "0.5"],
    ],
}
FAMILIES = ["sd15", pytest.param("sdxl", marks=pytest.mark.sweep)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", DRAWS)
def test_the_same_file(tool, bundle, pictures, family, name):
    words = [str(bundle(family)), PROMPT, *DRAWS[name], "--steps", "4", "--sampler", "euler", "--seed", "4"]
    done = tool("od_player", "draw", *words, "--out", "a.png", "--device", choose_device().name, env=environment())
    assert done.returncode == 0, done.stderr
    assert cli.main(["generate", *words, "--out", "b.png"]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


REFUSED = [
    (["--guess"], "--guess: there is no picture for a ControlNet. Fix: add --control, or leave it out."),
    (
        ["--control-scale", "2"],
        "--control-scale: there is no picture for a ControlNet. Fix: add --control, or leave it",
    ),
    ([*BOTH[:2], "--canny", "100"], "--canny: not two thresholds (got '100', expected LOW,HIGH of 0 or more). Fix: "),
    ([*BOTH[:2], "--canny=-1,5"], "--canny: not two thresholds (got '-1,5', expected LOW,HIGH of 0 or more). Fix: "),
    (
        [*BOTH, *["--control-end", "1"] * 3],
        "--control-end: there are 2 pictures for ControlNets (got 3 numbers, expected one, or one each). Fix: ",
    ),
    ([*BOTH, *BOTH], "--control: there are more pictures than nets (got 4, and the bundle has 2 ControlNets). Fix: "),
    (
        [*BOTH, *BOTH, *BOTH],
        "--control: that are more pictures than a bundle can have nets (got 6, expected 4). Fix: give fewer.",
    ),
    (
        ["--picture", "control_2=second.png"],
        "control_2: its ControlNet adds to what that of control makes, whose picture was not given",
    ),
    (["--taesd"], "--taesd: the bundle has no fast decoder. Fix: convert the checkpoint again with --taesd."),
    (["--preview-by", "rgb"], "--preview-by: there are no previews without --preview. Fix: "),
]


@pytest.mark.parametrize("words, said", REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_what_cannot_be_had_is_refused_in_pythons_words(tool, bundle, pictures, capsys, words, said):
    words = [str(bundle("sd15")), PROMPT, *words, "--out", "a.png"]
    done = tool("od_player", "draw", *words, "--device", choose_device().name, env=environment())
    assert done.returncode == 2 and done.stderr.startswith(f"error: {said}"), done.stderr
    if "--taesd" not in words and "--preview-by" not in words:
        assert cli.main(["generate", *words]) == 2
        assert said in capsys.readouterr().err
    assert not Path("a.png").exists()
