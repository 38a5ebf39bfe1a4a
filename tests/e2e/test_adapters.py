"""Adapters on a bundle that is there draw what a bundle with them in its weights draws; and are gone when they are."""

import functools
import io
import json
import math
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

import numpy as np
import pytest
from adapter_files import adapter
from checkpoint_files import write_safetensors
from family_files import TINY
from PIL import Image

from ondevice import cli
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile, compile_bundle
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.adapters import with_adapters, with_carried
from ondevice.converters.source import Source
from ondevice.diffusion.adapters import open_adapter
from ondevice.diffusion.infotext import read_infotext
from ondevice.diffusion.memory_budget import Way, need
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.drawing.adapters import digest
from ondevice.errors import CheckpointError, StrictError, UsageError
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = pytest.mark.device
PROMPT = "a red circle on a blue background"
SIZES = {"demo": (64, 64), "sdxl-turbo": (48, 32), "demo-sd3": (64, 64)}
GAINS = {"demo": 0.1, "sdxl-turbo": 0.3, "demo-sd3": 0.4}  # of a weight: made-up networks make little of a change
RECIPES = {"fp32": Recipe("f32"), "fp16": Recipe(), "int8": Recipe(weights="i8")}
SCALES = {"first": 0.6, "second": -0.3}


@functools.cache
def checkpoint(family):
    if family.startswith("demo"):
        return Source(family).open()
    wide = {"sample_size": 64, "block_out_channels": [32, 64], "attention_head_dim": 4}
    configs = TINY["sdxl"] | {"unet": TINY["sdxl"]["unet"] | wide}
    return random_checkpoint_from_configs(**configs, seed=2, family=family)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """`files(family)`: two adapters of a model, linear layers and convolutions, UNet and text encoders."""
    folder = tmp_path_factory.mktemp("adapters")

    @functools.cache
    def written(family):
        found = {}
        for seed, name in enumerate(SCALES):
            found[name] = folder / family / f"{name}.safetensors"
            found[name].parent.mkdir(exist_ok=True)
            components = checkpoint(family).components
            write_safetensors(
                found[name], adapter(components, "peft", convolutions=True, seed=seed, gain=GAINS[family])
            )
        return found

    return written


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, files):
    """`bundles(family, storage, merged)`: of a model, with the two in its weights, or the first carried beside them."""
    folder = tmp_path_factory.mktemp("bundles")

    @functools.cache
    def bundle(family, storage, merged=False):
        given = files(family)
        if merged:
            source = with_adapters(checkpoint(family), [f"{given[name]}:{scale}" for name, scale in SCALES.items()])
        else:
            source = with_carried(checkpoint(family), [f"{given['first']}:mine"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compile, "rounding", lambda *_: None)  # which takes as long as all else
            path = folder / f"{family}-{storage}-{merged}.ondevice"
            return open_bundle(compile_bundle(source, path, RECIPES[storage], sizes=[SIZES[family]]), verify=True)

    return bundle


def pipeline(bundle):
    return Pipeline.of(bundle, Session(bundle, choose_device()))


def pixels(pipe):
    return pipe(PROMPT, num_inference_steps=2, guidance_scale=2.0, seed=3).pixels.astype(float)


def decibels(found, expected):
    return 10 * math.log10(255**2 / max(((found - expected) ** 2).mean(), 1e-9))


LEAST = {"fp32": 0, "fp16": 40, "int8": 35}  # decibels; of fp32 no pixel is off by more than 1
CASES = [("demo", "fp32"), ("demo", "int8"), ("demo-sd3", "fp16")]
OTHERS = [(family, storage) for family in SIZES for storage in LEAST if (family, storage) not in CASES]


@pytest.mark.parametrize("family, storage", [*CASES, *(pytest.param(*one, marks=pytest.mark.sweep) for one in OTHERS)])
def test_hot_and_merged_are_one_picture(bundles, files, family, storage):
    pipe = pipeline(bundles(family, storage))
    plain = pixels(pipe)
    for name, path in files(family).items():
        assert str(pipe.load_lora_weights(path, adapter_name=name)).endswith("applied")
        assert pipe.get_active_adapters() == [name]
    pipe.set_adapters(list(SCALES), list(SCALES.values()))
    found, expected = pixels(pipe), pixels(pipeline(bundles(family, storage, True)))
    assert np.abs(found - plain).max() > 20, "the adapters change nothing"
    if storage == "fp32":
        assert np.abs(found - expected).max() <= 1
    else:
        assert decibels(found, expected) >= LEAST[storage]
    pipe.unload_lora_weights()
    assert (pixels(pipe) == plain).all() and pipe.get_active_adapters() == []


def test_a_layer_of_queries_keys_and_values_is_three(bundles, tmp_path):
    """kohya's names of Stable Diffusion 3, and diffusers' of the same change: to the bit."""
    rng, width, module = np.random.default_rng(5), 128, "transformer_blocks.1.attn"
    up, down = (rng.standard_normal(shape).astype(np.float32) for shape in ((3 * width, 2), (2, width)))
    fused = {"lora_unet_joint_blocks_1_x_block_attn_qkv.lora_up.weight": up * 0.1}
    fused |= {"lora_unet_joint_blocks_1_x_block_attn_qkv.lora_down.weight": down}
    apart = {f"{module}.to_{part}.lora_A.weight": down for part in "qkv"}
    apart |= {
        f"{module}.to_{part}.lora_B.weight": rows * 0.1 for part, rows in zip("qkv", np.split(up, 3), strict=True)
    }
    pipe, found = pipeline(bundles("demo-sd3", "fp16")), []
    for name, arrays in (("fused", fused), ("apart", apart)):
        write_safetensors(tmp_path / f"{name}.safetensors", arrays)
        said = str(pipe.load_lora_weights(tmp_path / f"{name}.safetensors"))
        assert {"fused": "1 of 1", "apart": "3 of 3"}[name] in said
        found.append(pixels(pipe))
        pipe.unload_lora_weights()
    assert (found[0] == found[1]).all() and (found[0] != pixels(pipe)).any()


def test_a_carried_adapter_is_the_file(bundles, files):
    """To the bit, and at its own scale where none is given; a scale for a part, none for another."""
    bundle = bundles("demo", "fp32")
    pipe, other = pipeline(bundle), pipeline(bundle)
    pipe.load_lora_weights("mine", adapter_name="style")
    other.load_lora_weights(files("demo")["first"])
    assert (pixels(pipe) == pixels(other)).all() and other.get_active_adapters() == ["default_0"]
    pipe.set_adapters("style", 0.25)
    half = pixels(pipe)
    assert (half != pixels(other)).any()
    pipe.set_adapters(["style"], [{"text_encoder": 0.25, "unet": 0.25}])
    assert (pixels(pipe) == half).all()
    pipe.set_adapters(["style"], [{"unet": 0.0}])
    states = pipe(PROMPT, num_inference_steps=1, seed=3)
    assert states.parameters["lora"] == ["style:unet=0"]
    pipe.set_adapters([])
    assert "lora" not in pipe(PROMPT, num_inference_steps=1, seed=3).parameters


def test_words_that_are_refused(bundles, files, tmp_path):
    pipe, given = pipeline(bundles("demo", "fp32")), files("demo")
    pipe.load_lora_weights(given["first"], adapter_name="a")
    for call, words in (
        (lambda: pipe.load_lora_weights(given["second"], adapter_name="a"), "'a' is loaded already"),
        (
            lambda: pipe.load_lora_weights("nowhere"),
            "no adapter of that name in demo-fp32-False.ondevice (it carries mine",
        ),
        (lambda: pipe.set_adapters(["b"]), "'b' is not loaded (got 'b', expected one of 'a')"),
        (lambda: pipe.set_adapters(["a", "a"]), "'a' is there twice"),
        (lambda: pipe.set_adapters(["a"], [1.0, 2.0]), "1 names and 2 weights (expected as many of each)"),
        (lambda: pipe.set_adapters(["a"], [math.nan]), "nan is no scale"),
        (lambda: pipe.set_adapters(["a"], [{"vae": 1.0}]), "there is no part 'vae' (expected unet, text_encoder)"),
    ):
        with pytest.raises(UsageError, match=words.replace("(", r"\(").replace(")", r"\)")):
            call()
    assert pipe.get_active_adapters() == ["a"]
    other = adapter(checkpoint("sdxl-turbo").components, "peft")
    write_safetensors(tmp_path / "xl.safetensors", {name: one for name, one in other.items() if "text_enc" not in name})
    with pytest.raises(CheckpointError):
        pipe.load_lora_weights(tmp_path / "xl.safetensors")


def generate(*words):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(["generate", *map(str, words)])
    return code, out.getvalue(), err.getvalue()


def test_generate_draws_with_files_and_names(bundles, files, tmp_path):
    bundle, given = bundles("demo", "fp32"), files("demo")
    pipe = pipeline(bundle)
    pipe.load_lora_weights("mine")
    pipe.load_lora_weights(given["second"], adapter_name="second")
    pipe.set_adapters(["default_0", "second"], [0.5, -0.3])
    drawn = [pipe(PROMPT, num_inference_steps=2, seed=seed, emphasis="mean").pixels for seed in (1, 2)]
    loras = ["--lora", "mine:0.5", "--lora", f"{given['second']}:-0.3"]
    words = [bundle.path, PROMPT, "--steps", 2, "--seed", 1, "--count", 2, "--out", tmp_path / "a.png"]
    code, out, err = generate(*words, *loras, "--json")
    assert code == 0 and "second: " in err and "of" in err
    assert json.loads(out.splitlines()[0])["lora"] == ["mine:0.5", "second:-0.3"]
    for number, expected in enumerate(drawn):
        picture = Image.open(tmp_path / f"a-{number + 1}.png")
        assert (np.asarray(picture) == expected).all()
        assert 'Lora: "mine:0.5, second:-0.3", Version: ' in picture.text["parameters"]
    stray = dict(adapter(checkpoint("demo").components, "peft")) | {
        "unet.elsewhere.lora_A.weight": np.zeros((2, 4), "f")
    }
    write_safetensors(tmp_path / "stray.safetensors", stray)
    code, _, err = generate(*words, "--lora", tmp_path / "stray.safetensors", "--strict")
    assert code == StrictError.exit_code and "stray.safetensors: not of this model: unet.elsewhere" in err
    assert "--lora: two adapters are called mine" in generate(*words, "--lora", "mine", "--lora", "mine:2")[2]
    assert "'nan' is no scale" in generate(*words, "--lora", "mine:nan")[2]


def test_memory_of_changed_weights_is_planned(bundles):
    bundle = bundles("demo", "fp32")
    keys = frozenset(key for key, entry in bundle.manifest.weights.items() if entry.made and "unet" in key)
    assert sum(bundle.manifest.weights[key].bytes for key in keys) > 1e6
    plain, changed = (need(bundle, 8, 8, Way(changed=one)) for one in (frozenset(), keys))
    read = {x.weight for plan in bundle.plans for x in bundle.plan(plan.component, **plan.sizes).operands} & keys
    assert 0 < changed.changed <= sum(bundle.manifest.weights[key].bytes for key in read)
    assert changed.total(mapped=True) == plain.total(mapped=True) + changed.changed
    assert changed.device == plain.device + changed.changed


@pytest.mark.parametrize("names, words", [(["", ""], "two adapters called first"), ([":a b"], "'a b' is no name")])
def test_a_carried_adapter_needs_a_name_of_its_own(files, names, words):
    with pytest.raises(UsageError, match=words):
        with_carried(checkpoint("demo"), [f"{files('demo')['first']}{name}" for name in names])


def test_pictures_of_a_series_are_drawn_with_what_is_in_use(bundles):
    """Texts are encoded once for pictures that differ in their noise; not where their encoder has changed since."""
    pipe = pipeline(bundles("demo", "fp32"))
    pipe.load_lora_weights("mine")
    request = Request(prompt=PROMPT, num_inference_steps=1, guidance_scale=2.0)
    drawn = pipe.draw_series([request, replace(request)])
    next(drawn)
    pipe.set_adapters("default_0", 0.5)
    found = next(drawn).pixels
    assert (found == pipe.draw(request).pixels).all()


def test_a_picture_is_drawn_again_with_its_adapters(bundles, files, tmp_path):
    """A carried one by its name, a file where it is beside the picture; and a resumed run is of the same adapters."""
    bundle, given = bundles("demo", "fp32").path, files("demo")
    words = [bundle, PROMPT, "--steps", 2, "--lora", "mine:0.5", "--lora", f"{given['second']}:-0.3"]
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    assert generate(*words, "--out", first)[0] == 0
    code, _, err = generate(bundle, "--from", first, "--out", again, "--strict")
    assert code == StrictError.exit_code and "the adapter second:-0.3 is not carried, and no file beside it" in err
    (tmp_path / "second.safetensors").symlink_to(given["second"])
    assert generate(bundle, "--from", first, "--out", again, "--strict")[0] == 0
    assert first.read_bytes() == again.read_bytes()
    picture = Image.open(first)
    assert json.loads(picture.text["ondevice"])["lora"] == ["mine:0.5", "second:-0.3"]
    assert read_infotext(picture.text["parameters"]).adapters == ["mine:0.5", "second:-0.3"]
    opened = {name: open_adapter(bundles("demo", "fp32"), path) for name, path in (("mine", "mine"), *given.items())}
    digests = [
        digest([(opened[name], scale)]) for name, scale in (("mine", 1), ("mine", 2), ("first", 1), ("second", 1))
    ]
    assert len({*digests, digest([])}) == 5
