"""The demo model with int8 weights: a bundle of about half the size that draws nearly the same picture."""

import json
import math

import numpy as np
import pytest

from ondevice import cli
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder, demo = tmp_path_factory.mktemp("int8"), open_checkpoint(None, family="demo")
    ways = {"f16": Recipe(), "i8": Recipe(weights="i8"), "gpu": Recipe(weights="i8", target=load_target("gpu"))}
    return {
        name: open_bundle(compile_bundle(demo, folder / f"{name}.ondevice", recipe), verify=True)
        for name, recipe in ways.items()
    }


def test_a_bundle_of_about_half_the_size(bundles):
    half, small, gpu = ({p.component: p.weight_bytes for p in bundle.plans} for bundle in bundles.values())
    assert gpu["unet"] < 0.56 * half["unet"], "no weight is stored transformed"
    assert small["unet"] < 0.56 * half["unet"]
    assert small["text_encoder"] < half["text_encoder"]  # whose table of words stays as it is
    assert small["vae_decoder"] < 0.56 * half["vae_decoder"]


def test_what_is_int8(bundles):
    """Every large weight, and with each a scale per column; values from -127 to 127."""
    bundle = bundles["i8"]
    dtypes = [entry.dtype for entry in bundle.manifest.weights.values()]
    assert dtypes.count("i8") > 20
    kept = [
        key
        for key, entry in bundle.manifest.weights.items()
        if entry.dtype == "f16" and math.prod(entry.shape) >= 40_000
    ]
    assert not kept
    key = next(key for key, entry in bundle.manifest.weights.items() if entry.dtype == "i8")
    values = bundle.array(key)
    assert (
        values.dtype == np.int8
        and values.max() <= 127
        and values.min() >= -127
        and np.abs(values.astype(int)).max() == 127
    )
    for plan in (bundle.plan(entry.component, **entry.sizes) for entry in bundle.plans):
        assert all(
            dict(kernel.defines)["FLY"]
            for kernel in plan.kernels
            if kernel.file == "winograd_strips" and ("W8", 1) in kernel.defines
        )


def drawn(bundle, steps):
    draw = Pipeline.of(bundle, Session(bundle, choose_device()))
    return draw("a red circle on a blue background", num_inference_steps=steps, seed=0).pixels.astype(float)


def decibels(one, other):
    return 10 * math.log10(255**2 / ((one - other) ** 2).mean())


def test_nearly_the_same_picture(bundles):
    """Measured: 43.7 dB (README). No bound follows from rounding alone, so this one is loose."""
    assert decibels(*(drawn(bundles[name], 20) for name in ("f16", "i8"))) >= 35


def test_every_target_rounds_alike(bundles):
    """What is left is the rounding of activations to half, and Winograd's."""
    assert decibels(*(drawn(bundles[name], 2) for name in ("i8", "gpu"))) >= 50


def told(capsys, *words):
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_model_is_shown_with_int8_weights_as_its_bundle_is(bundles, capsys):
    words = ["--after", "plan", "--component", "unet"]
    (of_model,) = told(capsys, "show", "demo", *words, "--target", "host", "--weights", "int8")["components"]
    assert [of_model] == told(capsys, "show", str(bundles["i8"].path), *words)["components"]
    (half,) = told(capsys, "show", "demo", *words, "--target", "host")["components"]
    assert of_model["weights"] < 0.6 * half["weights"] and of_model["count"] == half["count"]


def test_the_ablation_of_int8_weights(capsys):
    words = ["bench", "demo", "--ablation", "--component", "text_encoder"]
    small, half = told(capsys, *words, "--weights", "int8"), told(capsys, *words)
    assert small[-1]["moved"] < half[-1]["moved"] and small[-1]["dispatches"] == half[-1]["dispatches"]
    (*_, timed) = told(capsys, *words, "--weights", "int8", "--latency", "--repeat", "3", "--device", "cpu")
    assert (
        timed["name"].startswith("ablation: demo with int8 weights text_encoder batch=1 f32")
        and timed["moved"] == small[-1]["moved"]
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["show", "demo", "--after", "rewrite"], "weights are stored from `lower` on (got --after rewrite)"),
        (["bench", "demo", "--peers"], "the peers run whole models at precisions of their own"),
        (["show", "BUNDLE"], "a bundle is compiled already; this goes only with a model"),
        (["bench", "BUNDLE"], "a bundle is compiled already; this goes only with a model"),
    ],
)
def test_where_int8_cannot_be_asked_for(bundles, words, said, capsys):
    assert (
        cli.main([str(bundles["i8"].path) if word == "BUNDLE" else word for word in words] + ["--weights", "int8"]) == 2
    )
    assert capsys.readouterr().err.startswith(f"error: --weights: {said}")
