"""Whole pictures of the families beside Stable Diffusion 1.x:
tiny networks whose latents diffusers' own pipelines gave."""

import json

import numpy as np
import pytest
from recipe_weights import case, weights

from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.families import FAMILIES
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

pytestmark = pytest.mark.device
WIDTH, HEIGHT = 24, 16  # pixels; the tiny VAEs have two levels
SDXL = {
    "text_encoder": "sdxl_text_encoder",
    "text_encoder_2": "sdxl_text_encoder_2",
    "unet": "sdxl_unet",
    "vae": "sdxl_vae",
}
PARTS = {  # family -> part: the case that has its config and salt
    "sd21": {"text_encoder": "sd2_text_encoder", "unet": "sd2_unet", "vae": "sd2_vae"},
    "sdxl": SDXL,
    "sdxl-turbo": SDXL,
    "lcm": {"text_encoder": "sd2_text_encoder", "unet": "lcm_unet", "vae": "sd2_vae"},
}
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
}


def checkpoint(family, scheduler):
    """The family's tiny model with the recipe's weights."""
    components = {}
    for part, name in PARTS[family.name].items():
        raw, salt, _ = case(name)
        config = family.normalize(part, raw, "test")
        components[part] = Component(config, weights(family.parts[part].architecture, config, salt))
    tokenized = FAMILIES["sd21"] if family.name == "lcm" else family  # as in the reference, whose text is 2.x's
    tokenizers = {name: tokenized.tokenizer(name) for name in family.tokenizers}
    return Checkpoint(components, scheduler, tokenizers, family.name, "test")


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
IN_HALF = ("lcm_e2e", "sd2_e2e_v", "sd2_e2e_zero_snr", "sdxl_e2e", "sdxl_e2e_negative")


@pytest.mark.parametrize(
    "name, dtype, bound", [(name, "f32", 2e-5) for name in CASES] + [(name, "f16", 2e-2) for name in IN_HALF]
)
def test_latents_are_those_of_diffusers(name, dtype, bound, bundle):
    """In float32 but for the order of sums, which guidance and steps multiply; in half as far as its rounding goes."""
    picture, arrays = drawn(name, bundle, Recipe(dtype))
    expected = arrays["out.latents"]
    assert np.abs(picture.latents - expected).max() <= bound * np.abs(expected).max()
    assert picture.pixels.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.phones
@pytest.mark.parametrize("target", ["adreno_740", "mali_g715", "apple_a16"])
@pytest.mark.parametrize("name", ["sd2_e2e_v", "sdxl_e2e"])
def test_a_phones_bundle_draws_the_same_here(name, target, bundle):
    picture, arrays = drawn(name, bundle, Recipe("f16", target=load_target(target)))
    expected = arrays["out.latents"]
    assert np.abs(picture.latents - expected).max() <= 2e-2 * np.abs(expected).max()
