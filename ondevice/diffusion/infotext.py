"""The text that AUTOMATIC1111's WebUI (1.9 and later) writes into pictures, read back.

Taken apart as `parse_generation_parameters` of its modules/infotext_utils.py does it, with bounds: prompt, a line
"Negative prompt: ...", and a last line of `Key: value` with commas between, values with commas in quotation marks.
Names of samplers and schedules are those of its modules/sd_samplers_*.py and sd_schedulers.py.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ondevice.diffusion.noise import MODES
from ondevice.diffusion.parameters import LEVEL_FLAGS, RESIZE_MODES, SAMPLER_NAMES, SPACINGS
from ondevice.diffusion.recorded import Recorded
from ondevice.diffusion.samplers import MAX_STEPS, SAMPLERS

# WebUI's own but for the bounds, without which a long word takes a time that grows with its square
_FIELD = re.compile(r'(\w[\w \-/]{1,60}):\s{0,8}("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_LEAST = 3  # fields of a line that is one of settings
_LONGEST = 1 << 16  # letters of that line
_LISTED = 1 << 12  # letters of a list of files
_NETWORK = re.compile(r"<(\w{1,16}):([^>]{1,120})>")  # <lora:name:0.8>, which is no text
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_WALK = "its noise is drawn, where WebUI's is a walk over sigma"
_STEPS = "WebUI gives it timesteps of its own"

AUTOMATIC = "Automatic"  # levels of noise: those that a sampler has there

SAMPLERS_THERE: dict[str, tuple[str, dict[str, Any]]] = {name: (ours, {}) for ours, name in SAMPLER_NAMES.items()} | {
    "DPM++ 2M SDE": ("dpmpp_2m", _SDE),
    "DPM++ 2M SDE Heun": ("dpmpp_2m", {**_SDE, "solver_type": "heun"}),
    "DPM++ 3M SDE": ("dpmpp_2m", {**_SDE, "solver_order": 3}),
    "DPM++ SDE": ("dpmpp_sde", {}),
    "DPM++ 2S a": ("dpmpp_2s", {}),
    "DPM2": ("dpm2", {}),
    "DPM2 a": ("dpm2_a", {}),
}
_OTHERWISE = {
    **dict.fromkeys(("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ SDE"), _WALK),
    **dict.fromkeys(("PLMS", "DDIM", "UniPC"), _STEPS),
    "DPM++ 3M SDE": f"the solver of order 3 is another one, and {_WALK}",
    "DPM++ 2S a": "the nearest here draws no noise",
}
_AUTOMATIC = {  # levels that this word means there, of samplers that have a choice
    **dict.fromkeys(("DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "DPM2", "DPM2 a"), "Karras"),
    **dict.fromkeys(("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"), "Exponential"),
    **dict.fromkeys(("Euler", "Euler a", "LMS", "Heun"), "Uniform"),
}
LEVELS_THERE: dict[str, dict[str, Any]] = {
    **{name: {flag: True} for flag, name in LEVEL_FLAGS.items()},
    **{name: {"timestep_spacing": spacing} for spacing, name in SPACINGS.items()},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Normal": {"timestep_spacing": "linspace"},
    "Align Your Steps": {"ays": None},  # of the lists, the one for the kind of model
}
_OF_SUFFIX = ("Karras", "Exponential")  # which names of samplers ended in before 1.9
_WORDS: dict[str, tuple[str, str | None, dict[str | None, str | bool]]] = {
    "seed_mode": ("RNG", "GPU", {"CPU": MODES[0], "GPU": "a1111", "NV": "a1111"}),
    "emphasis": ("Emphasis", "Original", {"Original": "mean", "None": "none", "compel": "compel"}),
    "taesd": ("VAE Decoder", None, {"TAESD": True}),
    "fit": ("Resize mode", None, {name: fit for fit, name in RESIZE_MODES.items()}),
}
# of the model or of the program: nothing that would change how the picture is drawn here
_ASIDE = ("Version", "User", "Lora hashes", "TI hashes", "VAE hash", "Init image hash")


def read_infotext(text: str) -> Recorded:
    """What such a text says. Nothing is refused: what cannot be had is in `lost`."""
    prompt, negative, settings = taken_apart(text)
    found = Recorded({"prompt": _NETWORK.sub("", prompt)})
    if negative:  # where it is empty, zeros stand for it there, too, with the models that know this
        found.fields["negative"] = negative
    for kind, words in _NETWORK.findall(prompt):
        found.lost.append(f"<{kind}:{words}> of the prompt names a file (give it with --lora)")
    found.adapters = [name.strip() for name in settings.pop("Lora", "").split(", ") if name.strip()]
    reader = _Reader(settings, found)
    reader.read()
    if settings:
        others = ", ".join(f"{key}: {value}"[:60] for key, value in settings.items())
        found.lost.append(f"not known here: {others[:240]}")
    return found


def taken_apart(text: str) -> tuple[str, str, dict[str, str]]:
    """(prompt, negative prompt, settings) of a text."""
    *lines, last = text.strip().split("\n")
    fields = _FIELD.findall(last) if len(last) <= _LONGEST else []
    if len(fields) < _LEAST:
        lines, fields = [*lines, last], []
    parts: list[list[str]] = [[], []]
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            parts[1].append(line[16:].strip())
        else:
            parts[bool(parts[1])].append(line)
    return "\n".join(parts[0]), "\n".join(parts[1]), {key: _unquoted(value.strip()) for key, value in fields}


def _unquoted(value: str) -> str:
    if value[:1] == value[-1:] == '"' and len(value) > 1:
        try:
            return str(json.loads(value))
        except (ValueError, RecursionError):
            return value
    return value


class _Reader:
    """Takes what it knows out of the settings."""

    def __init__(self, settings: dict[str, str], found: Recorded) -> None:
        self._settings, self._found = settings, found

    def read(self) -> None:
        settings, found = self._settings, self._found
        found.model = settings.pop("Model", None)
        if found.model is None and "Model hash" in settings:
            found.model = settings["Model hash"]
        settings.pop("Model hash", None)
        if hires := [key for key in settings if key.startswith("Hires")]:
            for key in (*hires, "Denoising strength"):  # the latter is that of the second pass
                settings.pop(key, None)
            found.lost.append(f"it was enlarged and drawn once more ({', '.join(hires)[:100]}): the first one is drawn")
        for key, word, low, high in (
            ("Steps", "steps", 1, MAX_STEPS),
            ("Seed", "seed", -(2**63), 2**64 - 1),
            ("ENSD", "noise_seed_delta", -(2**64), 2**64),
            ("Variation seed", "variation_seed", -(2**63), 2**64 - 1),
        ):
            self._number(key, word, int, low, high)
        for key, word, least, most in (
            ("CFG scale", "guidance", -1e4, 1e4),
            ("Variation seed strength", "variation_strength", 0.0, 1.0),
            ("Denoising strength", "strength", 0.0, 1.0),
            ("Refiner switch at", "refiner_start", 0.0, 1.0),
        ):
            self._number(key, word, float, least, most)
        if ("variation_seed" in found.fields) != (found.fields.get("variation_strength", 0) > 0):
            found.fields.pop("variation_seed", None)
            found.fields.pop("variation_strength", None)
        if re.fullmatch(r"\d{1,5}x\d{1,5}", settings.get("Size", "")):
            found.fields["size"] = settings.pop("Size")
        if (skipped := settings.pop("Clip skip", "1")) != "1":
            found.lost.append(f"clip skip {skipped[:20]} is a bundle's own (`convert --clip-skip`, of one less)")
        self._sampler()
        for word, (key, default, known) in _WORDS.items():
            if (value := settings.get(key, default)) in known:
                found.fields[word] = known[value]
                settings.pop(key, None)
        self._files()
        for key in _ASIDE:
            settings.pop(key, None)

    def _number(self, key: str, word: str, kind: type[int] | type[float], low: float, high: float) -> None:
        """A number, if it is one in its range; else it stays what is not known."""
        text = self._settings.get(key, "")
        try:
            value = kind(text) if 0 < len(text) <= 40 and text.isascii() else None
        except ValueError:
            return
        if value is not None and math.isfinite(value) and low <= value <= high:
            self._found.fields[word] = value
            del self._settings[key]

    def _sampler(self) -> None:
        settings, found = self._settings, self._found
        name, levels = settings.pop("Sampler", None), settings.pop("Schedule type", AUTOMATIC)
        eta, ddim_eta = (
            settings.pop(key, None) for key in ("Eta", "Eta DDIM")
        )  # the first is its name before 1.6, too
        if name is None:
            return
        ours, options, lost = sampler_of(name, levels)
        found.lost += lost
        if ours is None:
            return
        found.fields["sampler"] = ours
        found.options |= options
        if ours == "ddim" and (ddim_eta or eta) is not None:
            settings["Eta"] = ddim_eta or eta or ""
            self._number("Eta", "eta", float, 0, 1)
        elif eta not in (None, "1", "1.0"):
            settings["Eta"] = eta  # an ancestral sampler's, which has none here
        if ours == "unipc":
            if (variant := settings.get("UniPC variant")) in ("bh1", "bh2"):
                found.options["solver_type"] = variant
                del settings["UniPC variant"]
            if (order := settings.get("UniPC order")) in ("1", "2", "3"):
                found.options["solver_order"] = int(order)
                del settings["UniPC order"]

    def _files(self) -> None:
        """What ours say of files; the ground under a picture; and a refiner."""
        settings, found = self._settings, self._found
        for key, word in (("Init image", "init_image"), ("Mask", "mask"), ("Latents", "latents")):
            if (name := settings.pop(key, None)) is not None:
                found.files[word] = name
        found.pictures = named_files(settings.pop("Pictures", ""))
        if (ground := settings.pop("Background", None)) is not None:
            found.fields["background"] = ground
        if (refiner := settings.pop("Refiner", None)) is not None:
            found.files["refiner"] = refiner


def sampler_of(name: str, levels: str = AUTOMATIC) -> tuple[str | None, dict[str, Any], list[str]]:
    """(ours, its options, what is not here or another than there) of a sampler that WebUI calls `name`, or that is
    called so here, and of its levels of noise there; None where there is no such sampler."""
    for suffix in _OF_SUFFIX:
        if name.endswith(f" {suffix}") and levels == AUTOMATIC:
            name, levels = name.removesuffix(f" {suffix}"), suffix
    ours, options = (name, {}) if name in SAMPLERS else SAMPLERS_THERE.get(name, (None, {}))
    if ours is None:
        return None, {}, [f"the sampler {name[:60]} is not here (--sampler chooses another)"]
    found, lost = dict(options), []
    if name in _OTHERWISE:
        lost.append(f"{name} is not WebUI's to the last bit: {_OTHERWISE[name]}")
    if levels == AUTOMATIC:
        levels = _AUTOMATIC.get(name, levels)
    if levels in LEVELS_THERE:
        found |= LEVELS_THERE[levels]
        if (ours, levels) == ("dpmpp_2m", "SGM Uniform"):  # it leaves out the last of n + 1 of them by itself
            found["timestep_spacing"] = "linspace"
    elif levels != AUTOMATIC:
        lost.append(f"levels of noise called {levels[:60]} are not here")
    return ours, found, lost


def named_files(text: str) -> dict[str, str]:
    """'pose=a.png, depth=b.png' -> names of files by names of pictures."""
    if len(text) > _LISTED:
        return {}
    return dict(re.findall(r"(\w{1,64})=([^=]{1,300}?)(?=, \w{1,64}=|$)", text))
