"""The demo model as bundles for phones, drawn here: the same pictures as the host's own kernels draw in float32."""

import math

import numpy as np
import pytest

from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

pytestmark = [pytest.mark.device, pytest.mark.phones]
PROMPT = "a green star on a yellow background"
WAYS = [("adreno_740", ""), ("adreno_740", "i8"), ("mali_g715", ""), ("apple_a16", ""), ("apple_a16", "i8")]


def drawn(folder, recipe):
    """Pixels of one picture of five steps."""
    bundle = open_bundle(compile_bundle(open_checkpoint(None, family="demo"), folder, recipe), verify=True)
    pipeline = Pipeline.of(bundle, Session(bundle, choose_device()))
    return pipeline(PROMPT, num_inference_steps=5, seed=7).pixels


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("phones") / "host.ondevice", Recipe("f32"))


@pytest.mark.parametrize("name, weights", WAYS)
def test_the_same_picture(expected, name, weights, tmp_path):
    """As alike as half storage is (40 dB, as asked of diffusers' pictures); int8 weights are rounded more coarsely."""
    pixels = drawn(tmp_path / "phone.ondevice", Recipe("f16", weights, load_target(name)))
    error = pixels.astype(np.float64) - expected
    psnr = 10 * math.log10(255**2 / max((error**2).mean(), 1e-9))
    assert psnr >= (25 if weights else 40), f"{psnr:.1f} dB"
