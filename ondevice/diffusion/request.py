"""What is asked of a pipeline, and what comes of it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from ondevice.diffusion.noise import MODES, Noise
from ondevice.diffusion.text.texts import EMPHASES, LENGTHS
from ondevice.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One picture. What is None is the pipeline's own: the bundle says what the model was made for.

    Attributes:
        prompt: what to draw; nothing where the model reads no text.
        negative_prompt: what not to draw; not used without guidance. None is not the same as "" for every model (SDXL).
        num_inference_steps: sampler steps, 1 to 1000.
        guidance_scale: 1 or less: no guidance, for models that are guided by two passes.
        seed: of the noise, as torch's generators take it.
        seed_mode: whose numbers a seed gives, one of `ondevice.diffusion.noise.MODES`.
        variation_seed: of another noise, that the seed's is turned towards by `variation_strength`, 0 to 1.
        noise_seed_delta: what the sampler draws has a seed of its own, larger by this (WebUI's ENSD); 0: it has not.
        width, height: pixels.
        sampler: one of `ondevice.diffusion.samplers.SAMPLERS`.
        sampler_options: keys of scheduler_config.json that replace the checkpoint's, and those that no config has
            (`eta`, `sigmas`, `timesteps`, `ays`, ...), as `make_table` takes them (docs/samplers.md).
        latents: float32 [1, channels, height / scale, width / scale], the noise to begin with instead of the seed's.
        image: uint8 [height, width, 3], a picture to begin from; `strength`, 0 to 1, says how much of it is drawn anew.
        mask: uint8 [height, width] or [height, width, 3], light (at least 128) where the image is drawn anew.
        pictures: uint8 [height, width, 3] by name, others that the pipeline takes.
        denoising_end: a part of the schedule, above 0 and below 1, from which on another model goes on: nothing is
            decoded, and `Picture.latents` are the sample as it stands.
        denoising_start: the part from which on this model goes on, from `latents` that were left so.
        emphasis: what signs in texts mean (docs/prompts.md): `none`, nothing; or how weights act, `mean` or `compel`.
        long: of a text that is longer than a text encoder takes: `truncate`, its beginning is read; `chunk`, it is read
            in chunks, or refused where the bundle has no plans for so many; `fit`, as many chunks as it has plans for.
        numbers: values of other numbers that the pipeline has, such as SDXL's `crop_top`.
        taesd: decode by the bundle's fast decoder, sooner and not as exact.
        decode_chunk: decode at most so many frames at once; None: the most that there are plans for.
    """

    prompt: str = ""
    negative_prompt: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    seed_mode: str = "torch"
    variation_seed: int | None = None
    variation_strength: float = 0.0
    noise_seed_delta: int = 0
    width: int | None = None
    height: int | None = None
    sampler: str | None = None
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    latents: np.ndarray | None = None
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    strength: float | None = None
    denoising_end: float | None = None
    denoising_start: float | None = None
    emphasis: str = "none"
    long: str = "truncate"
    numbers: Mapping[str, float] = field(default_factory=dict)
    taesd: bool = False
    decode_chunk: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no pipeline can use."""
        self._check_types()
        for name, pixels in self.given_pictures().items():
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
                what = f"not pixels (got {pixels.dtype}{list(pixels.shape)}, expected uint8[h, w, 3])"
                raise UsageError(what, where=name, fix="use read_image")
        for name, chosen, known in (("emphasis", self.emphasis, EMPHASES), ("long", self.long, LENGTHS)):
            if chosen not in known:
                raise UsageError(f"unknown (got {chosen!r}, expected one of {', '.join(known)})", where=name)
        for name, value in {"guidance_scale": self.guidance_scale, **self.numbers}.items():
            if value is not None and not math.isfinite(value):
                raise UsageError(f"not a number (got {value}, expected a finite one)", where=name, fix="use 7.5")
        for name, part in self.parts().items():
            if not 0 < part < 1:
                what = f"not a part of the schedule (got {part:g}, expected above 0 and below 1)"
                raise UsageError(what, where=name, fix="use 0.8, or leave it out")
        if self.denoising_start is not None and self.latents is None:
            what = "the schedule goes on from latents, and none were given"
            raise UsageError(what, where="denoising_start", fix="give those that a run with denoising_end left")
        self._check_noise()

    def _check_types(self) -> None:
        """Refuse what is of another type than a field has; NumPy's numbers become Python's."""
        for name in (one.name for one in fields(self)):
            if isinstance(value := getattr(self, name), np.generic):
                object.__setattr__(self, name, value.item())
        asked = {name: getattr(self, name) for name in (*_TEXTS, *_NUMBERS, *_ARRAYS)} | {**self.pictures}
        for name, value in asked.items():
            kind: type | tuple[type, ...]
            if name in _TEXTS:
                kind, expected, fix = str, "a str", "give one text; `num_images_per_prompt` draws several of it"
            elif name in _NUMBERS:
                kind, expected, fix = (int, float), "a number", "give a number"
            else:
                kind, expected, fix = np.ndarray, "an array", "open it, say by PIL"
            if value is not None and not isinstance(value, kind):
                got = repr(value) if isinstance(value, str) else type(value).__name__
                raise UsageError(f"of another type (got {got}, expected {expected}).", where=name, fix=fix)

    def parts(self) -> dict[str, float]:
        """The parts of the schedule that are left to other models, as sampler's options."""
        named = {"denoising_start": self.denoising_start, "denoising_end": self.denoising_end}
        return {name: part for name, part in named.items() if part is not None}

    def _check_noise(self) -> None:
        if self.seed_mode not in MODES:
            what = f"not a way to take seeds (got {self.seed_mode!r}, expected {', '.join(MODES)})"
            raise UsageError(what, where="seed_mode", fix=f"use {MODES[0]}")
        strength, other = self.variation_strength, self.variation_seed
        if not 0 <= strength <= 1:
            raise UsageError(
                f"out of range (got {strength}, expected 0 to 1)", where="variation_strength", fix="use such as 0.1"
            )
        if (other is None) != (strength == 0):
            what = f"these two go together (got variation_seed {other}, variation_strength {strength:g})"
            raise UsageError(what, where="variation_seed", fix="give a seed and a strength above 0, or neither")
        if other is not None and self.latents is not None:
            what = "latents were given, and no noise is drawn that could be varied"
            raise UsageError(what, where="variation_seed", fix="leave the latents or the variation out")

    def noise(self) -> Noise:
        """The picture's draws. Raises UsageError for what is not a seed."""
        variation = None if self.variation_seed is None else (self.variation_seed, self.variation_strength)
        return Noise(self.seed, self.seed_mode, variation=variation, delta=self.noise_seed_delta)

    def noise_parameters(self) -> dict[str, Any]:
        """The fields that say what is drawn, without those that have their defaults; the seed always."""
        known = {
            "seed_mode": MODES[0], "variation_seed": None, "variation_strength": 0.0, "noise_seed_delta": 0
        }  # fmt: skip
        chosen = {name: value for name, default in known.items() if (value := getattr(self, name)) != default}
        return {"seed": self.seed} | chosen

    def given_pictures(self) -> dict[str, np.ndarray]:
        """The pictures by the names that pipelines have for them; a mask in grey has three channels here."""
        given = {name: pixels for name, pixels in (("image", self.image), ("mask", self.mask)) if pixels is not None}
        if self.mask is not None and self.mask.ndim == 2:
            given["mask"] = np.repeat(self.mask[..., np.newaxis], 3, axis=2)
        return {**self.pictures, **given}

    def texts(self) -> dict[str, str | None]:
        """The texts that pipelines name."""
        return {"prompt": self.prompt, "negative_prompt": self.negative_prompt}


