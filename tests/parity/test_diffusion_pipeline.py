"""The loop against diffusers' own pipelines: the same small random networks, latents, sampler, steps and guidance."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from diffusion.fake_networks import HostSession, plans_at, spec_of
from diffusion.sampler_helpers import SD15
from parity.gauss_legendre import GaussLegendre

from ondevice.base.paths import MODELS
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.samplers import CLASSES, WITHOUT_BETAS
from ondevice.diffusion.samplers.pipeline import choose
from ondevice.diffusion.tokenizer import Tokenizer

pytestmark = pytest.mark.parity


class TorchSession(HostSession):
    """A session whose networks are diffusers' modules."""

    def __init__(self, unet: Any, vae: Any, text_encoder: Any) -> None:
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.calls: list[str] = []

    def run(self, component: str, inputs: dict[str, np.ndarray], **sizes: int) -> dict[str, np.ndarray]:
        import torch

        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        assert next(iter(tensors.values())).shape[0] == sizes["batch"]
        self.calls.append(component)
        with torch.no_grad():
            if component == "text_encoder":
                return {"last_hidden_state": self.text_encoder(tensors["input_ids"].long())[0].numpy()}
            if component == "unet":
                out = self.unet(tensors["sample"], tensors["timestep"], tensors["encoder_hidden_states"]).sample
                return {"out_sample": out.numpy()}
            if component == "vae_decoder":
                return {"sample": self.vae.decode(tensors["latent_sample"]).sample.numpy()}
            return {"latent_parameters": self.vae.encode(tensors["sample"]).latent_dist.parameters.numpy()}


@pytest.fixture(scope="module")
def networks() -> Any:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    text_encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    tokenizer = transformers.CLIPTokenizer.from_pretrained(MODELS / "clip_tokenizer", model_max_length=77)
    return unet.eval(), vae.eval(), text_encoder.eval(), tokenizer


# Those of other models, or with draws of its own, need more than a pipeline with betas.
IN_PIPELINES = [name for name, sampler in CLASSES.items() if sampler not in (*WITHOUT_BETAS, "dpmpp_sde")]


def scheduler_class(name: str) -> Any:
    diffusers = pytest.importorskip("diffusers")
    if name != "LMSDiscreteScheduler":
        return getattr(diffusers, name)
    module = importlib.import_module("diffusers.schedulers.scheduling_lms_discrete")
    if not hasattr(module, "integrate"):
        module.integrate = GaussLegendre
    return module.LMSDiscreteScheduler


