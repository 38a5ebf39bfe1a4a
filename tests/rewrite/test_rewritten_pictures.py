"""The demo model draws the same picture with every rule on, with each one off, and with none."""

import functools
import math

import numpy as np
import pytest

from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Job, Recipe, compile_bundle
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.pipeline import Pipeline
from ondevice.rewrite import FUSIONS
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import METHODS

pytestmark = pytest.mark.device


@functools.cache
def draw(folder, without, dtype):
    """(pixels, dispatches of a UNet step) of a small picture."""
    path = folder / f"{dtype}-{'-'.join(without) or 'all'}.ondevice"
    bundle = open_bundle(
        compile_bundle(open_checkpoint(None, family="demo"), path, Recipe(dtype, without=without), sizes=[(64, 72)])
    )
    drawn = Pipeline.of(bundle, Session(bundle, choose_device()))(
        "a red circle", num_inference_steps=3, guidance_scale=3.0, seed=1
    )
    return drawn.pixels.astype(np.int64), len(bundle.plan("unet", batch=2, height=9, width=8).dispatches)


def arena(without):
    """Bytes of the arena of that picture's UNet step."""
    model, job = build(open_checkpoint(None, family="demo")), Job("unet", {"batch": 2, "height": 9, "width": 8})
    (compiled,) = programs(model, Recipe("f32", without=without), [job])
    return compiled.plan().arena


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rules")


EVERY = (*FUSIONS, *METHODS)
OFF = {**{family: (family,) for family in EVERY}, "every rule": EVERY}
FEW = ("every rule", "channels_last", "flash")  # what each rule puts in a graph's place is tested beside the rules


@pytest.mark.parametrize("name", [name if name in FEW else pytest.param(name, marks=pytest.mark.sweep) for name in OFF])
def test_each_rule_off(folder, name):
    without = OFF[name]
    everything, plain = draw(folder, (), "f32"), draw(folder, tuple(without), "f32")
    assert np.abs(everything[0] - plain[0]).max() <= 1
    assert everything[1] <= plain[1] or name == "winograd"  # whose patches may be commands of their own


WINOGRAD = ("winograd",)  # its scratch is of the kernel's size, not of the picture's


@pytest.mark.sweep
def test_rules_do_not_cost_memory():
    everything = arena(WINOGRAD)
    for without in OFF.values():
        assert everything <= 1.02 * arena((*without, *WINOGRAD))  # three products made as one live a little longer


def test_all_rules_leave_a_third_of_the_dispatches(folder):
    everything, plain = draw(folder, (), "f32"), draw(folder, EVERY, "f32")
    assert everything[1] < 0.33 * plain[1]


def test_half_storage_too(folder):
    error = draw(folder, (), "f16")[0] - draw(folder, EVERY, "f32")[0]
    assert 10 * math.log10(255**2 / (error**2).mean()) >= 40
