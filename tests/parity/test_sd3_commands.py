"""Stable Diffusion 3.5 through the commands, as its users draw with it: samplers, pictures to begin from, a tiny
autoencoder beside its own and in its place, adapters, files of several prompts, awkward sizes. What is written is
compared with what diffusers draws of the same folder and seed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from parity.test_stable_diffusion_3 import GUIDANCE, HEIGHT, PROMPTS, STEPS, WIDTH, tiny
from PIL import Image

from ondevice import cli
from ondevice.base.paths import MODELS
from ondevice.bundle.reader import open_bundle
from ondevice.diffusion.latents_file import read_latents
from ondevice.diffusion.samplers import make_table
from ondevice.errors import UsageError

pytestmark = pytest.mark.parity
DEVICE = pytest.mark.device
ODD = (44, 28)  # pixels, 11 by 7 patches
CALL = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "np"}
WORDS = ("--steps", STEPS, "--guidance", GUIDANCE, "--negative", "blurry")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(diffusers' pipeline, its folder, a tiny autoencoder of its latents, that one's folder)."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    pipe, folder = tiny(tmp_path_factory.mktemp("sd35"))
    torch.manual_seed(9)
    sizes = {f"{half}_block_out_channels": (12, 12) for half in ("encoder", "decoder")}
    sizes |= {"num_encoder_blocks": (1, 2), "num_decoder_blocks": (2, 1), "upsampling_scaling_factor": 2}
    small = diffusers.AutoencoderTiny(latent_channels=16, **sizes).eval()
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(2.0)
    small.save_pretrained(folder.with_name("tiny"))
    return pipe, folder, small, folder.with_name("tiny")


@pytest.fixture(scope="module")
def bundle(saved):
    """With the tiny decoder beside the model's own."""
    _, folder, _, small = saved
    return converted(folder, "whole", "--taesd", small)


def converted(folder, name, *words):
    path = folder.with_name(f"{name}.ondevice")
    sizes = ",".join(f"{width}x{height}" for width, height in ((WIDTH, HEIGHT), ODD))
    words = ["sd35-medium", "--checkpoint", folder, "--dtype", "fp32", "--size", sizes, *words, "--out", path]
    assert cli.main(["convert", *map(str, words)]) == 0
    return path


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def drawn(bundle, folder, *words, prompt=PROMPTS[0], size=(WIDTH, HEIGHT)):
    """Pixels of what `generate` writes."""
    words = [bundle, prompt, *WORDS, "--size", "{}x{}".format(*size), *words, "--out", folder / "a.png"]
    assert cli.main(["generate", *map(str, words)]) == 0
    return pixels(folder / "a.png")


def expected(pipe, seed, prompt=PROMPTS[0], size=(WIDTH, HEIGHT), **more):
    """The same by diffusers; of several seeds those of a batch."""
    torch = pytest.importorskip("torch")
    seeds = seed if isinstance(seed, list) else [seed]
    generators = [torch.Generator().manual_seed(one) for one in seeds]
    call = CALL | {"width": size[0], "height": size[1], "negative_prompt": ["blurry"] * len(seeds)} | more
    prompt = prompt if isinstance(prompt, list) else [prompt]
    found = pipe(prompt, generator=generators if len(generators) > 1 else generators[0], **call).images
    return np.round(255 * found[0] if len(seeds) == 1 else 255 * found).astype(int)


def other(kind, pipe, **changes):
    """Another of diffusers' pipelines of the same parts."""
    diffusers = pytest.importorskip("diffusers")
    made = getattr(diffusers, kind)(**pipe.components | changes)
    made.set_progress_bar_config(disable=True)
    return made


