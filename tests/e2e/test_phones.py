"""The demo model as bundles for phones, drawn here: the same pictures as the host's own kernels draw in float32."""

import math
from dataclasses import replace

import numpy as np
import pytest
from rewrite.graphs import feed, on_device

from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters import build
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.pipeline import Pipeline
from ondevice.rewrite import rewrite
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

pytestmark = [pytest.mark.device, pytest.mark.phones]
PROMPT = "a green star on a yellow background"
# scores that are stored, and group norms in two commands, which targets have of larger pictures
OTHERWISE = replace(load_target("adreno_740"), flash={"max_head": 0}, group_norm={"two_commands": 1})
WAYS = [("adreno_740", ""), ("mali_g715", ""), ("apple_a16", ""), ("apple_a16", "i8")]  # i4: test_few_bits.py
WAYS += [(OTHERWISE, "")]


def drawn(folder, recipe):
    """Pixels of one picture of five steps."""
    bundle = open_bundle(compile_bundle(open_checkpoint(None, family="demo"), folder, recipe), verify=True)
    pipeline = Pipeline.of(bundle, Session(bundle, choose_device()))
    return pipeline(PROMPT, num_inference_steps=5, seed=7).pixels


@pytest.mark.parametrize("target", [load_target("adreno_740"), OTHERWISE], ids=["flash", "otherwise"])
def test_the_same_latents(target):
    """Of the UNet in float32: however it is computed, it is the same but for the order of sums."""
    model = build(open_checkpoint(None, family="demo")).graph("unet", batch=2, height=8, width=8)
    rewrite(model)
    inputs = feed(model)
    want, got = on_device(model, inputs), on_device(model, inputs, target)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("phones") / "host.ondevice", Recipe("f32"))


@pytest.mark.parametrize("target, weights", WAYS)
def test_the_same_picture(expected, target, weights, tmp_path):
    """As alike as half storage is (40 dB, as asked of diffusers' pictures); int8 weights are rounded more coarsely."""
    pixels = drawn(tmp_path / "phone.ondevice", Recipe("f16", weights, load_target(target)))
    error = pixels.astype(np.float64) - expected
    psnr = 10 * math.log10(255**2 / max((error**2).mean(), 1e-9))
    assert psnr >= (25 if weights else 40), f"{psnr:.1f} dB"