_TEXTS = ("prompt", "negative_prompt", "sampler")
_NUMBERS = (
    "num_inference_steps", "guidance_scale", "seed", "variation_seed", "variation_strength", "noise_seed_delta",
    "width", "height", "strength", "denoising_end", "denoising_start", "decode_chunk",
)  # fmt: skip
_ARRAYS = ("latents", "image", "mask")


def request_of(words: Mapping[str, Any]) -> Request:
    """A request of words that were given to a call. Raises TypeError for one that is none; UsageError as `Request`."""
    known = [one.name for one in fields(Request)]
    for word in (word for word in words if word not in known):
        near = difflib.get_close_matches(word, [*known, *Options.__annotations__], 1)
        raise TypeError(f"got an unexpected keyword argument {word!r}" + (f" (is {near[0]!r} meant?)" if near else ""))
    return Request(**words)


class Options(TypedDict, total=False):
    """`Request`'s fields but for the prompt, for calls in diffusers' words; and those of diffusers' own."""

    negative_prompt: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    seed: int
    seed_mode: str
    variation_seed: int | None
    variation_strength: float
    noise_seed_delta: int
    width: int | None
    height: int | None
    sampler: str | None
    sampler_options: Mapping[str, Any]
    latents: np.ndarray | None
    image: Any
    mask: np.ndarray | None
    pictures: Mapping[str, np.ndarray]
    strength: float | None
    denoising_end: float | None
    denoising_start: float | None
    emphasis: str
    long: str
    numbers: Mapping[str, float]
    taesd: bool
    decode_chunk: int | None
    num_frames: int | None
    fps: float | None
    motion_bucket_id: float | None
    noise_aug_strength: float | None
    min_guidance_scale: float | None
    max_guidance_scale: float | None
    decode_chunk_size: int | None
    num_images_per_prompt: int
    generator: Any
    callback_on_step_end: Callable[[Any, int, float, dict[str, Any]], dict[str, Any] | None]
    control_image: Any
    controlnet_conditioning_scale: float | Sequence[float]
    control_guidance_start: float | Sequence[float]
    control_guidance_end: float | Sequence[float]
    guess_mode: bool


class InvertOptions(TypedDict, total=False):
    """Fields of `Request` that an inversion reads, and its own two."""

    num_inference_steps: int | None
    width: int | None
    height: int | None
    sampler: str | None
    sampler_options: Mapping[str, Any]
    emphasis: str
    long: str
    numbers: Mapping[str, float]
    inversion: str
    refine: int


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels` uint8[height, width, 3], None where another model goes on; `latents` float32[frames, c, h, w], the final
    ones; `start` the noise the run began with, before the sampler's scale; `parameters` all that is needed to draw it
    again, for the file's metadata; `frames` uint8[n, height, width, 3] of a model of films, of which `pixels` is the
    first; `others` the further pictures of one call."""

    pixels: np.ndarray | None
    latents: np.ndarray
    start: np.ndarray
    parameters: dict[str, Any]
    frames: np.ndarray | None = None
    others: tuple[Picture, ...] = ()

    @property
    def images(self) -> list[Image.Image]:
        """What was drawn, as PIL holds pictures; a list, as diffusers gives, of pictures or of all their frames, and
        empty where another model goes on."""
        drawn = ([one.pixels] if one.frames is None else one.frames for one in (self, *self.others))
        return [Image.fromarray(pixels) for pictures in drawn for pixels in pictures if pixels is not None]
