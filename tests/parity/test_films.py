"""Films as diffusers saves and draws them: a folder of StableVideoDiffusionPipeline, a photograph's worth of a picture
at another size, seeds, guidance and none, frames in chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ondevice import Pipeline as Drawer
from ondevice.base.paths import MODELS
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.jobs import Frames
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = [pytest.mark.parity, pytest.mark.device]
WIDTH, HEIGHT, FRAMES, CHUNK = 24, 16, 3, 2
CLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP |= {"patch_size": 56, "image_size": 224, "hidden_act": "gelu", "projection_dim": 20}
UNET = {"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "num_attention_heads": (1, 2)}
UNET |= {"down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")}
UNET |= {"up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")}
UNET |= {"cross_attention_dim": 20, "addition_time_embed_dim": 16, "projection_class_embeddings_input_dim": 48}
VAE = {"block_out_channels": (32, 64), "down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 2}
CALL = {"num_frames": FRAMES, "num_inference_steps": 3, "fps": 9, "motion_bucket_id": 200, "noise_aug_strength": 0.1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """(diffusers' pipeline, its folder)."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("svd") / "m"
    torch.manual_seed(5)
    parts = {
        "image_encoder": transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**CLIP)),
        "unet": diffusers.UNetSpatioTemporalConditionModel(**UNET, num_frames=FRAMES),
        "vae": diffusers.AutoencoderKLTemporalDecoder(**VAE),
    }
    with torch.no_grad():  # what blends over time with over pixels differs from blender to blender
        for part in parts.values():
            for name, weight in part.named_parameters():
                if name.endswith("mix_factor"):
                    weight.copy_(torch.randn_like(weight))
    scheduler = json.loads((MODELS / "svd" / "scheduler" / "scheduler_config.json").read_text())
    pipe = diffusers.StableVideoDiffusionPipeline(
        **{name: part.eval() for name, part in parts.items()},
        scheduler=diffusers.EulerDiscreteScheduler.from_config(scheduler),
        feature_extractor=transformers.CLIPImageProcessor(),
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe, folder


def picture(width: int, height: int) -> Image.Image:
    """Smooth colours and an edge."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * x / width, 255 * y / height, 255 * (x + y > (width + height) / 2)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def expected(pipe: Any, image: Image.Image, seed: int, output: str, **options: Any) -> np.ndarray:
    torch = pytest.importorskip("torch")
    found = pipe(
        image,
        height=HEIGHT,
        width=WIDTH,
        generator=torch.Generator().manual_seed(seed),
        output_type=output,
        **{"decode_chunk_size": CHUNK} | CALL | options,
    ).frames[0]
    return found.numpy() if output == "latent" else np.asarray(found)


def compiled(folder: Path, path: Path, dtype: str) -> Pipeline:
    recipe = Recipe(dtype, film=Frames((FRAMES,), CHUNK))
    made = open_bundle(compile_bundle(open_checkpoint(folder, family="svd"), path, recipe, sizes=[(WIDTH, HEIGHT)]))
    return Pipeline.of(made, Session(made, choose_device()))


def test_films_are_those_of_diffusers(saved: tuple[Any, Path], tmp_path: Path) -> None:
    """The noise of a seed is the picture's first, then the film's; a picture of another size is fitted in two ways."""
    pipe, folder = saved
    ours = compiled(folder, tmp_path / "m", "f32")
    for image, seed, options in (
        (picture(WIDTH, HEIGHT), 4, {}),
        (picture(301, 260), 2**40, {"min_guidance_scale": 2.0, "max_guidance_scale": 5.5}),
        (picture(WIDTH, HEIGHT), 0, {"max_guidance_scale": 1.0}),
    ):
        drawn = ours(image=image, width=WIDTH, height=HEIGHT, seed=seed, **CALL | options)
        wanted = expected(pipe, image, seed, "latent", **options)
        assert np.abs(drawn.latents - wanted).max() <= 3e-5 * np.abs(wanted).max()
        assert drawn.frames is not None
        pixels = np.round(255 * expected(pipe, image, seed, "np", **options))
        assert np.abs(drawn.frames - pixels).max() <= 2
    half = compiled(folder, tmp_path / "h", "f16")
    drawn = half(image=image, width=WIDTH, height=HEIGHT, seed=seed, **CALL | options)
    assert drawn.frames is not None
    error = drawn.frames / 255 - expected(pipe, image, seed, "np", **options)
    assert -10 * np.log10((error**2).mean()) >= 40


def test_from_pretrained_draws_the_same(
    saved: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder says itself what it is; a generator of torch's gives its seed."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("ondevice.api.cache_dir", lambda: tmp_path)  # of bundles; kernels stay where they are
    pipe, folder = saved
    drawer = Drawer.from_pretrained(folder, size=(WIDTH, HEIGHT), dtype="fp32")
    image = picture(WIDTH, HEIGHT)
    drawn = drawer(image=image, generator=torch.Generator().manual_seed(8), **CALL)
    assert drawn.frames is not None and len(drawn.images) == FRAMES
    pixels = np.round(255 * expected(pipe, image, 8, "np", decode_chunk_size=FRAMES))
    assert np.abs(drawn.frames - pixels).max() <= 2
