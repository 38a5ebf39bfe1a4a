"""Pictures of which a part is drawn anew, and pictures for CLIP, against diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusion.sampler_helpers import SD15
from parity.test_diffusion_pipeline import assert_same, networks, ours, pipeline
from PIL import Image

from ondevice.diffusion.clip_picture import clip_picture
from ondevice.diffusion.image import resize
from ondevice.diffusion.samplers import CLASSES

pytestmark = pytest.mark.parity
__all__ = ["networks"]
SCHEDULERS = ("PNDM", "DDIM", "EulerAncestralDiscrete", "DPMSolverMultistep", "HeunDiscrete", "UniPCMultistep", "LCM")
WHOLE = (("PNDM", None), ("EulerAncestralDiscrete", None), ("KDPM2AncestralDiscrete", None))
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (33, 27, 3), np.uint8)
MASK = np.kron(RANDOM.integers(0, 256, (5, 4), np.uint8), np.ones((9, 8), np.uint8))  # of another size and shape


@pytest.mark.parametrize(("scheduler", "strength"), [*((name, 0.6) for name in SCHEDULERS), *WHOLE])
def test_a_mask_with_a_unet_of_four_channels(networks: Any, scheduler: str, strength: float | None) -> None:
    """StableDiffusionInpaintPipeline; a strength of 1 is the default of both. It is given latents of the masked
    picture, which it would make, with a draw, and not use."""
    torch = pytest.importorskip("torch")
    scheduler += "Scheduler"
    chosen = {} if strength is None else {"strength": strength}
    got = ours(networks, SD15, 26, 32)(
        "a red circle",
        num_inference_steps=6,
        sampler=CLASSES[scheduler],
        guidance_scale=2.0,
        seed=3,
        image=IMAGE,
        mask=MASK,
        **chosen,
    )
    arguments = {
        "prompt": "a red circle",
        "negative_prompt": "",
        "image": Image.fromarray(IMAGE),
        "mask_image": Image.fromarray(MASK),
        "masked_image_latents": torch.zeros(1, 4, 16, 13),
        "width": 26,
        "height": 32,
        "num_inference_steps": 6,
        "guidance_scale": 2.0,
        "return_dict": False,
        **chosen,
    }
    pipe = pipeline(networks, "StableDiffusionInpaintPipeline", scheduler, SD15)
    drawn = pipe(**arguments, generator=torch.Generator().manual_seed(3), output_type="np")[0][0]
    latents = pipe(**arguments, generator=torch.Generator().manual_seed(3), output_type="latent")[0].numpy()
    mask = pipe.mask_processor.preprocess(Image.fromarray(MASK), height=32, width=26)[0, 0].numpy() > 0.5
    picture = resize(IMAGE, 26, 32)
    assert 0.2 < mask.mean() < 0.8 and np.array_equal(got.pixels[~mask], picture[~mask])
    assert_same(got.pixels, got.latents, np.where(mask[..., None], drawn, picture / 255), latents)


@pytest.mark.parametrize("size", [(300, 448), (224, 97), (1000, 225)])
def test_clips_picture(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    video = pytest.importorskip(
        "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion", reason="diffusers is not here"
    )
    pixels = RANDOM.integers(0, 256, (*size, 3), np.uint8)
    given = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255 * 2 - 1
    resized = (video._resize_with_antialiasing(given, (224, 224)) + 1) / 2
    mean, deviation = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    want = (resized.numpy()[0].transpose(1, 2, 0) - mean) / deviation
    np.testing.assert_allclose(clip_picture(pixels)[0].transpose(1, 2, 0), want, rtol=0, atol=1e-6)
