"""Pictures of models with adapters in their weights against diffusers' with the same files loaded."""

import itertools
import math

import numpy as np
import pytest
from adapter_files import adapter
from checkpoint_files import write_safetensors
from parity.test_kinds_of_models import PROMPT, SEED, SIZE, checkpoint, parts
from PIL import Image

from ondevice import cli
from ondevice.base.paths import MODELS
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.adapters import with_adapters
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = [pytest.mark.parity, pytest.mark.device]


def decibels(found, expected):
    return 10 * math.log10(255**2 / max(((found - expected) ** 2).mean(), 1e-9))


@pytest.mark.parametrize("convolutions, steps, sampler", [(False, 5, "ddim"), (True, 4, "lcm")])
def test_demo_with_two_adapters(tmp_path, convolutions, steps, sampler):
    """The second as LCM-LoRA is used: convolutions too, four steps, little guidance."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    from ondevice.converters.source import Source

    components = Source("demo").open().components
    scales = {"first": 0.6, "second": -0.3}
    for seed, name in enumerate(scales):
        arrays = adapter(components, "kohya", convolutions=convolutions, seed=seed, alpha=1.0)
        write_safetensors(tmp_path / f"{name}.safetensors", arrays)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        MODELS / "demo", safety_checker=None, torch_dtype=torch.float32
    )
    if sampler == "lcm":
        pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": steps, "guidance_scale": 1.5, "width": 64, "height": 64, "output_type": "np"}

    def draw():
        made = pipe(PROMPT, generator=torch.Generator("cpu").manual_seed(SEED), **call)
        return (made.images[0] * 255).round()

    plain = draw()
    for name in scales:
        pipe.load_lora_weights(tmp_path / f"{name}.safetensors", adapter_name=name)
    pipe.set_adapters(list(scales), list(scales.values()))
    expected = draw()
    assert np.abs(expected - plain).max() > 40, "the adapters change nothing"
    files = [word for name, scale in scales.items() for word in ("--lora", f"{tmp_path / name}.safetensors:{scale}")]
    ways = {"merged": (files, []), "hot": ([], [*files, "--sampler", sampler])}  # in the weights, or on a plain bundle
    for dtype, (way, (at_conversion, when_drawn)) in itertools.product(("fp32", "fp16"), ways.items()):
        bundle, out = tmp_path / f"{dtype}-{way}.ondevice", tmp_path / f"{dtype}-{way}.png"
        words = ["convert", "demo", *at_conversion, "--size", "64x64", "--dtype", dtype, "--strict", "--out", bundle]
        words += ["--sampler", sampler] if way == "merged" else []
        assert cli.main([str(word) for word in words]) == 0
        words = ["generate", bundle, PROMPT, "--steps", steps, "--guidance", 1.5, "--seed", SEED, "--out", out]
        assert cli.main([str(word) for word in [*words, *when_drawn]]) == 0
        found = np.asarray(Image.open(out), np.float64)
        assert np.abs(found - expected).max() <= 2 if dtype == "fp32" else decibels(found, expected) >= 40, way


def test_sdxl_with_an_adapter_of_both_text_encoders(tmp_path):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    path = tmp_path / "a.safetensors"
    write_safetensors(path, adapter(checkpoint("sdxl-turbo").components, "peft"))
    pipe = diffusers.StableDiffusionXLPipeline(**parts("sdxl-turbo", tmp_path), add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "negative_prompt": "a green star"}

    def draw():
        made = pipe(PROMPT, generator=torch.Generator("cpu").manual_seed(SEED), output_type="np", **call, **SIZE)
        return (made.images[0] * 255).round()

    plain = draw()
    pipe.load_lora_weights(path)
    pipe.fuse_lora(lora_scale=0.7)
    expected = draw()
    assert np.abs(expected - plain).max() > 40, "the adapter changes nothing"
    changed = with_adapters(checkpoint("sdxl-turbo"), [f"{path}:0.7"])
    for name, source in (("merged", changed), ("hot", checkpoint("sdxl-turbo"))):
        folder, sizes = tmp_path / f"{name}.ondevice", [(SIZE["width"], SIZE["height"])]
        bundle = open_bundle(compile_bundle(source, folder, Recipe("f32"), sizes=sizes))
        drawn = Pipeline.of(bundle, Session(bundle, choose_device()))
        if name == "hot":
            drawn.load_lora_weights(path, adapter_name="a")
            drawn.set_adapters("a", 0.7)
        assert np.abs(drawn(PROMPT, seed=SEED, **call, **SIZE).pixels - expected).max() <= 2, name
