"""Whole pictures of the families beside Stable Diffusion 1.x:
tiny networks whose latents diffusers' own pipelines gave."""

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
PARTS = {  # family -> part: the case that has its config and salt
    "sd21": {"text_encoder": "sd2_text_encoder", "unet": "sd2_unet", "vae": "sd2_vae"},
    "sdxl": {
        "text_encoder": "sdxl_text_encoder",
        "text_encoder_2": "sdxl_text_encoder_2",
        "unet": "sdxl_unet",
        "vae": "sdxl_vae",
    },
}
CASES = {
    "sd2_e2e_v": ("sd21", {}),
    "sd2_e2e_zero_snr": ("sd21", {"guidance_rescale": 0.7}),
    "sdxl_e2e": ("sdxl", {}),
    "sdxl_e2e_negative": (
        "sdxl",
        {"original_height": 1024, "original_width": 1024, "target_height": 1024, "target_width": 1024},
    ),
}


def checkpoint(family, scheduler):
    """The family's tiny model with the recipe's weights."""
    components = {}
    for part, name in PARTS[family.name].items():
        raw, salt, _ = case(name)
        config = family.normalize(part, raw, "test")
        components[part] = Component(config, weights(family.parts[part].architecture, config, salt))
    tokenizers = {name: family.tokenizer(name) for name in family.tokenizers}
    return Checkpoint(components, scheduler, tokenizers, family.name, "test")


def drawn(name, folder, recipe):
    """(the picture, what diffusers gave) of a case."""
    family, numbers = CASES[name]
    config, _, arrays = case(name)
    source = checkpoint(FAMILIES[family], config["scheduler"])
    path = compile_bundle(source, folder / f"{name}.ondevice", recipe, sizes=[(WIDTH, HEIGHT)])
    bundle = open_bundle(path, verify=True)
    call = config["call"] | config
    pipeline = Pipeline.of(bundle, Session(bundle, choose_device()))
    picture = pipeline(
        config["prompt"],
        negative_prompt=call.get("negative_prompt"),
        num_inference_steps=call.get("num_inference_steps", config.get("steps")),
        guidance_scale=call["guidance_scale"],
        latents=arrays["in.latents"],
        numbers=numbers,
    )
    return picture, arrays


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype, bound", [("f32", 2e-5), ("f16", 2e-2)])
def test_latents_are_those_of_diffusers(name, dtype, bound, tmp_path):
    """In float32 but for the order of sums, which guidance and steps multiply; in half as far as its rounding goes."""
    picture, arrays = drawn(name, tmp_path, Recipe(dtype))
    expected = arrays["out.latents"]
    assert np.abs(picture.latents - expected).max() <= bound * np.abs(expected).max()
    assert picture.pixels.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.phones
@pytest.mark.parametrize("target", ["adreno_740", "mali_g715", "apple_a16"])
@pytest.mark.parametrize("name", ["sd2_e2e_v", "sdxl_e2e"])
def test_a_phones_bundle_draws_the_same_here(name, target, tmp_path):
    picture, arrays = drawn(name, tmp_path, Recipe("f16", target=load_target(target)))
    expected = arrays["out.latents"]
    assert np.abs(picture.latents - expected).max() <= 2e-2 * np.abs(expected).max()
