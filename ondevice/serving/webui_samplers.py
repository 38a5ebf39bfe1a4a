"""Names of samplers and of noise levels, as AUTOMATIC1111's clients give them."""

from __future__ import annotations

from typing import Any

from ondevice.diffusion.infotext import AUTOMATIC, LEVELS_THERE, SAMPLERS_THERE, sampler_of
from ondevice.diffusion.samplers import SAMPLERS
from ondevice.errors import UsageError

NAMES = {name: ours for name, (ours, _) in SAMPLERS_THERE.items()}
"""WebUI's names, and the samplers that they are here."""

LEVELS = {label.lower().replace(" ", "_"): label for label in (AUTOMATIC, *LEVELS_THERE)}
"""Noise levels by their names in the API, and their labels."""

_BY_LETTERS = {name.lower(): name for name in (*SAMPLERS, *NAMES)}  # of two alike WebUI's


def named(name: str, levels: str | None) -> tuple[str, dict[str, Any], list[str]]:
    """(ours, its options, what is another than there) of a sampler by its name there, or here, and of its noise levels.
    Older clients write these behind the sampler's name: "DPM++ 2M Karras".

    Raises:
        UsageError: there is none of that name.
    """
    label = AUTOMATIC
    if levels is not None and (label := LEVELS.get(levels.lower().replace(" ", "_"), "")) == "":
        have = ", ".join(LEVELS.values())
        what = f"no such noise levels (got {levels[:60]!r}, expected one of {have})."
        raise UsageError(what, where="scheduler", fix="use Automatic")
    sampler, options, lost = sampler_of(_BY_LETTERS.get(name.lower(), name), label)
    if sampler is None:
        have = ", ".join(NAMES)
        raise UsageError(f"no such sampler (got {name[:60]!r}, expected one of {have}).", where="sampler_name")
    return sampler, options, lost
