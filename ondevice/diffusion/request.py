"""What is asked of a pipeline, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from ondevice.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One picture. What is None is the pipeline's own: the bundle says what the model was made for.

    Attributes:
        prompt: what to draw.
        negative_prompt: what not to draw; not used without guidance. None is not the same as "" for every model (SDXL).
        num_inference_steps: sampler steps, 1 to 1000.
        guidance_scale: 1 or less: no guidance, for models that are guided by two passes.
        seed: of the noise, as torch's CPU generator takes it.
        width, height: pixels.
        sampler: one of `ondevice.diffusion.samplers.SAMPLERS`.
        sampler_options: `eta`, and keys of scheduler_config.json that replace the checkpoint's, as
            `make_table` takes them.
        latents: float32 [1, channels, height / scale, width / scale], the noise to begin with instead of the seed's.
        image: uint8 [height, width, 3], a picture to begin from; `strength`, 0 to 1, says how much of it is drawn anew.
        numbers: values of other numbers that the pipeline has, such as SDXL's `crop_top`.
    """

    prompt: str
    negative_prompt: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    width: int | None = None
    height: int | None = None
    sampler: str | None = None
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    latents: np.ndarray | None = None
    image: np.ndarray | None = None
    strength: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no pipeline can use."""
        if self.image is not None and self.latents is not None:
            raise UsageError(
                "both given (got latents and an image, expected one)", where="latents", fix="leave one out"
            )
        image = self.image
        if image is not None and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3):
            what = f"not pixels (got {image.dtype}{list(image.shape)}, expected uint8[h, w, 3])"
            raise UsageError(what, where="image", fix="use read_image")
        for name, value in {"guidance_scale": self.guidance_scale, **self.numbers}.items():
            if value is not None and not math.isfinite(value):
                raise UsageError(f"not a number (got {value}, expected a finite one)", where=name, fix="use 7.5")

    def texts(self) -> dict[str, str | None]:
        """The texts that pipelines name."""
        return {"prompt": self.prompt, "negative_prompt": self.negative_prompt}


class Options(TypedDict, total=False):
    """`Request`'s fields but for the prompt, for calls in diffusers' words; and two of diffusers' own."""

    negative_prompt: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    seed: int
    width: int | None
    height: int | None
    sampler: str | None
    sampler_options: Mapping[str, Any]
    latents: np.ndarray | None
    image: np.ndarray | None
    strength: float | None
    numbers: Mapping[str, float]
    generator: Any
    callback_on_step_end: Callable[[Any, int, float, dict[str, Any]], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels` uint8[height, width, 3]; `latents` float32[1, c, h, w], the final ones; `start` the noise the run began
    with, before the sampler's scale; `parameters` all that is needed to draw it again, for the file's metadata."""

    pixels: np.ndarray
    latents: np.ndarray
    start: np.ndarray
    parameters: dict[str, Any]

    @property
    def images(self) -> list[Image.Image]:
        """What was drawn, as PIL holds pictures; a list, as diffusers gives."""
        return [Image.fromarray(self.pixels)]
