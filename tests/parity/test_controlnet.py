"""Pictures of models with ControlNets against those of diffusers' pipelines: one net and two, from noise, from a
picture and in a mask, a part of the steps, guess mode, and the transfer of a style with an adapter."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from checkpoint_files import write_safetensors
from control_files import squares, with_nets
from parity.test_adapters import adapter
from parity.test_kinds_of_models import HEIGHT, IMAGE, MASK, NEGATIVE, PROMPT, SEED, WIDTH, checkpoint, parts
from PIL import Image

from ondevice import cli
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.families.controlled import NETS
from ondevice.converters.read.adapters import with_adapters
from ondevice.diffusion.canny import edge_picture
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = [pytest.mark.parity, pytest.mark.device]
CONTROLS = [squares(1, HEIGHT, WIDTH), squares(2, HEIGHT, WIDTH, 5)]
TEXT = {"negative_prompt": NEGATIVE}
ONE, TWO = {"controlnet_conditioning_scale": 0.8}, {"controlnet_conditioning_scale": [0.9, 0.4]}
PART = {"control_guidance_start": [0.0, 0.3], "control_guidance_end": [0.6, 1.0]}
BEGUN, MASKED = {"image": IMAGE, "strength": 0.5}, {"image": IMAGE, "mask": MASK, "strength": 1.0}
SD, XL = "StableDiffusionControlNet", "StableDiffusionXLControlNet"
# family, diffusers' pipeline, nets -> what both are called with
CASES = {
    ("sd-turbo", f"{SD}Pipeline", 1, "plain"): ONE | TEXT | {"guidance_scale": 5.0},
    ("sd-turbo", f"{SD}Pipeline", 2, "in parts"): TWO | PART | TEXT | {"guidance_scale": 5.0},
    ("sd-turbo", f"{SD}Pipeline", 1, "guessed"): ONE | {"guess_mode": True, "guidance_scale": 3.0},
    ("sd-turbo", f"{SD}Pipeline", 1, "guessed alone"): ONE | {"guess_mode": True, "guidance_scale": 0.0},
    ("sd-turbo", f"{SD}Img2ImgPipeline", 1, "begun"): ONE | BEGUN | TEXT | {"guidance_scale": 5.0},
    ("sd15-inpaint", f"{SD}InpaintPipeline", 1, "masked"): ONE | MASKED | TEXT | {"guidance_scale": 5.0},
    ("sdxl", f"{XL}Pipeline", 2, "in parts"): TWO | PART | {"guidance_scale": 4.0},
    ("sdxl", f"{XL}Img2ImgPipeline", 1, "begun"): ONE | BEGUN | TEXT | {"guidance_scale": 4.0},
}


@functools.cache
def controlled(name, count):
    """The family's tiny model with nets."""
    made, own = with_nets({"sd-turbo": "sd21"}.get(name, name), count, seed=2), checkpoint(name)
    nets = {part: component for part, component in made.components.items() if part in NETS}
    return replace(own, components=own.components | nets)


def modules(name, count):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    found = []
    for part, component in controlled(name, count).components.items():
        if part in NETS:
            config = {key: value for key, value in component.config.items() if key != "time_embedding_dim"}
            net = diffusers.ControlNetModel(**config)
            net.load_state_dict(
                {key: torch.tensor(np.asarray(value.numpy())) for key, value in component.weights.items()}
            )
            found.append(net.eval())
    return found if count > 1 else found[0]