def check(found, wanted):
    assert wanted.std() > 10, "a flat picture proves nothing"
    assert np.abs(found - wanted).max() <= 2


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
@pytest.mark.parametrize("steps", [1, 3, 7, 20, 28, 50])
def test_an_init_image_leaves_the_calls_that_it_leaves_in_diffusers(name, steps):
    """By the pipeline's own method, at strengths whose parts of a step are rounded, and at the ends."""
    diffusers = pytest.importorskip("diffusers")
    config = json.loads((MODELS / "sd3" / "scheduler" / "scheduler_config.json").read_text())
    sampler = {"Euler": "flow_euler", "Heun": "flow_heun"}["Heun" if "Heun" in name else "Euler"]
    for strength in (0.01, 0.1, 0.3, 1 / 3, 0.5, 0.6, 0.7, 0.75, 0.9, 0.95, 0.999, 1.0):
        scheduler = getattr(diffusers, name).from_config(config)
        scheduler.set_timesteps(steps)
        pipe = SimpleNamespace(scheduler=scheduler)
        method = diffusers.StableDiffusion3Img2ImgPipeline.get_timesteps
        timesteps, count = method(pipe, steps, strength, "cpu")
        table = make_table(sampler, steps, config, strength=strength, strength_rounds="up")
        found = [call.timestep for call in table.calls]
        np.testing.assert_allclose(found, timesteps.numpy(), rtol=2e-6, err_msg=f"{strength}")
        assert len({*found}) == count, strength
    with pytest.raises(UsageError, match=r"strength cannot be used \(got 0.0, expected more\)"):
        make_table(sampler, steps, config, strength=0.0, strength_rounds="up")


@DEVICE
def test_steps_samplers_sizes_and_a_prompt_alone(saved, bundle, tmp_path, capsys):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    pipe, *_ = saved
    check(drawn(bundle, tmp_path, "--seed", 4, size=ODD), expected(pipe, 4, size=ODD))
    check(drawn(bundle, tmp_path, "--seed", 5, "--steps", 7), expected(pipe, 5, num_inference_steps=7))
    check(drawn(bundle, tmp_path, "--guidance", 1), expected(pipe, 0, guidance_scale=1.0))
    heun = diffusers.FlowMatchHeunDiscreteScheduler.from_config(pipe.scheduler.config)
    wanted = expected(other("StableDiffusion3Pipeline", pipe, scheduler=heun), 6)
    check(drawn(bundle, tmp_path, "--seed", 6, "--sampler", "flow_heun"), wanted)
    assert np.abs(wanted - expected(pipe, 6)).max() > 5
    words = [bundle, PROMPTS[0], "--seed", 7, "--steps", STEPS, "--size", f"{WIDTH}x{HEIGHT}"]  # nothing negative
    assert cli.main(["generate", *map(str, words), "--out", str(tmp_path / "b.png")]) == 0
    generator, sizes = torch.Generator().manual_seed(7), {"width": WIDTH, "height": HEIGHT}
    plain = pipe(PROMPTS[0], generator=generator, **CALL | {"guidance_scale": 4.5}, **sizes).images[0]
    check(pixels(tmp_path / "b.png"), np.round(255 * plain).astype(int))
    words = [bundle, PROMPTS[0], "--sampler", "euler", "--out", tmp_path / "c.png"]
    assert cli.main(["generate", *map(str, words)]) == UsageError.exit_code
    assert "sampler euler: the model was trained for flow matching" in capsys.readouterr().err


@DEVICE
@pytest.mark.parametrize("strength", [0.01, 0.3, 0.99, 1.0])
def test_pictures_that_begin_from_another(saved, bundle, tmp_path, strength):
    pipe, *_ = saved
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    image.save(tmp_path / "begin.png")
    redraw = other("StableDiffusion3Img2ImgPipeline", pipe)
    wanted = expected(redraw, 3, image=image, strength=strength)
    words = ["--init-image", tmp_path / "begin.png", "--strength", strength, "--seed", 3]
    check(drawn(bundle, tmp_path, *words), wanted)


@DEVICE
def test_several_prompts_of_a_file(saved, bundle, tmp_path):
    """Line by line what diffusers draws at once."""
    pipe, *_ = saved
    lines = [{"prompt": prompt, "seed": seed, "name": f"{seed}"} for seed, prompt in enumerate(PROMPTS)]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [tmp_path / "lines.jsonl", "--bundle", bundle, *WORDS, "--size", f"{WIDTH}x{HEIGHT}", "--out", tmp_path]
    assert cli.main(["batch", *map(str, words)]) == 0
    for number, wanted in enumerate(expected(pipe, [0, 1, 2], list(PROMPTS))):
        check(pixels(tmp_path / f"{number}.png"), wanted)


