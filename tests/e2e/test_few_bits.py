"""The demo model with weights in few bits: a small bundle that draws nearly the same picture."""

import functools
import json
import math

import numpy as np
import pytest

from ondevice import cli
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.pipeline import Pipeline
from ondevice.lower.quantize import SCHEMES
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

pytestmark = pytest.mark.device


SMALL = {"i8": "W8", "i4": "W4"}  # how weights are stored, and what kernels that read them are built with
ELSEWHERE = {"i8 gpu": ("i8", "gpu"), "i4 phone": ("i4", "adreno_740")}  # beside the host
PARTS = {"i8": 0.56, "i8 gpu": 0.56, "i4": 0.34, "i4 phone": 0.34}  # of the bytes in half


@pytest.fixture(scope="module")
def bundles(made_once):
    """`bundles(name)`: of "f16", SMALL or ELSEWHERE."""
    demo = open_checkpoint(None, family="demo")
    recipes = {"f16": Recipe()} | {name: Recipe(weights=name) for name in SMALL}
    recipes |= {name: Recipe(weights=how, target=load_target(on)) for name, (how, on) in ELSEWHERE.items()}

    @functools.cache
    def bundle(name):
        made = made_once(f"demo {name}.ondevice", lambda path: compile_bundle(demo, path, recipes[name]))
        return open_bundle(made, verify=True)

    return bundle


@pytest.mark.parametrize(
    "name, part",
    [pytest.param(*one, marks=pytest.mark.phones if one[0] in ELSEWHERE else ()) for one in PARTS.items()],
)
def test_a_bundle_of_a_part_of_the_size(bundles, name, part):
    """On no target is a weight in few bits stored transformed."""
    half, small = ({p.component: p.weight_bytes for p in bundles(name).plans} for name in ("f16", name))
    assert small["unet"] < part * half["unet"]
    assert small["text_encoder"] < half["text_encoder"]  # whose table of words stays as it is
    assert small["vae_decoder"] < part * half["vae_decoder"]


@pytest.mark.parametrize("name", SMALL)
def test_what_is_in_few_bits(bundles, name):
    """Every large weight; where Winograd is in one command its taps are not stored transformed."""
    bundle, dtype = bundles(name), SCHEMES[name].dtype
    entries = bundle.manifest.weights
    assert [entry.dtype for entry in entries.values()].count(dtype) > 20
    kept = [key for key, entry in entries.items() if entry.dtype == "f16" and math.prod(entry.shape) >= 40_000]
    assert not kept
    key = next(key for key, entry in entries.items() if entry.dtype == dtype)
    values = bundle.array(key)
    if name == "i8":
        assert values.dtype == np.int8 and values.min() >= -127 and np.abs(values.astype(int)).max() == 127
    else:
        assert values.dtype == np.uint8 and (values & 15).min() == 0 and (values >> 4).max() == 15
    for plan in (bundle.plan(entry.component, **entry.sizes) for entry in bundle.plans):
        strips = [dict(kernel.defines) for kernel in plan.kernels if kernel.file == "winograd_strips"]
        assert all(defines["FLY"] for defines in strips if SMALL[name] in defines)


def drawn(bundle, steps):
    draw = Pipeline.of(bundle, Session(bundle, choose_device()))
    return draw("a red circle on a blue background", num_inference_steps=steps, seed=0).pixels.astype(float)


def decibels(one, other):
    return 10 * math.log10(255**2 / ((one - other) ** 2).mean())


def test_nearly_the_same_picture(bundles):
    """Measured in 20 steps: 52.6 and 28.8 dB. No bound follows from rounding alone, so these are loose."""
    plain, *others = (drawn(bundles(name), 6) for name in ("f16", "i8", "i4"))
    for other, least in zip(others, (35, 20), strict=True):
        assert decibels(plain, other) >= least


@pytest.mark.parametrize("name, least", [("i8", 50), ("i4", 30)])
def test_a_bundle_says_what_rounding_costs(bundles, name, least):
    """Measured: 59.8 and 38.1 dB."""
    assert bundles(name).model["rounding"]["psnr_db"] >= least
    assert "rounding" not in bundles("f16").model


@pytest.mark.phones
@pytest.mark.parametrize("name", ELSEWHERE)
def test_every_target_rounds_alike(bundles, name):
    """What is left is the rounding of activations to half, half arithmetic, and Winograd's."""
    on_host, elsewhere = bundles(ELSEWHERE[name][0]), bundles(name)
    assert on_host.model["rounding"] == elsewhere.model["rounding"]
    assert decibels(*(drawn(bundle, 2) for bundle in (on_host, elsewhere))) >= 50


def test_convert_says_it(tmp_path, capsys):
    words = ["convert", "demo", "--size", "64x64", "--weights", "int4", "--out", str(tmp_path / "b")]
    assert cli.main(words) == 0
    assert capsys.readouterr().err.endswith(" dB to fp16 (one step on fixed latents of 8x8)\n")


def told(capsys, *words):
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("flag, name, part", [("int8", "i8", 0.6), ("int4", "i4", 0.4)])
def test_a_model_is_shown_with_such_weights_as_its_bundle_is(bundles, flag, name, part, capsys):
    words = ["--after", "plan", "--component", "unet"]
    (of_model,) = told(capsys, "show", "demo", *words, "--target", "host", "--weights", flag)["components"]
    assert [of_model] == told(capsys, "show", str(bundles(name).path), *words)["components"]
    (half,) = told(capsys, "show", "demo", *words, "--target", "host")["components"]
    assert of_model["weights"] < part * half["weights"] and of_model["count"] == half["count"]


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
def test_where_weights_cannot_be_asked_for(bundles, words, said, capsys):
    assert (
        cli.main([str(bundles("i8").path) if word == "BUNDLE" else word for word in words] + ["--weights", "int8"]) == 2
    )
    assert capsys.readouterr().err.startswith(f"error: --weights: {said}")
