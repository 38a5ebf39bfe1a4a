"""The C++ player's weights a block at a time: Python's rules, to the byte, and Python's pictures."""

import json

import pytest
from player.opencl_environment import environment

from ondevice import cli
from ondevice.bundle import open_bundle
from ondevice.plan.blocks import Streaming, window_of

pytestmark = pytest.mark.device
PROMPT = "a red circle on a blue background"
GPU = "0x1000=4"


def most(bundle, nbytes, mapped):
    """The most bytes that are live of any component that draws at 64x64."""
    drawn = [one for one in bundle.plans if one.sizes.get("width", 8) == 8 and one.component != "vae_encoder"]
    return max(
        window_of(bundle.plan(one.component, **one.sizes), Streaming(nbytes, mapped)).most
        for one in drawn
        if one.component != "unet" or one.sizes["batch"] == 2
    )


@pytest.mark.parametrize("size", ["", "600kB"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.phones)])
def test_the_same_picture_through_the_same_window(demo_bundle, tool, odd, tmp_path, size, device):
    """On the host's CPU, and on one that says it is a GPU, to which weights are copied."""
    out, flag = tmp_path / "a.png", f"--stream-weights{f'={size}' * bool(size)}"
    variables = environment(**(odd(GPU) if device == "gpu" else {}))
    words = ["draw", demo_bundle, PROMPT, "--steps", "2", "--seed", "1", "--size", "64x64", "--device", device]
    done = tool("od_player", *words, "--json", flag, "--out", out, env=variables)
    assert done.returncode == 0, done.stderr
    bundle, said = open_bundle(demo_bundle), json.loads(done.stdout)
    assert said["streamed_bytes"] == most(bundle, 600_000 if size else 0, device == "cpu")
    if device == "cpu":
        expected = tmp_path / "python.png"
        python = ["generate", str(demo_bundle), PROMPT, "--steps", "2", "--seed", "1", "--size", "64x64"]
        assert cli.main([*python, "--out", str(expected)]) == 0
    else:
        expected = tmp_path / "whole.png"
        assert tool("od_player", *words, "--out", expected, env=variables).returncode == 0
        assert said["device_bytes"] < sum(bundle.component_bytes().values())
    assert out.read_bytes() == expected.read_bytes()


def test_what_cannot_be(demo_bundle, tool):
    words = ["draw", demo_bundle, PROMPT, "--steps", "1", "--device", "cpu"]
    done = tool("od_player", *words, "--stream-weights", "1kB", env=environment())
    assert done.returncode == 12 and "text_encoder: a dispatch reads 0.1 MB of weights, and the window" in done.stderr
    assert done.stderr.endswith("Fix: stream weights through 1MB or more.\n")
    done = tool("od_player", *words, "--stream-weights=1x", env=environment())
    assert done.returncode == 2 and '--stream-weights: "1x" is not an amount of memory.' in done.stderr