def pipeline(networks: Any, kind: str, scheduler: str, config: dict[str, Any]) -> Any:
    diffusers = pytest.importorskip("diffusers")
    unet, vae, text_encoder, tokenizer = networks
    pipe = getattr(diffusers, kind)(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler_class(scheduler).from_config(config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(networks: Any, config: dict[str, Any], width: int, height: int) -> Pipeline:
    tokenizers = {"tokenizer": Tokenizer.from_files(MODELS / "clip_tokenizer")}
    spec = spec_of(scale=2, scaling=networks[1].config.scaling_factor)
    return Pipeline(spec, TorchSession(*networks[:3]), tokenizers, config, plans=plans_at(height // 2, width // 2))


def assert_same(pixels: np.ndarray, latents: np.ndarray, reference: np.ndarray, reference_latents: np.ndarray) -> None:
    worst = np.abs(latents - reference_latents).max() / np.abs(reference_latents).max()
    # The networks' own sums differ by batch order; the loop multiplies that by guidance and by steps.
    assert worst < 2e-5, f"latents differ by {worst:.1e} of the largest"
    expected = (reference * 255).round().astype(np.uint8)
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("scheduler", IN_PIPELINES)
def test_text_to_image_equals_the_pipeline_from_the_same_seed(networks: Any, scheduler: str) -> None:
    torch = pytest.importorskip("torch")
    pipe = pipeline(networks, "StableDiffusionPipeline", scheduler, SD15)
    got = ours(networks, SD15, 24, 40)(
        "a red circle",
        negative_prompt="blue",
        num_inference_steps=6,
        sampler=CLASSES[scheduler],
        guidance_scale=3.5,
        seed=11,
        width=24,
        height=40,
    )
    arguments = {
        "prompt": "a red circle",
        **({"eta": 0.3} if scheduler == "TCDScheduler" else {}),
        "negative_prompt": "blue",
        "num_inference_steps": 6,
        "guidance_scale": 3.5,
        "width": 24,
        "height": 40,
        "return_dict": False,
    }
    image = pipe(**arguments, generator=torch.Generator().manual_seed(11), output_type="np")[0][0]
    latents = pipe(**arguments, generator=torch.Generator().manual_seed(11), output_type="latent")[0].numpy()
    assert_same(got.pixels, got.latents, image, latents)


PLAIN = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
ODD = {
    "PNDM of 2022": ("PNDMScheduler", PLAIN | {"skip_prk_steps": True}),
    "PNDM with a warm-up": ("PNDMScheduler", PLAIN | {"steps_offset": 0, "set_alpha_to_one": True}),
    "DDIM of 2022": ("DDIMScheduler", PLAIN),
    "DDIM that clips": ("DDIMScheduler", SD15 | {"clip_sample": True, "clip_sample_range": 0.5, "steps_offset": 37}),
    "DDIM of a PNDM config": ("DDIMScheduler", SD15 | {"_class_name": "PNDMScheduler", "sample_max_value": 0.1}),
    "DDIM for v, zero SNR": (
        "DDIMScheduler",
        PLAIN | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "DDPM of 2022": ("DDPMScheduler", PLAIN),
    "DDPM of a solver's config": ("DDPMScheduler", SD15 | {"variance_type": None, "clip_sample": True}),
    "LCM that clips": ("LCMScheduler", PLAIN | {"clip_sample": True, "clip_sample_range": 0.1}),
    "Heun that clips": ("HeunDiscreteScheduler", PLAIN | {"clip_sample": True, "use_karras_sigmas": True}),
    "Euler, leading": ("EulerDiscreteScheduler", PLAIN | {"timestep_spacing": "leading", "steps_offset": 0}),
    "Euler ancestral, leading": (
        "EulerAncestralDiscreteScheduler",
        PLAIN | {"timestep_spacing": "leading", "steps_offset": 2},
    ),
    "LMS, leading": ("LMSDiscreteScheduler", PLAIN | {"timestep_spacing": "leading"}),
    "DPM-Solver of an Euler config": (
        "DPMSolverMultistepScheduler",
        PLAIN
        | {
            "_class_name": "EulerDiscreteScheduler",
            "timestep_spacing": "leading",
            "sigma_min": 0.05,
            "use_karras_sigmas": True,
        },
    ),
    "DPM-Solver with idle keys": (
        "DPMSolverMultistepScheduler",
        SD15
        | {
            "lambda_min_clipped": -float("inf"),
            "variance_type": "fixed_small",
            "use_dynamic_shifting": True,
            "flow_shift": 3.0,
        },
    ),
    "UniPC, leading": (
        "UniPCMultistepScheduler",
        PLAIN | {"timestep_spacing": "leading", "steps_offset": 0, "time_shift_type": "linear"},
    ),
}


@pytest.mark.parametrize("scheduler, config", ODD.values(), ids=ODD)
def test_a_checkpoint_s_own_scheduler_equals_the_pipeline_s(
    networks: Any, scheduler: str, config: dict[str, Any]
) -> None:
    """model_index.json's class with scheduler_config.json's numbers, as they are: the pipeline changes both alike."""
    torch = pytest.importorskip("torch")
    chosen = choose(config | {"_class_name": scheduler}, None, "")
    assert chosen.sampler == CLASSES[scheduler] and not chosen.fallback
    got = ours(networks, chosen.config, 24, 16)(
        "a red circle", sampler=chosen.sampler, num_inference_steps=5, guidance_scale=2.5, seed=5, width=24, height=16
    )
    arguments = {
        "prompt": "a red circle",
        "num_inference_steps": 5,
        "guidance_scale": 2.5,
        "width": 24,
        "height": 16,
        "return_dict": False,
    }
    pipe = pipeline(networks, "StableDiffusionPipeline", scheduler, config)
    image = pipe(**arguments, generator=torch.Generator().manual_seed(5), output_type="np")[0][0]
    latents = pipe(**arguments, generator=torch.Generator().manual_seed(5), output_type="latent")[0].numpy()
    assert_same(got.pixels, got.latents, image, latents)


@pytest.mark.parametrize("scheduler", IN_PIPELINES)
@pytest.mark.parametrize("strength", [0.35, 1.0])
def test_image_to_image_equals_the_pipeline_from_the_same_seed(networks: Any, scheduler: str, strength: float) -> None:
    torch = pytest.importorskip("torch")
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (33, 27, 3), dtype=np.uint8)
    pipe = pipeline(networks, "StableDiffusionImg2ImgPipeline", scheduler, SD15)
    got = ours(networks, SD15, 26, 32)(
        "a red circle",
        num_inference_steps=8,
        sampler=CLASSES[scheduler],
        guidance_scale=2.0,
        seed=3,
        image=image,
        strength=strength,
    )
    arguments = {
        "prompt": "a red circle",
        **({"eta": 0.3} if scheduler == "TCDScheduler" else {}),
        "negative_prompt": "",
        "image": Image.fromarray(image),
        "num_inference_steps": 8,
        "strength": strength,
        "guidance_scale": 2.0,
        "return_dict": False,
    }
    reference = pipe(**arguments, generator=torch.Generator().manual_seed(3), output_type="np")[0][0]
    latents = pipe(**arguments, generator=torch.Generator().manual_seed(3), output_type="latent")[0].numpy()
    assert got.pixels.shape == (32, 26, 3)
    assert_same(got.pixels, got.latents, reference, latents)


def test_without_guidance_and_with_given_latents_and_eta(networks: Any) -> None:
    torch = pytest.importorskip("torch")
    latents = torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(5))
    pipe = pipeline(networks, "StableDiffusionPipeline", "DDIMScheduler", SD15)
    arguments = {
        "prompt": "x",
        "num_inference_steps": 5,
        "guidance_scale": 1.0,
        "width": 16,
        "height": 24,
        "eta": 0.7,
        "latents": latents.clone(),
        "return_dict": False,
    }
    expected = pipe(**arguments, generator=torch.Generator().manual_seed(9), output_type="latent")[0].numpy()
    got = ours(networks, SD15, 16, 24)(
        "x",
        num_inference_steps=5,
        sampler="ddim",
        guidance_scale=1.0,
        width=16,
        height=24,
        sampler_options={"eta": 0.7},
        latents=latents.numpy(),
        seed=9,
    )
    assert np.abs(got.latents - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.array_equal(got.start, latents.numpy())
