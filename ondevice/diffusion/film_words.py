"""Films in diffusers' words: what keyword arguments of StableVideoDiffusionPipeline are among a pipeline's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ondevice.bundle.pipeline import PipelineSpec
from ondevice.errors import UsageError

NUMBERS = {
    "fps": "fps",
    "motion_bucket_id": "motion_bucket",
    "noise_aug_strength": "noise_augmentation",
    "min_guidance_scale": "min_guidance_scale",
    "max_guidance_scale": "max_guidance_scale",
}
"""diffusers' words for numbers of pipelines. `num_frames` is the one that the latents name."""

_FRAMES, _CHUNK = "num_frames", "decode_chunk_size"


def in_diffusers_words(spec: PipelineSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a Request out of diffusers' for films; an `image` may be one of PIL. Others are left as they
    are.

    Raises:
        UsageError: the pipeline has no such number.
    """
    words = {**NUMBERS, _FRAMES: spec.latents.frames}
    left = {name: value for name, value in options.items() if name not in (*words, _CHUNK)}
    numbers: dict[str, float] = {}
    for word, name in words.items():
        if options.get(word) is None:
            continue
        if name is None or name not in spec.numbers:
            raise UsageError("this model has no such number", where=word, fix="leave it out")
        numbers[name] = float(options[word])
    if numbers:
        left["numbers"] = {**numbers, **left.get("numbers", {})}
    if options.get(_CHUNK) is not None:
        left["decode_chunk"] = options[_CHUNK]
    if isinstance(image := left.get("image"), Image.Image):
        left["image"] = np.asarray(image.convert("RGB"))
    return left