@DEVICE
def test_a_tiny_autoencoder_beside_its_own(saved, bundle, tmp_path):
    """Its picture is diffusers' with it in the place of the model's, and so is the last preview; previews are by the
    sums of channels where nobody says."""
    pipe, _, small, _ = saved
    wanted = expected(other("StableDiffusion3Pipeline", pipe, vae=small), 4)
    more = ["--seed", 4, "--taesd", "--preview", tmp_path / "p", "--preview-by", "taesd"]
    check(drawn(bundle, tmp_path, *more), wanted)
    check(pixels(tmp_path / "p" / f"step-000{STEPS}.png"), wanted)
    assert len(list((tmp_path / "p").glob("step-*.png"))) == STEPS
    more = ["--seed", 4, "--preview", tmp_path / "q", "--save-latents", tmp_path / "l.npy"]
    check(drawn(bundle, tmp_path, *more), expected(pipe, 4))
    factors = np.array(open_bundle(bundle).pipeline.latents.preview)  # of each colour 16 and a constant
    sums = np.einsum("kc,chw->hwk", factors[:, :-1], read_latents(tmp_path / "l.npy")[0]) + factors[:, -1]
    wanted = np.round(255 * np.clip(sums / 2 + 0.5, 0, 1))
    assert factors.shape == (3, 17) and np.abs(pixels(tmp_path / "q" / "latest.png") - wanted).max() <= 1


@DEVICE
def test_a_tiny_autoencoder_in_its_place(saved, tmp_path):
    pipe, folder, small, place = saved
    made = converted(folder, "small", "--vae", place)
    check(drawn(made, tmp_path, "--seed", 4), expected(other("StableDiffusion3Pipeline", pipe, vae=small), 4))
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    image.save(tmp_path / "begin.png")
    redraw = other("StableDiffusion3Img2ImgPipeline", pipe, vae=small)
    words = ["--init-image", tmp_path / "begin.png", "--strength", 0.6, "--seed", 2]
    check(drawn(made, tmp_path, *words), expected(redraw, 2, image=image, strength=0.6))


MODULES = {
    "transformer": ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn2.to_out.0",
                    "transformer_blocks.1.ff_context.net.0.proj", "transformer_blocks.2.norm1.linear"),
    "text_encoder": ("text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.0.mlp.fc1"),
    "text_encoder_2": ("text_model.encoder.layers.0.self_attn.out_proj",),
}  # fmt: skip


@DEVICE
def test_an_adapter_of_the_transformer_and_of_text_encoders(saved, bundle, tmp_path):
    """Loaded as a picture is drawn, at a scale, and put in as the bundle is made."""
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    pipe, folder, *_ = saved
    torch.manual_seed(1)
    factors = {}
    for part, names in MODULES.items():
        for name in names:
            rows, columns = getattr(pipe, part).get_submodule(name).weight.shape
            factors[f"{part}.{name}.lora_A.weight"] = torch.randn(4, columns) * 0.2
            factors[f"{part}.{name}.lora_B.weight"] = torch.randn(rows, 4) * 0.2
    file = tmp_path / "style.safetensors"
    safetensors.save_file(factors, file)
    before = expected(pipe, 4)
    pipe.load_lora_weights(file, adapter_name="style")
    try:
        pipe.set_adapters("style", 0.7)
        wanted = expected(pipe, 4)
    finally:
        pipe.unload_lora_weights()
    assert np.abs(wanted - before).max() > 20
    check(drawn(bundle, tmp_path, "--seed", 4, "--lora", f"{file}:0.7"), wanted)
    check(drawn(bundle, tmp_path, "--seed", 4), before)
    check(drawn(converted(folder, "merged", "--lora", f"{file}:0.7"), tmp_path, "--seed", 4), wanted)
