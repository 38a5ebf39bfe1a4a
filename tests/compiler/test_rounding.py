"""What weights in few bits cost is measured where it can be, and said; nothing depends on it."""

import math

import numpy as np
import pytest

from ondevice.compiler import Recipe, rounding
from ondevice.compiler.jobs import Job
from ondevice.converters import build
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import NoDeviceError
from ondevice.target import load_target

pytestmark = pytest.mark.device
JOBS = [Job("unet", {"batch": 2, "height": 16, "width": 16}), Job("unet", {"batch": 1, "height": 16, "width": 16})]


@pytest.fixture(scope="module")
def model():
    return build(open_checkpoint(None, family="demo"))


@pytest.mark.phones
def test_it_is_the_peak_over_the_difference_of_two_steps(model, monkeypatch):
    steps, run = [], rounding._step
    monkeypatch.setattr(rounding, "_step", lambda *given: steps.append(run(*given)) or steps[-1])
    found = rounding.rounding(model, Recipe(weights="i8", target=load_target("adreno_740")), JOBS)
    small, plain = steps
    assert small.dtype == np.float64 and small.shape == (1, 4, 16, 16), "one picture"
    wrong = math.sqrt(((small - plain) ** 2).mean())
    assert found.psnr_db == pytest.approx(20 * math.log10(np.abs(plain).max() / wrong)) and found.psnr_db > 50
    line = f"unet: int8 weights, {found.psnr_db:.1f} dB to fp16 (one step on fixed latents of 16x16)"
    assert str(found) == line == rounding.said({rounding.FACT: found.fact()})
    assert rounding.said({"family": "demo"}) is None


def test_a_large_step_is_taken_at_half_its_sides(model, monkeypatch):
    def step(compiled, device, timed):
        assert timed == ["timestep"]
        assert "encoder_hidden_states" in compiled.program.inputs, "all of the weights, those too that run once"
        return np.array([1.0, 2.0 + len(compiled.program.weights)])

    monkeypatch.setattr(rounding, "MOST_FLOPS", 1)
    monkeypatch.setattr(rounding, "_step", step)
    found = rounding.rounding(model, Recipe(weights="i4"), [Job("unet", {"batch": 1, "height": 32, "width": 48})])
    assert (found.weights, found.height, found.width) == ("int4", 16, 24)


def test_equal_steps_are_no_figure(model, monkeypatch, caplog):
    monkeypatch.setattr(rounding, "_step", lambda *given: np.ones(3))
    assert rounding.rounding(model, Recipe(weights="i4"), JOBS) is None
    assert "what rounding unet costs was not measured: the steps differ by 0" in caplog.text


@pytest.mark.parametrize("why", ["no device", "memory"])
def test_it_is_left_out_with_its_reason(model, why, monkeypatch, caplog):
    def none() -> None:
        raise NoDeviceError("no usable OpenCL device (no driver is installed).")

    if why == "no device":
        monkeypatch.setattr(rounding, "choose_device", none)
    else:
        monkeypatch.setattr(rounding.machine, "available_memory", lambda: 1 << 20)
    assert rounding.rounding(model, Recipe(weights="i8"), JOBS[1:]) is None
    said = {"no device": "no usable OpenCL device", "memory": "a step needs"}[why]
    assert f"what rounding unet costs was not measured: {said}" in caplog.text
