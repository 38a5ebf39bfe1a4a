"""What a picture was drawn with, in the words of AUTOMATIC1111's WebUI (1.9 and later),
which tools that read pictures know."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ondevice.diffusion.noise import MODES

SAMPLER_NAMES = {
    "pndm": "PLMS",
    "ddim": "DDIM",
    "euler": "Euler",
    "euler_a": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "heun": "Heun",
    "lms": "LMS",
    "unipc": "UniPC",
    "lcm": "LCM",
    "ddpm": "DDPM",
}
_LEVELS = ("euler", "euler_a", "dpmpp_2m", "heun", "lms")  # samplers that WebUI gives a choice of noise levels
_RESPACED = ("euler", "dpmpp_2m", "heun", "lms", "unipc")  # those that read the three flags below
LEVEL_FLAGS = {"use_karras_sigmas": "Karras", "use_exponential_sigmas": "Exponential", "use_beta_sigmas": "Beta"}
_GIVEN = {"ays": "Align Your Steps", "sigmas": None, "timesteps": None}  # levels by lists; only one has a name
SPACINGS = {"linspace": "Uniform", "trailing": "Simple", "leading": "DDIM"}  # the same timesteps, or the nearest
RESIZE_MODES = {"resize": "Just resize", "crop": "Crop and resize", "pad": "Resize and fill"}
_NEGATIVE = re.compile(r"^(\s*)Negative prompt:", re.MULTILINE)


def describe(parameters: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> str:
    """Prompt, negative prompt and a line of settings, as WebUI writes them.

    Args:
        parameters: a picture's own (`Picture.parameters`), with `model`, `version`, `init_image`, `latents`,
            `background`, `refiner` and `refiner_start` where known; `lora` names the adapters.
        config: the scheduler_config.json that the sampler was made with.
    """
    config = dict(config or {}) | dict(parameters)
    prompt, negative = (_words(parameters.get(key)) for key in ("prompt", "negative_prompt"))
    sampler, guidance = str(parameters.get("sampler", "")), parameters.get("guidance_scale")
    eta, mode = parameters.get("eta") or None, parameters.get("seed_mode", MODES[0])
    named = {
        "Steps": parameters.get("steps"),
        "Sampler": "DPM++ 2M SDE" if _is_sde(sampler, config) else SAMPLER_NAMES.get(sampler, sampler),
        "Schedule type": schedule_type(sampler, config),
        "CFG scale": None if guidance is None else max(guidance, 1),  # below 1 there is no guidance here, as at 1
        "Seed": parameters.get("seed"),
        "Size": f"{parameters['width']}x{parameters['height']}" if "width" in parameters else None,
        "Model": parameters.get("model"),
        "Denoising strength": parameters.get("strength"),
        "Eta DDIM": eta,
        "Eta": eta,  # its name before 1.6; later the ancestral samplers', which DDIM does not read
        **(_unipc(config) if sampler == "unipc" else {}),
        # WebUI takes the GPU's where it is not said; NV is what it calls that GPU's numbers, computed on any device
        "RNG": None if parameters.get("seed") is None else "CPU" if mode == MODES[0] else "NV",
        "Variation seed": parameters.get("variation_seed"),
        "Variation seed strength": parameters.get("variation_strength"),
        "ENSD": parameters.get("noise_seed_delta"),
        "Emphasis": _emphasis(parameters.get("emphasis"), prompt + negative),
        "Init image": parameters.get("init_image"),
        "Mask": parameters.get("mask"),
        "Pictures": parameters.get("pictures"),
        "Background": parameters.get("background"),
        "Resize mode": RESIZE_MODES.get(str(parameters.get("fit"))),
        "Latents": parameters.get("latents"),
        "Refiner": parameters.get("refiner"),
        "Refiner switch at": parameters.get("refiner_start"),
        "VAE Decoder": "TAESD" if parameters.get("taesd") else None,  # WebUI's own words for it
        "Lora": ", ".join(parameters.get("lora", ())),
        "Version": parameters.get("version"),
    }
    lines = [prompt, *([f"Negative prompt: {negative}"] if negative else [])]
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in named.items() if value not in (None, "")))
    return _encodable("\n".join(lines))


def _is_sde(sampler: str, config: Mapping[str, Any]) -> bool:
    return sampler == "dpmpp_2m" and config.get("algorithm_type") == "sde-dpmsolver++"


def schedule_type(sampler: str, config: Mapping[str, Any]) -> str | None:
    """WebUI's name of the noise levels that a sampler takes under this config;
    None for a sampler that it does not know."""
    if sampler not in SAMPLER_NAMES:
        return None
    for flag, name in LEVEL_FLAGS.items():
        if sampler in _RESPACED and config.get(flag):
            return name
    for key, given in _GIVEN.items():
        if config.get(key) is not None:
            return given
    if sampler not in _LEVELS:
        return "Automatic"
    spacing = config.get("timestep_spacing", "linspace")
    # DPM-Solver++ leaves out the last of n + 1 even timesteps. WebUI's "Automatic" would be Karras for it.
    return "SGM Uniform" if (sampler, spacing) == ("dpmpp_2m", "linspace") else SPACINGS.get(spacing)


def _emphasis(way: Any, texts: str) -> str | None:
    """WebUI's default is `mean`. Where brackets are letters, it must be told so."""
    if way is None:
        return "None" if set("()[]\\") & set(texts) else None
    return None if way == "mean" else str(way)


def _unipc(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that WebUI has other defaults of."""
    return {"UniPC variant": config.get("solver_type", "bh2"), "UniPC order": config.get("solver_order", 2)}


def _words(text: Any) -> str:
    """A prompt. A line that WebUI would take for the negative prompt's begins with a small letter:
    the tokens are the same."""
    return _NEGATIVE.sub(r"\1negative prompt:", str(text or ""))


def _encodable(text: str) -> str:
    """Without what no file can hold: bytes of a command line that are no UTF-8 arrive as halves of surrogate pairs."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _quoted(value: Any) -> str:
    """In quotation marks where the text would end a field."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:"\n') else text
