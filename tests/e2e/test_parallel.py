"""Pictures that two devices draw together are those that one draws."""

import os

import numpy as np
import pytest
from PIL import Image
from recipe_weights import case, checkpoint

from ondevice import Pipeline, cli, errors
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.picture import spec_of
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.parallel import exchanged, layout_of, shared
from ondevice.diffusion.request import Request
from ondevice.run.discovery import find_device
from ondevice.run.guard import GuardedSession
from ondevice.run.opencl import OpenCLDevice

pytestmark = pytest.mark.device
PROMPT = "a red circle on a blue background"
CASES = {"sd21": "sd2_e2e_v", "sdxl": "sdxl_e2e", "sd3-without-t5": "sd3_e2e_no_t5"}
HALVES = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a CPU of one core has no halves")


@pytest.fixture(scope="module")
def devices():
    """Two, each with memory and a queue of its own."""
    return [OpenCLDevice(find_device("cpu")) for _ in range(2)]


@pytest.fixture(scope="module")
def bundle(made_once):
    """`bundle(family)`: the tiny model's in fp32."""

    def made(family):
        config, _, _ = case(CASES[family])
        source = checkpoint(FAMILIES[family], config["scheduler"])
        return open_bundle(
            made_once(
                f"parallel-{family}.ondevice",
                lambda path: compile_bundle(source, path, Recipe(dtype="f32"), sizes=[(24, 16)]),
            )
        )

    return made


def runner(bundle, devices):
    layout = layout_of("guidance", [device.name for device in devices], bundle.pipeline)
    return shared(bundle, layout, [GuardedSession(bundle, device) for device in devices])


