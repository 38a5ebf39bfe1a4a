"""WebUI's text read back: real forms of it, what describe() writes, and bounds."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ondevice.diffusion.infotext import named_files, read_infotext, taken_apart
from ondevice.diffusion.parameters import describe

LEVELS = {"Karras": "use_karras_sigmas", "Exponential": "use_exponential_sigmas", "Beta": "use_beta_sigmas"}

FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {
    # as modules/processing.py's create_infotext has it in 1.9 and 1.10, with what its defaults write
    "1.10, nothing special": (
        "a photo of an astronaut riding a horse on mars\n"
        "Negative prompt: blurry, (bad hands:1.3)\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 3837294921, Size: 512x768, "
        "Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Version: v1.10.1",
        {"prompt": "a photo of an astronaut riding a horse on mars", "negative": "blurry, (bad hands:1.3)",
         "steps": 20, "sampler": "dpmpp_2m", "guidance": 7.0, "seed": 3837294921, "size": "512x768",
         "seed_mode": "a1111", "emphasis": "mean"},
        {"use_karras_sigmas": True},
        [],
    ),
    "no negative prompt, automatic levels of a sampler that has its own": (
        "a cat\nSteps: 30, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.5, Seed: 1, Size: 512x512, "
        "Model hash: aa, Model: m, Clip skip: 2, ENSD: 31337, RNG: CPU, Version: v1.9.4",
        {"prompt": "a cat", "steps": 30, "sampler": "euler_a", "guidance": 7.5, "seed": 1, "size": "512x512",
         "noise_seed_delta": 31337, "seed_mode": "torch", "emphasis": "mean"},
        {"timestep_spacing": "linspace"},
        ["clip skip 2 is a bundle's own (`convert --clip-skip`, of one less)"],
    ),
    "variations, an ancestral solver, emphasis off": (
        "a [cat]\nSteps: 12, Sampler: DPM2 a, Schedule type: Automatic, CFG scale: 5, Seed: 7, Size: 640x512, "
        "Variation seed: 99, Variation seed strength: 0.25, RNG: NV, Emphasis: None, Version: v1.10.0",
        {"prompt": "a [cat]", "steps": 12, "sampler": "dpm2_a", "guidance": 5.0, "seed": 7, "size": "640x512",
         "variation_seed": 99, "variation_strength": 0.25, "seed_mode": "a1111", "emphasis": "none"},
        {"use_karras_sigmas": True},
        [],
    ),
    "enlarged, with adapters": (
        "knight, <lora:detail_tweaker:0.8>, castle <hypernet:old:1>\nsecond line\n"
        "Negative prompt: easynegative\nmore of it\n"
        "Steps: 25, Sampler: DPM++ SDE, Schedule type: Karras, CFG scale: 6, Seed: 5, Size: 512x512, Model hash: ab, "
        "Model: dreamy, VAE hash: cd, VAE: vae-ft-mse.safetensors, Denoising strength: 0.45, Hires upscale: 2, "
        'Hires steps: 10, Hires upscaler: 4x-UltraSharp, Lora hashes: "detail_tweaker: 47aaaf0d2945", '
        'TI hashes: "easynegative: c74b4e810b03", Version: v1.9.3',
        {"prompt": "knight, , castle \nsecond line", "negative": "easynegative\nmore of it", "steps": 25,
         "sampler": "dpmpp_sde", "guidance": 6.0, "seed": 5, "size": "512x512", "seed_mode": "a1111",
         "emphasis": "mean"},
        {"use_karras_sigmas": True},
        ["<lora:detail_tweaker:0.8> of the prompt names a file (give it with --lora)",
         "<hypernet:old:1> of the prompt names a file (give it with --lora)",
         "it was enlarged and drawn once more (Hires upscale, Hires steps, Hires upscaler): the first one is drawn",
         "DPM++ SDE is not WebUI's to the last bit: its noise is drawn, where WebUI's is a walk over sigma",
         "not known here: VAE: vae-ft-mse.safetensors"],
    ),
    "from a picture, in part": (
        "a hat\nSteps: 20, Sampler: UniPC, Schedule type: Automatic, CFG scale: 4, Seed: 2, Size: 512x512, "
        "Model hash: ab, Denoising strength: 0.6, Mask blur: 4, UniPC variant: bh1, UniPC order: 3, "
        "Inpaint area: Only masked, Version: v1.10.1",
        {"prompt": "a hat", "steps": 20, "sampler": "unipc", "guidance": 4.0, "seed": 2, "size": "512x512",
         "strength": 0.6, "seed_mode": "a1111", "emphasis": "mean"},
        {"solver_type": "bh1", "solver_order": 3},
        ["UniPC is not WebUI's to the last bit: WebUI gives it timesteps of its own",
         "not known here: Mask blur: 4, Inpaint area: Only masked"],
    ),
    "before 1.9: levels in the sampler's name": (
        "x\nSteps: 20, Sampler: DPM++ 2M SDE Karras, CFG scale: 7, Seed: 1, Size: 512x512, Model hash: ab",
        {"prompt": "x", "steps": 20, "sampler": "dpmpp_2m", "guidance": 7.0, "seed": 1, "size": "512x512",
         "seed_mode": "a1111", "emphasis": "mean"},
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
        ["DPM++ 2M SDE is not WebUI's to the last bit: its noise is drawn, where WebUI's is a walk over sigma"],
    ),
    "what is not here": (
        "x\nSteps: 9, Sampler: DPM adaptive, Schedule type: KL Optimal, CFG scale: 7, Seed: 1, Size: 512x512, "
        "Emphasis: No norm, Eta: 0.5, Token merging ratio: 0.4",
        {"prompt": "x", "steps": 9, "guidance": 7.0, "seed": 1, "size": "512x512", "seed_mode": "a1111"},
        {},
        ["the sampler DPM adaptive is not here (--sampler chooses another)",
         "not known here: Emphasis: No norm, Token merging ratio: 0.4"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_texts_as_webui_writes_them(name: str) -> None:
    text, fields, options, lost = FORMS[name]
    found = read_infotext(text)
    assert (found.fields, found.options, found.lost) == (fields, options, lost)


@pytest.mark.parametrize(
    "sampler", ["pndm", "ddim", "euler", "euler_a", "dpmpp_2m", "heun", "lms", "unipc", "lcm", "deis"]
)
@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}, {"ays": "sd"}])
def test_what_is_described_is_read_back(sampler: str, options: dict[str, Any]) -> None:
    drawn = {
        "prompt": 'two\nlines, "quoted": (a:1.2)', "negative_prompt": "none, of it", "sampler": sampler, "steps": 12,
        "guidance_scale": 3.5, "seed": 2**64 - 1, "seed_mode": "a1111", "variation_seed": 4, "variation_strength": 0.5,
        "noise_seed_delta": -3, "width": 64, "height": 72, "model": "demo, too", "version": "ondevice 1",
        "emphasis": "compel", "init_image": 'a "b", c.png', "mask": "m.png", "fit": "crop", "background": "#fff",
        "latents": "n.npy", "strength": 0.25, "pictures": "pose=a, b.png, depth=c.png", **options,
    }  # fmt: skip
    found = read_infotext(describe(drawn))
    assert found.fields == {
        "prompt": drawn["prompt"], "negative": "none, of it", "sampler": sampler, "steps": 12, "guidance": 3.5,
        "seed": 2**64 - 1, "seed_mode": "a1111", "variation_seed": 4, "variation_strength": 0.5,
        "noise_seed_delta": -3, "size": "64x72", "emphasis": "compel", "fit": "crop", "background": "#fff",
        "strength": 0.25,
    }  # fmt: skip
    assert found.files == {"init_image": 'a "b", c.png', "mask": "m.png", "latents": "n.npy"}
    assert found.pictures == {"pose": "a, b.png", "depth": "c.png"} and found.model == "demo, too"
    assert not [line for line in found.lost if not line.startswith(("PLMS", "DDIM", "UniPC"))]
    named = sampler in ("euler", "dpmpp_2m", "heun", "lms", "unipc")
    if "use_karras_sigmas" in options:
        assert found.options.get("use_karras_sigmas", False) == named
    if "ays" in options and sampler in ("euler", "euler_a"):
        assert found.options == {"ays": None}  # which list is the model's to say


def test_a_last_line_of_two_fields_is_text() -> None:
    assert taken_apart("a: b\nNegative prompt: c\nd: e, ff: g") == ("a: b", "c\nd: e, ff: g", {})
    assert taken_apart("") == ("", "", {})
    assert taken_apart('x\nab: 1, cd: "2, 3", ef: "4') == ("x", "", {"ab": "1", "cd": "2, 3", "ef": '"4'})


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "x\n" + "a b " * 16_000,
        "x\n" + 'aa:"' * 16_000,
        "x\n" + "aa: " + " " * 65_000,
        "<a:" * 300_000,
        "x\n" + "aa: 1, " * 9_000,
    ],
    ids=["letters", "words", "quotes", "blanks", "networks", "fields"],
)
def test_hostile_texts_take_no_time(text: str) -> None:
    began = time.process_time()
    read_infotext(text)
    assert time.process_time() - began < 2


def test_numbers_out_of_range_are_not_known() -> None:
    found = read_infotext("x\nSteps: 0, Seed: 99999999999999999999999, CFG scale: nan, Size: 1x, Sampler: Euler")
    assert found.fields == {"prompt": "x", "sampler": "euler", "seed_mode": "a1111", "emphasis": "mean"}
    assert found.lost == ["not known here: Steps: 0, Seed: 99999999999999999999999, CFG scale: nan, Size: 1x"]


def test_lists_of_files() -> None:
    assert named_files("a=x.png") == {"a": "x.png"} and named_files("") == {} == named_files("x" * 5000)
