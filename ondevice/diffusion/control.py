"""ControlNets in diffusers' words: what a value or a list of them is in a pipeline's pictures and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ondevice.bundle.pipeline import PipelineSpec
from ondevice.errors import UsageError

NAMES = ("control", "control_2", "control_3", "control_4")
"""Pictures, one per net; the numbers of a net end as its picture's name does."""
Numbers = float | Sequence[float] | None


def nets_of(spec: PipelineSpec) -> tuple[str, ...]:
    """The pictures of a pipeline's nets, in the order in which `convert --controlnet` was given these."""
    return tuple(name for name in NAMES if name in spec.pictures)


def check_count(spec: PipelineSpec, count: int, where: str) -> None:
    """Raises UsageError where there are more pictures than nets."""
    if count > (have := len(nets_of(spec))):
        word = "no ControlNet" if not have else "one ControlNet" if have == 1 else f"{have} ControlNets"
        what = f"there are more pictures than nets (got {count}, and the bundle has {word})."
        raise UsageError(what, where=where, fix="convert the checkpoint with --controlnet PATH for each")


def numbers_of(
    spec: PipelineSpec, count: int, named: Mapping[str, tuple[str, Numbers]], guess: bool
) -> dict[str, float]:
    """The numbers of the first `count` nets.

    Args:
        named: "scale", "start" and "end", each with what a user calls it and its value: one for all nets, or a list of
            one each; None: the pipeline's own.
        guess: guess mode, in which nets see the prompt alone, and act less on what is larger.

    Raises:
        UsageError: a list has another length, or there is no net.
    """
    found: dict[str, float] = {}
    for word, (where, value) in named.items():
        if value is None:
            continue
        values = list(value) if isinstance(value, Sequence) else [value] * count
        if len(values) == 1:
            values *= count
        if len(values) != count or not count:
            what = f"there are {count} pictures for ControlNets (got {len(values)} numbers, expected one, or one each)."
            raise UsageError(what, where=where, fix="give as many as pictures")
        found |= {f"control_{word}{_end(net)}": float(one) for net, one in zip(NAMES, values, strict=False)}
    for net in NAMES[: count if guess else 0]:
        found[f"control_guess{_end(net)}"] = 1.0
        if (negative := f"control_negative_scale{_end(net)}") in spec.numbers:
            found[negative] = 0.0
    return found


def _end(net: str) -> str:
    return net.removeprefix(NAMES[0])


OPTIONS = {
    "scale": "controlnet_conditioning_scale",
    "start": "control_guidance_start",
    "end": "control_guidance_end",
}
"""diffusers' words for numbers of nets."""


def in_diffusers_words(spec: PipelineSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a Request out of those of diffusers' pipelines with ControlNets: `control_image`,
    `controlnet_conditioning_scale`, `control_guidance_start`, `control_guidance_end` and `guess_mode`, each a value or
    a list of one per net. Others are left as they are.

    Raises:
        UsageError: as `check_count` and `numbers_of`.
    """
    left = {
        name: value for name, value in options.items() if name not in ("control_image", "guess_mode", *OPTIONS.values())
    }
    given = options.get("control_image")
    images = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    check_count(spec, len(images), "control_image")
    named = {word: (name, options.get(name)) for word, name in OPTIONS.items()}
    numbers = numbers_of(spec, len(images), named, bool(options.get("guess_mode")))
    if not images and not numbers:
        return left
    pictures = dict(zip(NAMES, map(_pixels, images), strict=False))
    return left | {
        "pictures": {**left.get("pictures", {}), **pictures},
        "numbers": {**numbers, **left.get("numbers", {})},
    }


def _pixels(image: Any) -> np.ndarray:
    """uint8 [h, w, 3] of an array or of what PIL holds."""
    return np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else np.asarray(image)