@pytest.mark.parametrize("family", CASES)
def test_two_devices_draw_what_one_draws_in_two_passes(family, bundle, devices):
    made = bundle(family)
    request = Request(prompt=PROMPT, negative_prompt="green", num_inference_steps=3, seed=4, guidance_scale=4.0)
    both = runner(made, devices)
    got = Pipeline.of(made, both).draw(request)
    one = Pipeline.of(made, GuardedSession(made, devices[0]))
    np.testing.assert_array_equal(got.latents, one.draw(request, Way(split=True)).latents)
    at_once = one.draw(request)
    assert np.abs(got.latents - at_once.latents).max() <= 1e-5 * np.abs(at_once.latents).max()
    assert np.abs(got.pixels.astype(int) - at_once.pixels).max() <= 1
    said = exchanged(made, layout_of("guidance", ["a", "b"], made.pipeline), 24 // 2, 16 // 2)
    assert both.moved.runs == 3
    assert (both.moved.arrays / 3, both.moved.once) == (said.step, said.once)


@HALVES
def test_halves_of_a_cpu_draw_the_picture_of_one(demo_bundle, tmp_path, capsys):
    words = ["generate", demo_bundle, PROMPT, "--steps", "3", "--seed", "5"]
    for name, more in (("one", []), ("two", ["--parallel", "guidance", "--device", "cpu/2"])):
        assert cli.main([str(word) for word in (*words, "--out", tmp_path / f"{name}.png", *more)]) == 0
    said = capsys.readouterr().err
    one, two = (np.asarray(Image.open(tmp_path / f"{name}.png"), int) for name in ("one", "two"))
    assert ((one - two) ** 2).mean() < 255**2 * 10**-5  # 50 dB, in fp16
    # latents and a prediction of 4 x 8 x 8 float32, and a timestep
    assert "parallel: the passes of guidance on 2 devices; 2.1 kB exchanged a step, " in said


def test_several_pictures_and_weights_that_were_given_back(demo_bundle, devices):
    bundle = open_bundle(demo_bundle)
    both = runner(bundle, devices)
    pipeline = Pipeline.of(bundle, both)
    first = pipeline(PROMPT, num_inference_steps=2, seed=1, num_images_per_prompt=2)
    alone = pipeline(PROMPT, num_inference_steps=2, seed=2)
    np.testing.assert_array_equal(np.asarray(first.images[1]), np.asarray(alone.images[0]))
    both.release_all()
    again = pipeline(PROMPT, num_inference_steps=2, seed=2)
    np.testing.assert_array_equal(np.asarray(again.images[0]), np.asarray(alone.images[0]))


def refused(capsys, error, *words):
    assert cli.main([str(word) for word in words]) == error.exit_code
    return capsys.readouterr().err.strip()


def test_what_cannot_be_shared_is_said(demo_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ONDEVICE_DEVICE", raising=False)
    draw = ("generate", demo_bundle, PROMPT, "--out", tmp_path / "a.png", "--steps", "1", "--parallel", "guidance")
    name = find_device("cpu").name
    assert refused(capsys, errors.UsageError, *draw, "--device", "cpu") == (
        f"error: --parallel: it takes two devices or more (got {name} alone). Fix: name several, as --device 0,1, or "
        "cut a CPU in two with --device cpu/2."
    )
    assert refused(capsys, errors.UsageError, *draw, "--device", "cpu,cpu").startswith(
        f"error: --device: {name} is named twice. Fix: name it once, as "
    )
    assert "too few for 999 parts. Fix: " in refused(capsys, errors.NoDeviceError, *draw, "--device", "cpu/999")
    assert refused(capsys, errors.UsageError, *draw, "--max-memory", "2GB") == (
        "error: --max-memory: it counts the memory of one device, and --parallel takes several. "
        "Fix: leave --max-memory out."
    )
    assert refused(capsys, errors.UsageError, *draw, "--profile") == (
        "error: --profile: they show the time of one device, and --parallel takes several. Fix: leave --profile out."
    )
    assert "; and where several are named, they must share something. Fix: add --parallel guidance, or name one" in (
        refused(capsys, errors.UsageError, *draw[:-2], "--device", "cpu/2")
    )
    assert not (tmp_path / "a.png").exists()


@HALVES
def test_guidance_that_is_off_has_no_halves(demo_bundle, tmp_path, capsys):
    draw = ("generate", demo_bundle, PROMPT, "--out", tmp_path / "a.png", "--parallel", "guidance", "--device", "cpu/2")
    assert refused(capsys, errors.UsageError, *draw, "--guidance", "1").endswith(
        "error: --parallel: without guidance a step is one pass (got guidance_scale 1, expected above 1). Fix: ask for "
        "guidance, or leave --parallel out."
    )


def test_devices_and_passes_must_fit(demo_bundle):
    spec = open_bundle(demo_bundle).pipeline
    assert layout_of("guidance", ["a", "b"], spec).devices == 2
    with pytest.raises(errors.UsageError) as caught:
        layout_of("guidance", ["a", "b", "c"], spec)
    assert str(caught.value) == (
        "--parallel: 3 devices for 2 passes of guidance (expected at most 2). Fix: name 2 devices."
    )
    with pytest.raises(errors.UsageError, match=r"unknown \(got 'pipeline', expected guidance\)"):
        layout_of("pipeline", ["a", "b"], spec)
    lcm = build(checkpoint(FAMILIES["lcm"], case("lcm_e2e")[0]["scheduler"]))
    with pytest.raises(errors.UsageError) as caught:
        layout_of("guidance", ["a", "b"], spec_of(lcm))
    assert str(caught.value) == (
        "--parallel: this model draws in one pass, without guidance, so there are no halves to share. Fix: leave "
        "--parallel out."
    )


@HALVES
def test_from_python(demo_bundle):
    pipeline = Pipeline.from_bundle(demo_bundle, device="cpu/2", parallel="guidance")
    picture = pipeline(PROMPT, num_inference_steps=2, seed=1)
    alone = Pipeline.from_bundle(demo_bundle, device="cpu")(PROMPT, num_inference_steps=2, seed=1)
    assert np.abs(np.asarray(picture.images[0], int) - np.asarray(alone.images[0], int)).mean() < 0.1
    with pytest.raises(errors.UsageError, match="parallel"):
        Pipeline.from_bundle(demo_bundle, device="cpu", parallel="guidance")