def theirs(name, pipeline, count, folder, controls=None, lora=None, **call):
    """uint8 [height, width, 3] by a pipeline of diffusers."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    given = dict(parts(name, folder)) | {"controlnet": modules(name, count)}
    extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    extra = {"force_zeros_for_empty_prompt": True, "add_watermarker": False} if "XL" in pipeline else extra
    pipe = getattr(diffusers, pipeline)(**given | extra)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(lora, adapter_name="style")
        pipe.set_adapters(["style"], [0.8])
    images = [Image.fromarray(one) for one in (controls or CONTROLS)[:count]]
    images = images if count > 1 else images[0]
    begun = "image" in call
    arrays = {name: value for name, value in call.items() if isinstance(value, np.ndarray)}
    call |= {name: Image.fromarray(value) for name, value in arrays.items()}
    call |= {"mask_image": call.pop("mask")} if "mask" in call else {}
    call |= {"control_image" if begun else "image": images, "width": WIDTH, "height": HEIGHT}
    made = pipe(PROMPT, generator=torch.Generator("cpu").manual_seed(SEED), output_type="np", **call)
    if lora is not None:
        pipe.unload_lora_weights()
    return (made.images[0] * 255).round()


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    @functools.cache
    def opened(name, count, dtype):
        path = tmp_path_factory.mktemp(name) / f"{name}.ondevice"
        bundle = open_bundle(compile_bundle(controlled(name, count), path, Recipe(dtype), sizes=[(WIDTH, HEIGHT)]))
        return Pipeline.of(bundle, Session(bundle, choose_device()))

    return opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


def alike(drawn, expected, within=None):
    """Pixels within 2 in float32, 40 dB in half."""
    within = np.full((HEIGHT, WIDTH), True) if within is None else within
    exact, half = (drawn[dtype][within] - expected[within] for dtype in ("f32", "f16"))
    assert np.abs(exact).max() <= 2
    assert 10 * math.log10(255**2 / max((half**2).mean(), 1e-9)) >= 40


@pytest.mark.parametrize("key", CASES, ids=lambda key: "-".join(map(str, key)))
def test_pictures_are_those_of_diffusers(key, ours, folder):
    (name, pipeline, count, _), call = key, CASES[key] | {"num_inference_steps": 4}
    expected = theirs(name, pipeline, count, folder, **call)
    assert expected.shape == (HEIGHT, WIDTH, 3) and expected.std() > 10, "a flat picture proves nothing"
    more = {"control_image": CONTROLS[:count], "width": WIDTH, "height": HEIGHT}
    drawn = {dtype: ours(name, count, dtype)(PROMPT, seed=SEED, **call, **more).pixels for dtype in ("f32", "f16")}
    alike(drawn, expected, MASK > 0 if "mask" in call else None)
    plain = {word: value for word, value in call.items() if "control" not in word and word != "guess_mode"}
    without = ours(name, count, "f32")(PROMPT, seed=SEED, **plain, width=WIDTH, height=HEIGHT)
    assert np.abs(without.pixels - expected).max() > 20, "the nets change nothing"


@pytest.mark.parametrize("family, pipeline", [("sd15", SD), ("sdxl", XL)])
def test_a_style_is_transferred_as_by_diffusers(family, pipeline, tmp_path, folder, capsys):
    """ControlNet of a photo's edges at 0.5, half of the steps from the photo, and an adapter: one command."""
    pytest.importorskip("peft")
    made = controlled(family, 1)
    arrays = adapter({"unet": made.components["unet"]}, "peft", alpha=3.0)
    write_safetensors(tmp_path / "style.safetensors", arrays)
    photo = IMAGE
    edges = edge_picture(photo, 100, 200)
    assert np.count_nonzero(edges) > 50
    call = {"image": photo, "strength": 0.5, "num_inference_steps": 4, "controlnet_conditioning_scale": 0.5}
    call |= {"guidance_scale": 4.0, **TEXT}
    where = {"folder": folder, "controls": [edges]}
    expected = theirs(family, f"{pipeline}Img2ImgPipeline", 1, **where, lora=tmp_path / "style.safetensors", **call)
    plain = theirs(family, f"{pipeline}Img2ImgPipeline", 1, **where, **call)
    assert np.abs(expected - plain).max() > 20, "the adapter changes nothing"
    styled = with_adapters(made, [f"{tmp_path / 'style.safetensors'}:0.8"])
    Image.fromarray(photo).save(tmp_path / "photo.png")
    drawn = {}
    for dtype in ("f32", "f16"):
        bundle = compile_bundle(styled, tmp_path / f"{dtype}.ondevice", Recipe(dtype), sizes=[(WIDTH, HEIGHT)])
        words = ["--init-image", "photo.png", "--strength", 0.5, "--control", "photo.png", "--canny", "100,200"]
        words += ["--control-scale", 0.5, "--steps", 4, "--guidance", 4, "--seed", SEED, "--negative", NEGATIVE]
        words = [str(tmp_path / word) if word == "photo.png" else str(word) for word in words]
        assert cli.main(["generate", str(bundle), PROMPT, *words, "--out", str(tmp_path / "a.png")]) == 0
        drawn[dtype] = np.asarray(Image.open(tmp_path / "a.png")).astype(float)
    capsys.readouterr()
    alike(drawn, expected)
