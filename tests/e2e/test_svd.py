"""Films of a tiny Stable Video Diffusion: latents and frames that diffusers' own pipeline gave, without torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from recipe_weights import case, checkpoint

from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.jobs import Frames
from ondevice.converters.families import FAMILIES
from ondevice.converters.families.tiny import TAESD, as_opened
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Picture
from ondevice.errors import UsageError
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

pytestmark = pytest.mark.device
SIZE = (24, 16)
Made = Callable[..., Bundle]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The bundle of a storage type, compiled once: three frames, of which two are decoded at once; or in half for a
    target."""
    made: dict[tuple[str, str], Bundle] = {}

    def of(dtype: str, target: str = "host") -> Bundle:
        if (dtype, target) not in made:
            source = checkpoint(FAMILIES["svd"], case("svd_e2e")[0]["scheduler"])
            path = tmp_path_factory.mktemp("svd") / f"{dtype}-{target}.ondevice"
            recipe = Recipe(dtype, target=load_target(target), film=Frames((3,), 2))
            made[dtype, target] = open_bundle(compile_bundle(source, path, recipe, sizes=[SIZE]), verify=True)
        return made[dtype, target]

    return of


def drawn(made: Bundle, **options: object) -> tuple[Picture, dict[str, np.ndarray]]:
    """(what is drawn, what diffusers gave)."""
    config, _, arrays = case("svd_e2e")
    call = {"num_frames": config["frames"], "num_inference_steps": config["steps"], "seed": config["seed"]}
    names = ("fps", "motion_bucket_id", "noise_aug_strength", "min_guidance_scale", "max_guidance_scale")
    call |= {name: config[name] for name in (*names, "decode_chunk_size")}
    call |= {"image": arrays["in.image"], "latents": arrays["in.latents"][0]}
    return Pipeline.of(made, Session(made, choose_device()))(**call | options), arrays


@pytest.mark.parametrize(("dtype", "bound", "off"), [("f32", 2e-5, 1), ("f16", 2e-2, 3)])
def test_films_are_those_of_diffusers(dtype: str, bound: float, off: int, bundle: Made) -> None:
    """In float32 but for the order of sums; in half as far as its rounding goes. Pixels of 255 are `off` by at most."""
    picture, arrays = drawn(bundle(dtype))
    expected = arrays["out.latents"][0]
    assert np.abs(picture.latents - expected).max() <= bound * np.abs(expected).max()
    pixels = np.rint(255 * np.clip(arrays["out.frames"][0] / 2 + 0.5, 0, 1)).transpose(1, 2, 3, 0)
    assert picture.frames is not None and picture.frames.shape == (3, 16, 24, 3)
    assert np.abs(picture.frames.astype(float) - pixels).max() <= off


@pytest.mark.phones
@pytest.mark.parametrize("target", ["adreno_740", "mali_g715", "apple_a16"])
def test_a_phones_bundle_draws_the_same_here(target: str, bundle: Made) -> None:
    picture, arrays = drawn(bundle("f16", target))
    expected = arrays["out.latents"][0]
    assert np.abs(picture.latents - expected).max() <= 2e-2 * np.abs(expected).max()


def test_films_have_no_fast_decoder() -> None:
    family = FAMILIES["svd"]
    configs = {part: family.config(part) for part in family.parts}
    with pytest.raises(UsageError, match=r"^--taesd: films have no fast decoder. Fix: leave --taesd out.$"):
        as_opened(family, configs | {TAESD: {}})


def test_what_a_bundle_has(bundle: Made) -> None:
    made = bundle("f32")
    sizes = [(plan.component, plan.sizes.get("batch"), plan.sizes.get("frames")) for plan in made.plans]
    assert sorted(sizes, key=str) == sorted(
        [
            ("image_encoder", 1, None),
            ("looks", 1, None),
            ("condition", 1, None),
            ("unet", 1, 3),
            ("vae_decoder", 1, 2),
            ("vae_decoder", 1, 1),
            ("vae_encoder", 1, None),
        ],
        key=str,
    )
    assert made.pipeline.numbers["frame_count"].default == 3 and made.pipeline.sampler == "euler"
