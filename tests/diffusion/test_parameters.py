"""WebUI's text: what its reader makes of it is what was drawn."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from diffusion.sampler_helpers import SD15

from ondevice.diffusion.parameters import describe, schedule_type
from ondevice.diffusion.samplers import make_table

DRAWN = {
    "prompt": "a red circle",
    "steps": 20,
    "sampler": "euler",
    "guidance_scale": 7.5,
    "seed": 3,
    "width": 6,
    "height": 4,
}


def read(text: str) -> dict[str, str]:
    """As WebUI documents its format: settings on the last line, before it the negative prompt,
    before that the prompt."""
    *lines, last = text.strip().split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip().startswith("Negative prompt:")), len(lines))
    found = {"Prompt": "\n".join(line.strip() for line in lines[:first])}
    found["Negative"] = "\n".join(line.strip() for line in lines[first:]).removeprefix("Negative prompt:").strip()
    for key, value in re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last):
        found[key] = json.loads(value) if value[:1] == '"' == value[-1:] else value
    return found


def test_the_settings_in_their_order() -> None:
    drawn = DRAWN | {
        "negative_prompt": "blue, été 猫",
        "seed": 2**63,
        "strength": 0.8,
        "model": "demo",
        "version": "ondevice 1",
    }
    assert describe(drawn, SD15) == (
        "a red circle\nNegative prompt: blue, été 猫\n"
        "Steps: 20, Sampler: Euler, Schedule type: Uniform, CFG scale: 7.5, Seed: "
        "9223372036854775808, Size: 6x4, Model: demo, "
        "Denoising strength: 0.8, RNG: CPU, Version: ondevice 1"
    )


def test_noise_is_said_in_webuis_words() -> None:
    noise = {"seed_mode": "a1111", "variation_seed": 9, "variation_strength": 0.25, "noise_seed_delta": 31337}
    said = "RNG: NV, Variation seed: 9, Variation seed strength: 0.25, ENSD: 31337"
    assert describe(DRAWN | {"seed": 1} | noise, SD15).endswith(said)


def test_adapters_are_said_last_but_for_the_version() -> None:
    text = describe(DRAWN | {"lora": ["style:0.8", "my face:-1"], "version": "ondevice 1"})
    assert text.endswith(', Lora: "style:0.8, my face:-1", Version: ondevice 1')
    assert read(text)["Lora"] == "style:0.8, my face:-1"


def test_what_is_not_known_is_left_out() -> None:
    assert describe({"prompt": "a\0b", "steps": 1, "sampler": "other"}) == "ab\nSteps: 1, Sampler: other"


def test_files_and_model_are_quoted_where_a_field_would_end() -> None:
    given = {
        "steps": 3,
        "model": "random weights, seed 0",
        "init_image": 'a "b".png',
        "latents": "n.npy",
        "background": "#ffffff",
    }
    text = describe(given)
    assert (
        text == '\nSteps: 3, Model: "random weights, seed 0", Init image: '
        '"a \\"b\\".png", Background: #ffffff, Latents: n.npy'
    )
    assert {key: read(text)[key] for key in ("Model", "Init image")} == {
        "Model": given["model"],
        "Init image": given["init_image"],
    }


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sampler": "pndm"}, {"Sampler": "PLMS", "Schedule type": "Automatic"}),
        ({"sampler": "ddim"}, {"Sampler": "DDIM", "Schedule type": "Automatic", "Eta DDIM": None}),
        ({"sampler": "ddim", "eta": 1.0}, {"Eta DDIM": "1.0", "Eta": "1.0"}),
        ({"sampler": "euler_a"}, {"Sampler": "Euler a", "Schedule type": "Uniform"}),
        ({"sampler": "euler_a", "use_karras_sigmas": True}, {"Schedule type": "Uniform"}),  # it has no such choice
        ({"sampler": "dpmpp_2m"}, {"Sampler": "DPM++ 2M", "Schedule type": "SGM Uniform"}),
        ({"sampler": "dpmpp_2m", "use_karras_sigmas": True}, {"Sampler": "DPM++ 2M", "Schedule type": "Karras"}),
        ({"sampler": "dpmpp_2m", "timestep_spacing": "trailing"}, {"Schedule type": "Simple"}),
        ({"sampler": "heun", "use_exponential_sigmas": True}, {"Sampler": "Heun", "Schedule type": "Exponential"}),
        ({"sampler": "lms", "timestep_spacing": "leading"}, {"Sampler": "LMS", "Schedule type": "DDIM"}),
        ({"sampler": "unipc"}, {"Sampler": "UniPC", "UniPC variant": "bh2", "UniPC order": "2"}),
        ({"sampler": "unipc", "solver_type": "bh1"}, {"UniPC variant": "bh1"}),
        ({"sampler": "lcm"}, {"Sampler": "LCM", "Schedule type": "Automatic", "UniPC variant": None}),
        ({"sampler": "ddpm"}, {"Sampler": "DDPM", "Schedule type": "Automatic"}),
        ({"guidance_scale": 0.0}, {"CFG scale": "1"}),
        ({"prompt": "a (red) [circle]"}, {"Prompt": "a (red) [circle]", "Emphasis": "None"}),
        ({"negative_prompt": "a \\ b"}, {"Negative": "a \\ b", "Emphasis": "None"}),
        ({}, {"Emphasis": None, "RNG": "CPU", "Denoising strength": None, "Eta": None}),
    ],
)
def test_words_for_what_was_drawn(more: dict[str, Any], words: dict[str, str | None]) -> None:
    assert {key: read(describe(DRAWN | more, SD15)).get(key) for key in words} == words


def test_the_levels_are_those_of_webui() -> None:
    """Its schedules by their own formulas: even timesteps with both ends; without the last;
    steps from the top; steps from 1 up."""
    even = [999 - 999 * i / 9 for i in range(10)]
    for sampler, spacing, expected in (
        ("euler", "linspace", even),
        ("dpmpp_2m", "linspace", [999 - 999 * i / 10 for i in range(10)]),
        ("euler", "trailing", [999 - 100 * i for i in range(10)]),
        ("euler", "leading", [1 + 100 * i for i in range(10)][::-1]),
    ):
        table = make_table(sampler, 10, SD15, timestep_spacing=spacing)
        assert [call.timestep for call in table.calls] == pytest.approx(expected, abs=0.51)
    names = [
        schedule_type(*pair) for pair in (("euler", {}), ("dpmpp_2m", {}), ("euler", {"timestep_spacing": "trailing"}))
    ]
    assert (
        names == ["Uniform", "SGM Uniform", "Simple"]
        and schedule_type("euler", {"timestep_spacing": "leading"}) == "DDIM"
    )


PROMPTS = [
    "",
    "a\nb\n\nc",
    "Negative prompt: x",
    "a\n Negative prompt: x\nb",
    "Steps: 1, Seed: 9, Size: 8x8",
    "caf\udce9",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_come_back(prompt: str) -> None:
    for negative in ("", "n\nm", "Negative prompt: n"):
        found = read(describe(DRAWN | {"prompt": prompt, "negative_prompt": negative}, SD15))
        # The tokens are the same: neither case nor blanks at the ends of lines are in them.
        expected = "\n".join(
            line.strip() for line in prompt.replace("\udce9", "?").replace("Negative", "negative").split("\n")
        )
        assert found["Prompt"] == expected and found["Steps"] == "20" and found["Seed"] == "3"
        assert found["Negative"] == negative.replace("Negative", "negative")


def test_a_config_that_chooses_the_levels_is_heard() -> None:
    assert read(describe(DRAWN, SD15 | {"use_karras_sigmas": True}))["Schedule type"] == "Karras"
