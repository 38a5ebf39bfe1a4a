"""What the C++ player writes into a picture's file is what the Python package writes."""

import itertools
import json

from ondevice.diffusion.parameters import describe

PROMPTS = [
    ("a red circle", ""),
    ("two (brackets) [here] \\", 'a, b: "c"'),
    ("lines\nNegative prompt: x\n\t\u3000Negative prompt: y", " Negative prompt: z"),
    ("é 😀 \x7f \x01", "ß"),
    ("", "\n\n  Negative prompt:"),
]
CONFIGS = [
    {},
    {"timestep_spacing": "leading", "use_karras_sigmas": True, "solver_type": "bh1", "solver_order": 3},
    {"timestep_spacing": "trailing", "use_exponential_sigmas": 1},
    {"timestep_spacing": "odd", "use_karras_sigmas": False, "use_beta_sigmas": True},
    {"timestep_spacing": "odd", "use_beta_sigmas": False, "algorithm_type": "sde-dpmsolver++"},
]
SAMPLERS = ["pndm", "ddim", "euler", "euler_a", "dpmpp_2m", "heun", "lms", "unipc", "lcm", "ddpm", "mine"]
MORE = [
    ({"guidance_scale": 7.5, "model": "CompVis/stable-diffusion-v1-4"}, {}),
    (
        {
            "guidance_scale": 0.5,
            "strength": 0.30000000000000004,
            "init_image": "a, b.png",
            "mask": "m.png",
            "pictures": "a=b.png, c=d",
        },
        {"crop_top": 0.0, "z": 1e-7},
    ),
    ({"guidance_scale": 1.0, "model": 'a "quoted"\tname:\\', "version": "ondevice 0.1.0"}, {"a": 1024.0}),
]
WAYS = [
    {"seed_mode": "cuda"},
    {"seed_mode": "a1111", "variation_seed": -5, "variation_strength": 0.1, "noise_seed_delta": 31337},
    {"emphasis": "mean", "long": "chunk", "mask": "m.png", "pictures": "a=b.png, c=d.png"},
    {"refiner": "stabilityai/refiner", "refiner_start": 0.8},
    {"lora": ["ink:0.8", "clay:-1e-05"], "canny": "100,200"},
    {"taesd": True, "negative_given": True},
    {"emphasis": "compel", "variation_seed": 2**40, "variation_strength": 1.0},
]


def test_parameters_are_the_same_texts(tool):
    lines, expected = [], []
    for number, ((prompt, negative), config, sampler, (more, others)) in enumerate(
        itertools.product(PROMPTS, CONFIGS, SAMPLERS, MORE)
    ):
        facts = {"prompt": prompt, "negative_prompt": negative, "steps": number + 1, "sampler": sampler}
        if number % 3 == 0:
            facts |= WAYS[number // 3 % len(WAYS)]
        facts |= {"seed": (-1) ** number * number * 2**40, "width": 8 * number + 8, "height": 512, **more}
        lines.append(json.dumps([facts, config, others]))
        expected.append([describe(facts, config), json.dumps(facts | others, sort_keys=True)])
    out = tool("check_parameters", input="\n".join(lines) + "\n").stdout.splitlines()
    assert [json.loads(line) for line in out] == expected
