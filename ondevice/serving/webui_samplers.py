"""Names of samplers and of noise levels, as AUTOMATIC1111's WebUI has them."""

from __future__ import annotations

from typing import Any

from ondevice.diffusion.samplers import SAMPLERS
from ondevice.errors import UsageError

_SDE = {"algorithm_type": "sde-dpmsolver++"}
NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("euler", {}),
    "Euler a": ("euler_a", {}),
    "DPM++ 2M": ("dpmpp_2m", {}),
    "DPM++ 2M SDE": ("dpmpp_2m", _SDE),
    "DPM++ SDE": ("dpmpp_sde", {}),
    "Heun": ("heun", {}),
    "LMS": ("lms", {}),
    "DPM2": ("dpm2", {}),
    "DPM2 a": ("dpm2_a", {}),
    "DDIM": ("ddim", {}),
    "DDPM": ("ddpm", {}),
    "PLMS": ("pndm", {}),
    "UniPC": ("unipc", {}),
    "LCM": ("lcm", {}),
    "TCD": ("tcd", {}),
    "DEIS": ("deis", {}),
}
"""WebUI's names, and the sampler and its options that they are here."""

SCHEDULES: dict[str, dict[str, Any]] = {
    "Automatic": {},
    "Uniform": {"timestep_spacing": "linspace"},
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True},
    "Beta": {"use_beta_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Simple": {"timestep_spacing": "trailing"},
    "Normal": {"timestep_spacing": "linspace"},
    "DDIM": {"timestep_spacing": "leading"},
}
"""WebUI's schedule types, and the options that they are here."""

_BY_LETTERS = {name.lower(): found for name, found in NAMES.items()} | {name: (name, {}) for name in SAMPLERS}
_LEVELS = {name.lower().replace(" ", "_"): options for name, options in SCHEDULES.items()}


def sampler_of(name: str, schedule: str | None = None) -> tuple[str, dict[str, Any]]:
    """The sampler of a name there, or of ours, and its options. Older clients write the schedule behind the name:
    "DPM++ 2M Karras".

    Raises:
        UsageError: there is none of that name.
    """
    letters = name.lower()
    for kind in () if letters in _BY_LETTERS else SCHEDULES:
        if letters.endswith(f" {kind.lower()}"):
            letters, schedule = letters.removesuffix(f" {kind.lower()}"), schedule or kind
            break
    if letters not in _BY_LETTERS:
        have = ", ".join(NAMES)
        raise UsageError(f"no such sampler (got {name[:60]!r}, expected one of {have}).", where="sampler_name")
    sampler, options = _BY_LETTERS[letters]
    return sampler, options | levels_of(schedule)


def levels_of(schedule: str | None) -> dict[str, Any]:
    """The options of a schedule type there, by its name or label. Raises UsageError where there is none."""
    if schedule is None:
        return {}
    if (found := _LEVELS.get(schedule.lower().replace(" ", "_"))) is None:
        have = ", ".join(SCHEDULES)
        raise UsageError(f"no such schedule (got {schedule[:60]!r}, expected one of {have}).", where="scheduler")
    return found
