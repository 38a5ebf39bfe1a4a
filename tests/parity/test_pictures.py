"""The same picture as diffusers: same weights, latents, sampler, steps and guidance."""

import functools
import json
import math
import shutil

import numpy as np
import pytest
from parity.modules import TEXT, UNET, VAE, torch_module
from PIL import Image

from ondevice import cli
from ondevice.base.paths import MODELS
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = [pytest.mark.parity, pytest.mark.device]

PROMPT, NEGATIVE = "a red circle on a blue background", "a green star"
STEPS, GUIDANCE = 5, 4.0


@functools.cache
def checkpoint(name):
    """The demo model, or a random one in SD 1's shape with odd channel counts, or one with fewer blocks."""
    if name == "demo":
        return open_checkpoint(FAMILIES["demo"].source, family=FAMILIES["demo"])
    if name == "small":
        text = TEXT | {"vocab_size": 49408}
        return random_checkpoint_from_configs(text_encoder=text, unet=UNET | FEWER, vae=VAE, seed=4)
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


SIZES = {"demo": (128, 128), "random": (96, 64), "small": (64, 32)}  # (width, height) in pixels
FEWER = {  # blocks, as small UNets have them
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "layers_per_block": [1, 2, 1],
    "only_cross_attention": [True, False, False],
    "transformer_layers_per_block": [1, 1, [2]],
    "reverse_transformer_layers_per_block": [[1, 2], 1, 1],
}


@functools.cache
def pipeline(name, sampler):
    """diffusers' pipeline with the checkpoint's weights, in float32."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    source, modules = checkpoint(name), {}
    for part, component in source.components.items():
        config = {k: v for k, v in component.config.items() if not k.startswith("_") and v is not None}
        if part == "text_encoder":
            config = {k: v for k, v in config.items() if k in TEXT or k == "layer_norm_eps"}
        module = torch_module(part, config)
        state = {k: torch.tensor(np.asarray(v.numpy(), np.float32)) for k, v in component.weights.items()}
        if part == "text_encoder" and not any(k.startswith("text_model.") for k in module.state_dict()):
            state = {k.removeprefix("text_model."): v for k, v in state.items()}
        missing, extra = module.load_state_dict(state, strict=False)
        assert not extra and all(k.endswith("position_ids") for k in missing), (missing, extra)
        modules[part] = module
    pipe = diffusers.StableDiffusionPipeline(
        **modules,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(tokenizer_folder(name)), model_max_length=77),
        scheduler=getattr(diffusers, sampler).from_config(source.scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def reference(name, sampler):
    """(picture in 0..1, latents it began with) by diffusers in float32."""
    torch = pytest.importorskip("torch")
    width, height = SIZES[name]
    latents = np.random.default_rng(7).standard_normal((1, 4, height // 8, width // 8), dtype=np.float32)
    picture = pipeline(name, sampler)(
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
    path = compile_bundle(checkpoint(name), folder / "m.ondevice", Recipe(dtype), sizes=[SIZES[name]])
    bundle = open_bundle(path)
    _, latents = reference(name, sampler[1])
    result = Pipeline.of(bundle, Session(bundle, choose_device()))(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=STEPS,
        sampler=sampler[0],
        guidance_scale=GUIDANCE,
        width=width,
        height=height,
        latents=latents,
    )
    return result.pixels


PNDM, DPM = ("pndm", "PNDMScheduler"), ("dpmpp_2m", "DPMSolverMultistepScheduler")


@pytest.mark.parametrize(
    "name, sampler",
    [("demo", PNDM), ("demo", DPM), ("random", PNDM), ("random", DPM), ("small", PNDM)],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_float32_within_two_levels(name, sampler, tmp_path):
    expected = (reference(name, sampler[1])[0] * 255).round()
    assert expected.std() > 10, "a flat picture proves nothing"
    got = draw(name, "f32", tmp_path, sampler).astype(np.float64)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 2


@pytest.mark.parametrize("name", SIZES)
def test_half_storage_reaches_40_db(name, tmp_path):
    expected = (reference(name, PNDM[1])[0] * 255).round()
    error = draw(name, "f16", tmp_path, PNDM).astype(np.float64) - expected
    psnr = 10 * math.log10(255**2 / max((error**2).mean(), 1e-9))
    assert psnr >= 40, f"{psnr:.1f} dB"


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_folder_that_diffusers_saved_through_the_commands(variant, tmp_path):
    """As a user has it: save_pretrained, convert, generate with a seed;
    the picture is that of the seed in diffusers."""
    torch = pytest.importorskip("torch")
    pipe, (width, height) = pipeline("random", "PNDMScheduler"), SIZES["random"]
    pipe.save_pretrained(tmp_path / "saved", variant=variant)
    bundle, out = tmp_path / "m.ondevice", tmp_path / "a.png"
    words = [
        "convert",
        "sd14",
        "--checkpoint",
        tmp_path / "saved",
        "--size",
        f"{width}x{height}",
        "--dtype",
        "fp32",
        "--out",
        bundle,
    ]
    assert cli.main([str(word) for word in words]) == 0
    words = [
        "generate", bundle, PROMPT, "--negative", NEGATIVE, "--steps", STEPS, "--guidance", GUIDANCE, "--seed", 11,
        "--out", out,
    ]  # fmt: skip
    assert cli.main([str(word) for word in words]) == 0
    expected = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        width=width,
        height=height,
        generator=torch.Generator("cpu").manual_seed(11),
        output_type="np",
    ).images[0]
    assert np.abs(np.asarray(Image.open(out), np.float64) - (expected * 255).round()).max() <= 2


DDIM_OF_2022 = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
FOLDERS = {  # what model_index.json names, scheduler_config.json
    "two classes": (
        "EulerAncestralDiscreteScheduler",
        DDIM_OF_2022 | {"_class_name": "PNDMScheduler", "steps_offset": 1},
    ),
    "no steps_offset": ("PNDMScheduler", DDIM_OF_2022 | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}),
    "no clip_sample, no steps_offset": ("DDIMScheduler", DDIM_OF_2022),
}


@pytest.mark.parametrize("named, config", FOLDERS.values(), ids=FOLDERS)
def test_folders_whose_scheduler_diffusers_changes(named, config, tmp_path):
    """As a user has it: `from_pretrained`, and convert and generate of the same folder."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    folder = shutil.copytree(MODELS / "demo", tmp_path / "saved")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", named]}))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    arguments = {
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "width": 64,
        "height": 72,
        "output_type": "np",
    }
    expected = pipe(PROMPT, generator=torch.Generator("cpu").manual_seed(11), **arguments).images[0]
    bundle, out = tmp_path / "m.ondevice", tmp_path / "a.png"
    words = ["convert", "demo", "--checkpoint", folder, "--size", "64x72", "--dtype", "fp32", "--out", bundle]
    assert cli.main([str(word) for word in words]) == 0
    words = ["generate", bundle, PROMPT, "--steps", STEPS, "--guidance", GUIDANCE, "--seed", 11, "--out", out]
    assert cli.main([str(word) for word in words]) == 0
    assert expected.std() > 0.04, "a flat picture proves nothing"
    assert np.abs(np.asarray(Image.open(out), np.float64) - (expected * 255).round()).max() <= 1
