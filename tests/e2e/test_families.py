"""Whole pictures of the families beside Stable Diffusion 1.x:
tiny networks whose latents diffusers' own pipelines gave."""

import json

import numpy as np
import pytest
from PIL import Image
from recipe_weights import case, checkpoint

from ondevice import cli
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.families import FAMILIES
from ondevice.diffusion import before
from ondevice.diffusion.pipeline import Pipeline
from ondevice.errors import UsageError
from ondevice.lower import pack
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

pytestmark = pytest.mark.device
WIDTH, HEIGHT = 24, 16  # pixels; the tiny VAEs have two levels
CASES = {
    "sd2_e2e_v": ("sd21", {}),
    "sd2_e2e_zero_snr": ("sd21", {"guidance_rescale": 0.7}),
    "sdxl_e2e": ("sdxl", {}),
    "sdxl_e2e_negative": (
        "sdxl",
        {"original_height": 1024, "original_width": 1024, "target_height": 1024, "target_width": 1024},
    ),
    "lcm_e2e": ("lcm", {}),
    "sdxl_turbo_e2e_1": ("sdxl-turbo", {}),
    "sdxl_turbo_e2e_4": ("sdxl-turbo", {}),
    "sdxl_euler_trailing_e2e_1": ("sdxl-turbo", {}),  # SD Turbo's scheduler
    "sd3_e2e": ("sd3", {}),
    "sd3_e2e_no_t5": ("sd3-without-t5", {}),
    "sd35_e2e": ("sd35-medium", {}),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """`bundle(family, scheduler's config, recipe)`: the tiny model's, compiled once."""
    compiled = {}

    def made(family, scheduler, recipe):
        key = family, json.dumps(scheduler), recipe.dtype, recipe.target.name
        if key not in compiled:
            path = tmp_path_factory.mktemp("families") / f"{family}.ondevice"
            source = checkpoint(FAMILIES[family], scheduler)
            compiled[key] = open_bundle(compile_bundle(source, path, recipe, sizes=[(WIDTH, HEIGHT)]), verify=True)
        return compiled[key]

    return made


def drawn(name, bundle, recipe):
    """(the picture, what diffusers gave) of a case."""
    family, numbers = CASES[name]
    config, _, arrays = case(name)
    made = bundle(family, config["scheduler"], recipe)
    call = config.get("call", {}) | config
    pipeline = Pipeline.of(made, Session(made, choose_device()))
    # a family of few steps is asked for nothing: what it draws with by itself is what the reference was told
    usual = family == "lcm" or (family == "sdxl-turbo" and "_1" in name)
    picture = pipeline(
        config.get("prompt", PROMPT),
        negative_prompt=call.get("negative_prompt"),
        num_inference_steps=None if usual else call.get("num_inference_steps", config.get("steps")),
        guidance_scale=None if usual else call["guidance_scale"],
        seed=config.get("seed") or 0,
        latents=arrays["in.latents"],
        numbers=numbers,
    )
    return picture, arrays


PROMPT = "a photo of an astronaut riding a horse on mars"
IN_HALF = ("lcm_e2e", "sd2_e2e_v", "sd2_e2e_zero_snr", "sdxl_e2e", "sdxl_e2e_negative", "sd3_e2e_no_t5")


@pytest.mark.parametrize(
    "name, dtype, bound",
    [(name, "f32", 2e-5) for name in CASES]
    + [(name, "f16", 2e-2) for name in IN_HALF]
    + [pytest.param("sd3_e2e", "f16", 2e-2, marks=pytest.mark.sweep)],
)
def test_latents_are_those_of_diffusers(name, dtype, bound, bundle):
    """In float32 but for the order of sums, which guidance and steps multiply; in half as far as its rounding goes."""
    picture, arrays = drawn(name, bundle, Recipe(dtype))
    expected = arrays["out.latents"]
    assert np.abs(picture.latents - expected).max() <= bound * np.abs(expected).max()
    assert picture.pixels.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("weights, bound", [("i8", 2e-2), ("i4", 0.3)])
def test_t5_alone_in_few_bits(weights, bound, monkeypatch, tmp_path):
    """As `--weights-of text_encoder_3` asks: the latents stay near diffusers', and all else is stored as it was."""
    monkeypatch.setattr(pack, "pays", lambda k, n: k >= 8 and n >= 4)  # the real ones are larger
    config, _, arrays = case("sd3_e2e")
    source = checkpoint(FAMILIES["sd3"], config["scheduler"])
    recipe = Recipe("f32", weights, weights_of=("text_encoder_3",))
    made = open_bundle(compile_bundle(source, tmp_path / "m.ondevice", recipe, sizes=[(WIDTH, HEIGHT)]))
    dtype = {"i8": "i8", "i4": "u4x2"}[weights]
    small = {key.partition("/")[0] for key, one in made.manifest.weights.items() if one.dtype == dtype}
    assert small == {"text_encoder_3"}
    picture = Pipeline.of(made, Session(made, choose_device()))(
        config["prompt"],
        negative_prompt=config["negative_prompt"],
        num_inference_steps=config["steps"],
        guidance_scale=config["guidance_scale"],
        latents=arrays["in.latents"],
    )
    expected = arrays["out.latents"]
    assert 2e-5 < np.abs(picture.latents - expected).max() / np.abs(expected).max() <= bound


def test_stable_diffusion_3_redraws_a_picture_as_diffusers(bundle):
    config, _, arrays = case("sd3_e2e_img2img")
    texts = case("sd3_e2e_no_t5")[0]
    made = bundle("sd3-without-t5", texts["scheduler"], Recipe("f32"))
    call = {"negative_prompt": texts["negative_prompt"], "guidance_scale": config["guidance_scale"], "seed": 0}
    call |= {"num_inference_steps": config["steps"], "strength": config["strength"], "image": arrays["in.image"]}
    picture = Pipeline.of(made, Session(made, choose_device()))(texts["prompt"], **call)
    expected = arrays["out.latents"]
    assert np.abs(picture.latents - expected).max() <= 2e-5 * np.abs(expected).max()


def parted(name, family, bundle, **options):
    """(the picture, what diffusers gave) of a case in two parts."""
    config, _, arrays = case(name)
    made = bundle(family, config["scheduler"], Recipe("f32"))
    call = {key: config["call"][key] for key in ("num_inference_steps", "guidance_scale")}
    picture = Pipeline.of(made, Session(made, choose_device()))(config["prompt"], **call, **options)
    return picture, arrays["out.latents"]


def test_a_refiner_goes_on_where_the_base_ends(bundle):
    latents = case("sdxl_e2e_base_part")[2]["in.latents"]
    begun, expected = parted("sdxl_e2e_base_part", "sdxl", bundle, latents=latents, denoising_end=0.8)
    assert np.abs(begun.latents - expected).max() <= 2e-5 * np.abs(expected).max()
    assert begun.pixels is None and begun.images == []
    # the picture that a run of the refiner alone begins from is not asked for
    rest = {"latents": begun.latents, "denoising_start": 0.8}
    picture, expected = parted("sdxl_e2e_refiner_part", "sdxl-refiner", bundle, **rest)
    assert np.abs(picture.latents - expected).max() <= 5e-5 * np.abs(expected).max()
    assert picture.pixels.shape == (HEIGHT, WIDTH, 3)


def test_a_refiner_redraws_a_picture(bundle, monkeypatch):
    """As diffusers, which was given the latents that a picture would be encoded to."""
    latents = case("sdxl_e2e_refiner_strength")[2]["in.image"]
    monkeypatch.setattr(before, "drawn", lambda moments, stream: latents / np.float32(0.13025))
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture, expected = parted("sdxl_e2e_refiner_strength", "sdxl-refiner", bundle, image=image, strength=0.5)
    assert np.abs(picture.latents - expected).max() <= 2e-5 * np.abs(expected).max()


def test_generate_with_a_refiner_draws_as_the_two_in_turn(bundle, tmp_path):
    scheduler = case("sdxl_e2e_base_part")[0]["scheduler"]
    base, refiner = (bundle(family, scheduler, Recipe("f32")) for family in ("sdxl", "sdxl-refiner"))
    words = ["--steps", 3, "--refiner", refiner.path, "--refiner-start", 0.6, "--number", "aesthetic_score=7"]
    words += ["--number", "crop_top=4", "--seed", 5, "--count", 2, "--out", tmp_path / "a.png"]
    assert cli.main([str(word) for word in ("generate", base.path, PROMPT, *words)]) == 0
    device = choose_device()
    call = {"num_inference_steps": 3, "seed": 6, "emphasis": "mean"}
    begun = Pipeline.of(base, Session(base, device))(PROMPT, **call, denoising_end=0.6, numbers={"crop_top": 4})
    rest = {"latents": begun.latents, "denoising_start": 0.6, "numbers": {"aesthetic_score": 7, "crop_top": 4}}
    picture = Pipeline.of(refiner, Session(refiner, device))(PROMPT, **call, **rest)
    drawn = Image.open(tmp_path / "a-2.png")
    np.testing.assert_array_equal(np.asarray(drawn), picture.pixels)
    assert "Refiner: test, Refiner switch at: 0.6" in drawn.text["parameters"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--refiner-start", "0.5"], "--refiner-start: there is no refiner"),
        (["--refiner", "x", "--refiner-start", "1"], "--refiner-start: not a part of the schedule"),
        (["--refiner", "x", "--profile"], "--profile: two models have a profile each"),
    ],
)
def test_flags_of_the_refiner_that_do_not_go_together(words, said, capsys):
    assert cli.main(["generate", "no such bundle", PROMPT, *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, what",
    [
        ({}, "image: this model draws nothing without a picture"),
        ({"denoising_start": 0.8}, "denoising_start: the schedule goes on from latents, and none were given"),
        ({"denoising_end": 1}, "denoising_end: not a part of the schedule"),
    ],
)
def test_a_refiner_needs_a_picture_or_latents(options, what, bundle):
    with pytest.raises(UsageError, match=what):
        parted("sdxl_e2e_refiner_part", "sdxl-refiner", bundle, **options)


@pytest.mark.phones
@pytest.mark.parametrize("target", ["adreno_740", "mali_g715", "apple_a16"])
@pytest.mark.parametrize("name", ["sd2_e2e_v", "sdxl_e2e", "sd3_e2e", "sd3_e2e_no_t5", "sd35_e2e"])
def test_a_phones_bundle_draws_the_same_here(name, target, bundle):
    picture, arrays = drawn(name, bundle, Recipe("f16", target=load_target(target)))
    expected = arrays["out.latents"]
    assert np.abs(picture.latents - expected).max() <= 2e-2 * np.abs(expected).max()
