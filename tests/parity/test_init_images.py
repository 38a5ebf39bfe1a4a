"""Pictures from init images of several kinds through the commands,
against diffusers from what a person sees in them."""

import numpy as np
import pytest
from parity.test_pictures import NEGATIVE, PROMPT, pipeline
from PIL import Image

from ondevice import cli
from ondevice.diffusion.image import fitted

pytestmark = [pytest.mark.parity, pytest.mark.device]
SIZE = (96, 64)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "demo.ondevice"
    assert cli.main(["convert", "demo", "--dtype", "fp32", "--size", "64x64,96x64", "--out", str(path)]) == 0
    return path


def scene():
    """uint8[64, 96, 3]: a red disc on green, with some noise."""
    y, x = np.mgrid[:64, :96]
    pixels = np.where(((x - 60) ** 2 + (y - 30) ** 2 < 400)[..., None], (220, 30, 30), (0, 140, 0))
    return (pixels + np.random.default_rng(0).integers(0, 20, pixels.shape)).astype(np.uint8)


def colours():
    return Image.fromarray(scene()), scene()


def sixteen_bit_grey():
    grey = scene()[..., 0].astype(np.uint16) * 257
    return Image.fromarray(grey), np.repeat(scene()[..., :1], 3, axis=2)


def grey():
    return Image.fromarray(scene()[..., 1]), np.repeat(scene()[..., 1:2], 3, axis=2)


def transparent():
    """Magenta hidden where nothing is seen, and a soft edge."""
    alpha = np.clip(400 - np.hypot(*(np.mgrid[:64, :96] - np.array([30, 60])[:, None, None])) * 14, 0, 255).astype(
        np.uint8
    )
    hidden = np.where(alpha[..., None] == 0, (255, 0, 255), scene()).astype(np.uint8)
    image = Image.fromarray(np.dstack([hidden, alpha]))
    return image, np.asarray(Image.alpha_composite(Image.new("RGBA", SIZE, "white"), image).convert("RGB"))


@pytest.mark.parametrize("kind", [colours, grey, sixteen_bit_grey, transparent])
def test_from_an_init_image_at_its_own_size(kind, bundle, tmp_path):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    image, seen = kind()
    image.save(tmp_path / "begin.png")
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **pipeline("demo", "DDIMScheduler").components, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=Image.fromarray(seen),
        strength=0.5,
        num_inference_steps=8,
        guidance_scale=3.0,
        generator=torch.Generator("cpu").manual_seed(4),
        output_type="np",
    ).images[0]
    words = [
        "--negative", NEGATIVE, "--strength", 0.5, "--steps", 8, "--guidance", 3.0, "--seed", 4, "--sampler", "ddim",
    ]  # fmt: skip
    words += ["--init-image", tmp_path / "begin.png", "--out", tmp_path / "a.png"]
    assert cli.main(["generate", str(bundle), PROMPT, *map(str, words)]) == 0
    got = np.asarray(Image.open(tmp_path / "a.png"), np.float64)
    assert got.shape == (64, 96, 3) and got.std() > 10
    assert np.abs(got - (expected * 255).round()).max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 40)])
def test_images_of_another_shape_are_fitted_as_diffusers_does(size):
    processor = pytest.importorskip("diffusers.image_processor").VaeImageProcessor()
    width, height = size
    cropped = processor.resize(Image.fromarray(scene()), height, width, resize_mode="crop")
    assert np.array_equal(fitted(scene(), width, height, "crop"), np.asarray(cropped))
    filled = np.asarray(processor.resize(Image.fromarray(scene()), height, width, resize_mode="fill"))
    ours = fitted(scene(), width, height, "pad", (1, 2, 3))
    inside = (ours != (1, 2, 3)).any(axis=2)
    assert inside.mean() > 0.3 and np.array_equal(ours[inside], filled[inside])
