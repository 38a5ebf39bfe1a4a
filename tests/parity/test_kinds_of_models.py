"""Turbo, LCM, inpainting, InstructPix2Pix and the refiner draw what diffusers' own pipelines of them draw, from noise
and from pictures."""

import functools
import math

import numpy as np
import pytest
from checkpoint_files import TINY_UNET
from family_files import TINY
from PIL import Image

from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = [pytest.mark.parity, pytest.mark.device]
PROMPT, NEGATIVE, SEED = "a red circle on a blue background", "a green star", 3
WIDTH, HEIGHT = 48, 32
CONFIGS = {  # with a sample_size, which some of diffusers' pipelines compare with a number
    name: configs | {"unet": configs["unet"] | {"sample_size": 64}}
    for name, configs in (
        TINY
        | {
            "sd15": TINY["lcm"] | {"unet": TINY_UNET},
            "sd-turbo": TINY["sd21"],
            "sdxl-turbo": TINY["sdxl"],
            "sdxl-lightning-1step": TINY["sdxl"],
            "lcm-sdxl": TINY["sdxl"] | {"unet": TINY["sdxl"]["unet"] | {"time_cond_proj_dim": 10}},
        }
    ).items()
    if "unet" in configs
}
TEXT_CLASSES = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
IMAGE = np.asarray(
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)).resize((WIDTH, HEIGHT))
)
MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[6:26, 10:40] = 255


@functools.cache
def checkpoint(name):
    return random_checkpoint_from_configs(**CONFIGS[name], seed=2, family=name)


@functools.cache
def parts(name, folder):
    """diffusers' and transformers' modules of the family's tiny model, in float32."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    source, family, modules = checkpoint(name), FAMILIES[name], {}
    for part, component in source.components.items():
        config = {key: value for key, value in component.config.items() if not key.startswith("_")}
        if part in TEXT_CLASSES:
            kept = {key: config[key] for key in config if key in TINY["sdxl"]["text_encoder_2"] or key == "hidden_act"}
            settings = transformers.CLIPTextConfig(**{"bos_token_id": 0, "eos_token_id": 2} | kept)
            module = getattr(transformers, TEXT_CLASSES[part])(settings)
        else:
            module = getattr(diffusers, "UNet2DConditionModel" if part == "unet" else "AutoencoderKL")(**config)
        state = {key: torch.tensor(np.asarray(value.numpy(), np.float32)) for key, value in component.weights.items()}
        own = set(module.state_dict())
        state = {key if key in own else key.removeprefix("text_model."): value for key, value in state.items()}
        missing, extra = module.load_state_dict(state, strict=False)
        beyond = [key for key in missing if not key.endswith("position_ids")]
        assert not extra and not beyond, (beyond, extra)
        modules[part] = module.eval()
    for tokenizer, files in source.tokenizers.items():
        place = folder / f"{name}-{tokenizer}"
        place.mkdir(parents=True)
        for file, data in files.items():
            (place / file).write_bytes(data)
        modules[tokenizer] = transformers.CLIPTokenizer.from_pretrained(place)
    scheduler = family.scheduler()
    return modules | {"scheduler": getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)}


def theirs(name, pipeline, folder, **call):
    """uint8 [height, width, 3] by a pipeline of diffusers."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    kind = getattr(diffusers, pipeline)
    given = dict(parts(name, folder))
    if "XL" in pipeline:
        given |= {"text_encoder": None, "tokenizer": None} | given if name == "sdxl-refiner" else {}
        given["force_zeros_for_empty_prompt"] = name != "sdxl-refiner"
        given["add_watermarker"] = False
        given |= {"requires_aesthetics_score": True} if name == "sdxl-refiner" else {}
        if pipeline == "StableDiffusionXLInstructPix2PixPipeline":
            given.pop("add_watermarker")
    else:
        given |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = kind(**given)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(PROMPT, generator=torch.Generator("cpu").manual_seed(SEED), output_type="np", **call)
    return (made.images[0] * 255).round()


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """`ours(family, dtype)`: the family's tiny bundle as a pipeline, compiled once."""

    @functools.cache
    def opened(name, dtype):
        path = tmp_path_factory.mktemp(name) / f"{name}.ondevice"
        bundle = open_bundle(compile_bundle(checkpoint(name), path, Recipe(dtype), sizes=[(WIDTH, HEIGHT)]))
        return Pipeline.of(bundle, Session(bundle, choose_device()))

    return opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


SIZE = {"width": WIDTH, "height": HEIGHT}
BEGUN = {"image": Image.fromarray(IMAGE)}
MASKED = BEGUN | SIZE | {"mask_image": Image.fromarray(MASK)}
# (family, diffusers' pipeline) -> what it is called with; ours is called with the same
CASES = {
    ("sd-turbo", "StableDiffusionPipeline"): SIZE,
    ("sdxl-turbo", "StableDiffusionXLImg2ImgPipeline"): BEGUN | {"num_inference_steps": 4, "strength": 0.5},
    ("sdxl-lightning-1step", "StableDiffusionXLPipeline"): SIZE,
    ("lcm", "LatentConsistencyModelPipeline"): SIZE,
    ("lcm-sdxl", "StableDiffusionXLPipeline"): SIZE,
    ("lcm", "StableDiffusionImg2ImgPipeline"): BEGUN | {"num_inference_steps": 4, "strength": 0.5},
    ("sdxl-refiner", "StableDiffusionXLImg2ImgPipeline"): BEGUN | {"num_inference_steps": 5, "strength": 0.6},
    ("sd15-inpaint", "StableDiffusionInpaintPipeline"): MASKED | {"num_inference_steps": 3},
    ("sd2-inpaint", "StableDiffusionInpaintPipeline"): MASKED | {"num_inference_steps": 5, "strength": 0.6},
    ("sdxl-inpaint", "StableDiffusionXLInpaintPipeline"): MASKED | {"num_inference_steps": 4},
    ("instruct-pix2pix", "StableDiffusionInstructPix2PixPipeline"): BEGUN
    | {"num_inference_steps": 3, "negative_prompt": NEGATIVE},
    ("sdxl-instruct-pix2pix", "StableDiffusionXLInstructPix2PixPipeline"): BEGUN | SIZE | {"num_inference_steps": 3},
}


@pytest.mark.parametrize("key", CASES, ids=lambda key: f"{key[0]}-{key[1]}")
def test_pictures_are_those_of_diffusers(key, ours, folder):
    (name, pipeline), call = key, CASES[key]
    family = FAMILIES[name]
    usual = {"num_inference_steps": family.steps, "guidance_scale": family.guidance_scale}
    expected = theirs(name, pipeline, folder, **usual | call)
    assert expected.shape == (HEIGHT, WIDTH, 3) and expected.std() > 10, "a flat picture proves nothing"
    masked = "mask_image" in call
    arrays = {"image": IMAGE, "mask_image": MASK}
    given = {"mask" if key == "mask_image" else key: arrays.get(key, value) for key, value in call.items()}
    drawn = {dtype: ours(name, dtype)(PROMPT, seed=SEED, **given).pixels for dtype in ("f32", "f16")}
    within = MASK > 0 if masked else np.full((HEIGHT, WIDTH), True)
    exact, half = (pixels[within] - expected[within] for pixels in drawn.values())
    assert np.abs(exact).max() <= 2
    assert 10 * math.log10(255**2 / max((half**2).mean(), 1e-9)) >= 40
    for pixels in drawn.values():  # diffusers gives them changed by the autoencoder
        np.testing.assert_array_equal(pixels[~within], IMAGE[~within])
