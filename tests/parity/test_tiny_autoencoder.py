"""Tiny autoencoders as diffusers has them: the module's own weights, and whole pictures through `vae=AutoencoderTiny`,
in the place of a model's autoencoder and beside it."""

import json
import math

import numpy as np
import pytest
from parity.modules import UNET, VAE, relative_error, torch_module
from parity.test_family_checkpoints import TOKENS, modules_of
from PIL import Image

from ondevice.base.paths import MODELS
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.tiny_files import with_taesd
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = [pytest.mark.parity, pytest.mark.device]
SIZE = (64, 32)  # width, height in pixels
CONFIG = {
    "encoder_block_out_channels": (20,) * 4,
    "decoder_block_out_channels": (20,) * 4,
    "num_encoder_blocks": (1, 1, 2, 1),
    "num_decoder_blocks": (2, 1, 1, 1),
}
PROMPT, NEGATIVE = "a red circle on a blue background", "a green star"
CALL = {"num_inference_steps": 4, "guidance_scale": 4.0, "negative_prompt": NEGATIVE}


def tiny_module():
    """diffusers' module, whose pictures are not flat."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(9)
    module = diffusers.AutoencoderTiny(**CONFIG).eval()
    with torch.no_grad():
        for half, factor in ((module.encoder, 2.0), (module.decoder, 3.0)):
            for parameter in half.parameters():
                parameter.mul_(1.8 if parameter.ndim == 4 else 1.0)
            half.layers[-1].weight.mul_(factor)
    return module


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def saved(request, tmp_path_factory):
    """(family, diffusers' pipeline with the tiny autoencoder, the folder that it is saved as, one with a whole one)."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    if family == "sdxl":
        modules = modules_of(family)
    else:
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TOKENS)).eval()
        modules = {"vae": torch_module("vae", VAE, 3), "unet": torch_module("unet", UNET, 4), "text_encoder": text}
    for name in FAMILIES[family].tokenizers:
        held = folder / name
        held.mkdir()
        for file, data in FAMILIES[family].tokenizer(name).items():
            (held / file).write_bytes(data)
        modules[name] = transformers.CLIPTokenizer.from_pretrained(held)
    config = json.loads((MODELS / family / "scheduler" / "scheduler_config.json").read_text())
    modules["scheduler"] = diffusers.EulerDiscreteScheduler.from_config(config)

    def pipe(**changes):
        if family == "sdxl":
            made = diffusers.StableDiffusionXLPipeline(**modules | changes, add_watermarker=False)
        else:
            none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            made = diffusers.StableDiffusionPipeline(**modules | changes, **none)
        made.set_progress_bar_config(disable=True)
        return made

    whole, tiny = pipe(), pipe(vae=tiny_module())
    whole.save_pretrained(folder / "whole")
    tiny.save_pretrained(folder / "tiny")
    return family, tiny, folder / "tiny", folder / "whole"


def asked():
    width, height = SIZE
    latents = np.random.default_rng(7).standard_normal((1, 4, height // 8, width // 8), dtype=np.float32)
    return CALL | {"width": width, "height": height}, latents


def reference(pipe):
    torch = pytest.importorskip("torch")
    call, latents = asked()
    return pipe(PROMPT, **call, latents=torch.tensor(latents), output_type="np").images[0] * 255


def opened(checkpoint, folder, dtype):
    bundle = open_bundle(compile_bundle(checkpoint, folder / "m.ondevice", Recipe(dtype), sizes=[SIZE]))
    return Pipeline.of(bundle, Session(bundle, choose_device()))


def drawn(checkpoint, folder, dtype, **more):
    call, latents = asked()
    return opened(checkpoint, folder, dtype)(PROMPT, **call, latents=latents, sampler="euler", **more).pixels


def check(pixels, expected, dtype):
    assert expected.std() > 10, "a flat picture proves nothing"
    if dtype == "f32":
        assert np.abs(pixels - expected.round()).max() <= 2
    else:
        assert 20 * math.log10(255 / np.sqrt(np.mean((pixels - expected) ** 2))) >= 40


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_pictures_through_a_tiny_autoencoder(saved, dtype, tmp_path):
    family, pipe, folder, _ = saved
    check(drawn(open_checkpoint(folder, family=family), tmp_path, dtype), reference(pipe), dtype)


def test_pictures_by_the_decoder_beside_another(saved, tmp_path):
    family, pipe, folder, whole = saved
    both = with_taesd(open_checkpoint(whole, family=family), str(folder))
    check(drawn(both, tmp_path, "f32", taesd=True), reference(pipe), "f32")


def test_a_picture_is_encoded_without_a_draw(saved, tmp_path):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    family, pipe, folder, _ = saved
    kind = "StableDiffusionXLImg2ImgPipeline" if family == "sdxl" else "StableDiffusionImg2ImgPipeline"
    names = {"add_watermarker": False} if family == "sdxl" else {"requires_safety_checker": False}
    redraw = getattr(diffusers, kind)(**pipe.components, **names)
    redraw.set_progress_bar_config(disable=True)
    image = np.random.default_rng(3).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    generator, strength = torch.Generator("cpu").manual_seed(5), {"strength": 0.5, "num_inference_steps": 6}
    expected = redraw(
        PROMPT, **CALL | strength, image=Image.fromarray(image), generator=generator, output_type="np"
    ).images[0]
    model = opened(open_checkpoint(folder, family=family), tmp_path, "f32")
    found = model(PROMPT, **CALL | strength, image=image, seed=5, sampler="euler")
    check(found.pixels, expected * 255, "f32")


def test_graphs_are_the_modules(saved):
    torch = pytest.importorskip("torch")
    from parity.test_components import run

    family, pipe, folder, _ = saved
    model = build(open_checkpoint(folder, family=family))
    pixels = np.random.default_rng(2).uniform(-1, 1, (1, 3, 24, 40)).astype(np.float32)
    with torch.no_grad():
        latents = pipe.vae.encode(torch.tensor(pixels)).latents
        back = pipe.vae.decode(latents).sample
    size = {"height": 3, "width": 5}
    assert relative_error(run(model.graph("vae_encoder", **size), {"sample": pixels})[:, :4], latents.numpy()) <= 1e-5
    found = run(model.graph("vae_decoder", **size), {"latent_sample": latents.numpy()})
    assert relative_error(found, back.numpy()) <= 1e-5
