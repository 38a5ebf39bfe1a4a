"""A morph: pictures on the way from one to another, in a model's latents (docs/morph.md).

Both ends are inverted; a frame is drawn from latents between theirs (`slerp`), and, where these differ, from a prompt
and with adapters between theirs (`lerp`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ondevice.bundle.pipeline import PipelineSpec
from ondevice.diffusion.interpolation import slerp
from ondevice.diffusion.inversion import Inversion
from ondevice.diffusion.loop import OnStep
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Picture, Request
from ondevice.diffusion.samplers import make_table
from ondevice.diffusion.series import Series
from ondevice.errors import UsageError

SAMPLER = "ddim"  # whose steps inversions go back


@dataclass(slots=True)
class Morph:
    """What frames are drawn from. `invert` both ends first.

    Attributes:
        request: of every frame, but for its latents; its prompt is the first end's.
        pictures: both ends, uint8 [height, width, 3].
        prompt: the other end's, where it is another.
        inversion: how both are inverted.
        turn: sets the weights of adapters for a part of the way, 0 to 1; it is called before anything is run there.
        latents: of each end, once it is inverted.
    """

    pipeline: Pipeline
    request: Request
    pictures: tuple[np.ndarray, np.ndarray]
    prompt: str | None = None
    inversion: Inversion = field(default_factory=Inversion)
    way: Way = field(default_factory=Way)
    turn: Callable[[float], None] | None = None
    latents: dict[int, np.ndarray] = field(default_factory=dict)
    _texts: list[Series] = field(default_factory=list)

    def invert(self, end: int, on_step: OnStep | None = None) -> None:
        """Find the latents of an end, 0 or 1, with its own prompt and adapters. Raises OnDeviceError as
        `Pipeline.invert_request`."""
        if self.turn is not None:
            self.turn(float(end))
        prompt = self.request.prompt if end == 0 or self.prompt is None else self.prompt
        request = replace(self.request, prompt=prompt, image=self.pictures[end])
        self.latents[end] = self.pipeline.invert_request(request, self.inversion, self.way, on_step)

    def frame(self, part: float, on_step: OnStep | None = None) -> Picture:
        """The frame at a part of the way, from 0 to 1. Raises OnDeviceError as `Pipeline.draw`."""
        if self.turn is not None:
            self.turn(part)
            self._texts.clear()  # text encoders have adapters, too
        request = replace(self.request, latents=slerp(self.latents[0], self.latents[1], part))
        return self.pipeline.draw(request, self.way, on_step, self._series(part))

    def _series(self, part: float) -> Series:
        """The texts at a part of the way; they are read once for all frames that have the same adapters."""
        prompts = [self.request.prompt] + ([] if self.prompt is None else [self.prompt])
        if not self._texts:
            self._texts += [self.pipeline.encode(replace(self.request, prompt=prompt)) for prompt in prompts]
        first, *rest = self._texts
        return self.pipeline.between(first, rest[0], part) if rest else first


def parts_of_way(frames: int) -> list[float]:
    """Where each of `frames` is, from 0 to 1, evenly."""
    return [number / (frames - 1) for number in range(frames)]


def request_of_frames(spec: PipelineSpec, config: Mapping[str, Any], request: Request, inversion: Inversion) -> Request:
    """The request with what is its own of frames: without guidance, and by the sampler whose steps the inversion goes
    back, where nothing else is asked for.

    Args:
        config: scheduler_config.json's content.

    Raises:
        UsageError: the sampler draws noise, and does not lead back to a picture; or the inversion cannot be had.
    """
    sampler = request.sampler or (spec.sampler if inversion.way == "own" else SAMPLER)
    steps = spec.steps if request.num_inference_steps is None else request.num_inference_steps
    table = make_table(sampler, steps, config, **request.sampler_options)
    if any(call.draws_noise for call in table.calls):
        what = f"{sampler} draws noise in its steps, and does not lead back to the pictures."
        raise UsageError(what, where="sampler", fix=f"use {SAMPLER}")
    inversion.table(spec, config, request)
    guidance = 1.0 if request.guidance_scale is None and "guidance_scale" in spec.numbers else request.guidance_scale
    return replace(request, sampler=sampler, num_inference_steps=steps, guidance_scale=guidance)
