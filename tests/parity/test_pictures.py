"""The same picture as diffusers: same weights, latents, sampler, steps and guidance."""

import functools
import math

import numpy as np
import pytest
from parity.modules import TEXT, UNET, VAE, torch_module

from ondevice.bundle.reader import open_bundle
from ondevice.compiler import compile_bundle
from ondevice.converters.checkpoint import open_checkpoint
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.generate import painter
from ondevice.paths import MODELS
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = [pytest.mark.parity, pytest.mark.device]

PROMPT, NEGATIVE = "a red circle on a blue background", "a green star"
STEPS, GUIDANCE = 5, 4.0


@functools.cache
def checkpoint(name):
    """The demo model, or a random one in SD 1's shape with odd channel counts."""
    if name == "demo":
        return open_checkpoint(FAMILIES["demo"].source, family=FAMILIES["demo"])
    text, widths = TEXT | {"vocab_size": 49408}, {"block_out_channels": [36, 60, 84, 84]}
    unet = (
        UNET
        | widths
        | {
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "layers_per_block": 2,
        }
    )
    return random_checkpoint_from_configs(text_encoder=text, unet=unet, vae=VAE | {"layers_per_block": 2}, seed=3)


SIZES = {"demo": (128, 128), "random": (96, 64)}  # (width, height) in pixels


@functools.cache
def reference(name, sampler):
    """(picture in 0..1, latents it began with) by diffusers in float32."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    source, modules = checkpoint(name), {}
    for part, component in source.components.items():
        known = {"text_encoder": TEXT, "unet": {}, "vae": {}}[part]
        config = {k: v for k, v in component.config.items() if not k.startswith("_") and k in (known or component.config)}
        config = {k: v for k, v in config.items() if v is not None or part == "text_encoder"}
        if part == "text_encoder":
            config["layer_norm_eps"] = component.config["layer_norm_eps"]
        module = torch_module(part, config)
        state = {k: torch.tensor(np.asarray(v.numpy(), np.float32)) for k, v in component.weights.items()}
        own = module.state_dict()
        if part == "text_encoder" and not any(k.startswith("text_model.") for k in own):
            state = {k.removeprefix("text_model."): v for k, v in state.items()}
        missing, extra = module.load_state_dict(state, strict=False)
        assert not extra and all(k.endswith("position_ids") for k in missing), (missing, extra)
        modules[part] = module
    width, height = SIZES[name]
    rng = np.random.default_rng(7)
    latents = rng.standard_normal((1, 4, height // 8, width // 8), dtype=np.float32)
    pipe = diffusers.StableDiffusionPipeline(
        **modules,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(tokenizer_folder(name)), model_max_length=77),
        scheduler=getattr(diffusers, sampler).from_config(source.scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    picture = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        width=width,
        height=height,
        latents=torch.tensor(latents),
        output_type="np",
    ).images[0]
    return picture, latents


def tokenizer_folder(name):
    return MODELS / "demo" / "tokenizer" if name == "demo" else MODELS / "clip_tokenizer"


def draw(name, dtype, folder, sampler):
    width, height = SIZES[name]
    path = compile_bundle(checkpoint(name), folder / "m.ondevice", sizes=[SIZES[name]], dtype=dtype)
    bundle = open_bundle(path)
    _, latents = reference(name, sampler[1])
    made = painter(bundle, Session(bundle, choose_device()))(
        PROMPT,
        negative_prompt=NEGATIVE,
        steps=STEPS,
        sampler=sampler[0],
        guidance_scale=GUIDANCE,
        width=width,
        height=height,
        latents=latents,
    )
    return made.pixels


@pytest.mark.parametrize("sampler", [("pndm", "PNDMScheduler"), ("dpmpp_2m", "DPMSolverMultistepScheduler")], ids=["pndm", "dpmpp_2m"])
@pytest.mark.parametrize("name", SIZES)
def test_float32_within_two_levels(name, sampler, tmp_path):
    expected = (reference(name, sampler[1])[0] * 255).round()
    assert expected.std() > 10, "a flat picture proves nothing"
    got = draw(name, "f32", tmp_path, sampler).astype(np.float64)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 2


@pytest.mark.parametrize("name", SIZES)
def test_half_storage_reaches_40_db(name, tmp_path):
    sampler = ("pndm", "PNDMScheduler")
    expected = (reference(name, sampler[1])[0] * 255).round()
    error = draw(name, "f16", tmp_path, sampler).astype(np.float64) - expected
    psnr = 10 * math.log10(255**2 / max((error**2).mean(), 1e-9))
    assert psnr >= 40, f"{psnr:.1f} dB"
