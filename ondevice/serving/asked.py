"""A picture as JSON, and the request that it comes to. Fields are called as those of
`ondevice.diffusion.request.Request`; pictures are base64 of a file, with or without `data:image/...;base64,` before."""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ondevice.diffusion.canny import edge_picture
from ondevice.diffusion.control import NAMES as CONTROLS
from ondevice.diffusion.image import FITS, fitted
from ondevice.diffusion.init_image import decode_image
from ondevice.diffusion.noise import MODES
from ondevice.diffusion.request import Request
from ondevice.diffusion.text.texts import EMPHASES, LENGTHS
from ondevice.drawing import file_name
from ondevice.drawing.pictures import fit_pair
from ondevice.errors import UsageError
from ondevice.serving.adapters import LARGEST, from_prompt
from ondevice.serving.jobs import Job
from ondevice.serving.model import Served

MOST_PICTURES = 16
"""Of one request."""

LONGEST_TEXT = 20_000
"""Characters of a prompt."""

LONGEST_NAME = 200
_DECODING = threading.Lock()  # one picture at a time: it takes up to 256 MiB
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Setting = bool | int | Finite | Name | Annotated[list[Finite], Field(max_length=1000)] | None
Encoded = Annotated[str, Field(description="base64 of a PNG, JPEG, WebP, BMP, GIF or TIFF file")]


class Adapter(BaseModel):
    """A LoRA that is drawn with."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="one of `/api/model`'s `adapters`")
    scale: Finite | None = Field(default=None, ge=-LARGEST, le=LARGEST, description="null: its own, of a file 1")


class Asked(BaseModel):
    """What to draw. What is left out, or null, is the model's own."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text = Field(default="", description="needed, but of a model that draws films of a picture")
    negative_prompt: Text | None = None
    num_inference_steps: int | None = Field(default=None, ge=1, le=1000)
    guidance_scale: Finite | None = Field(default=None, ge=0, le=100)
    seed: Seed | None = Field(default=None, description="null: any")
    seed_mode: Literal[*MODES] = MODES[0]  # type: ignore[valid-type]
    variation_seed: Seed | None = None
    variation_strength: Finite = Field(default=0.0, ge=0, le=1)
    noise_seed_delta: int = Field(default=0, ge=-(2**31), lt=2**31)
    width: int | None = Field(default=None, ge=1, le=1 << 14, description="pixels")
    height: int | None = Field(default=None, ge=1, le=1 << 14)
    sampler: Name | None = None
    sampler_options: dict[Name, Setting] = Field(default_factory=dict, max_length=40)
    emphasis: Literal[*EMPHASES] = "mean"  # type: ignore[valid-type]
    long: Literal[*LENGTHS] = "fit"  # type: ignore[valid-type]
    numbers: dict[Name, Finite] = Field(default_factory=dict, max_length=64)
    image: Encoded | None = Field(default=None, description="to begin from; base64 of its file")
    image_name: Name | None = Field(default=None, description="for the picture's metadata")
    mask: Encoded | None = Field(default=None, description="light where the image is drawn anew; base64 of its file")
    invert_mask: bool = Field(default=False, description="the mask is light where the image is kept")
    fit: Literal[*FITS] = FITS[0]  # type: ignore[valid-type]
    strength: Finite | None = Field(default=None, ge=0, le=1)
    pictures: dict[Name, Encoded] = Field(default_factory=dict, max_length=8, description="others that the model takes")
    canny: tuple[Finite, Finite] | None = Field(
        default=None, description="control pictures are edges of those that are sent: thresholds such as 100, 200"
    )
    adapters: list[Adapter] = Field(
        default_factory=list, max_length=16, description="LoRA; a prompt may name them, too: `<lora:NAME:SCALE>`"
    )
    taesd: bool = Field(default=False, description="decode by the bundle's fast decoder")
    count: int = Field(default=1, ge=1, le=MOST_PICTURES, description="pictures, of this seed and the next ones")
    window: str = Field(default="", max_length=40, description="which page asks; jobs are listed with it")


def job_of(asked: Asked, model: Served) -> Job:
    """The job that is asked for, checked as far as that goes before anything is drawn.

    Raises:
        UsageError: something that is asked for cannot be had.
        PlanError: a picture needs more memory than there is.
    """
    given = {
        name: decoded(text, name)
        for name, text in {"image": asked.image, "mask": asked.mask, **asked.pictures}.items()
        if text is not None
    }
    if asked.invert_mask and "mask" in given:
        given["mask"] = 255 - given["mask"]
    if "prompt" not in asked.model_fields_set and "prompt" in model.spec.texts:
        raise UsageError("Field required.", where="prompt", fix="give one; it may be empty")
    prompt, named = from_prompt(asked.prompt)
    adapters = model.adapters_of([*((one.name, one.scale) for one in asked.adapters), *named])
    size = _size(asked, given, model)
    image, mask = fit_pair(given.pop("image", None), given.pop("mask", None), size, asked.fit)
    request = Request(
        prompt=prompt,
        negative_prompt=asked.negative_prompt,
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        seed=secrets.randbelow(1 << 32) if asked.seed is None else asked.seed,
        seed_mode=asked.seed_mode,
        variation_seed=asked.variation_seed,
        variation_strength=asked.variation_strength,
        noise_seed_delta=asked.noise_seed_delta,
        width=size[0],
        height=size[1],
        sampler=asked.sampler,
        sampler_options=asked.sampler_options,
        emphasis=asked.emphasis,
        long=asked.long,
        numbers=asked.numbers,
        image=image,
        mask=mask,
        taesd=asked.taesd,
        strength=asked.strength if image is not None else None,
        pictures={name: _at_size(name, one, size, asked, model) for name, one in given.items()},
    )
    about: dict[str, Any] = {} if asked.canny is None else {"canny": "{:g},{:g}".format(*asked.canny)}
    if asked.image is not None:
        about |= {"init_image": file_name(Path(asked.image_name or "image"))} | (
            {} if asked.fit == FITS[0] else {"fit": asked.fit}
        )
    return Job(
        request,
        model.way(request, adapters),
        count=asked.count,
        adapters=adapters,
        about=about,
        window=asked.window,
        prompt=asked.prompt,
        size=size,
    )


def _at_size(name: str, pixels: np.ndarray, size: tuple[int, int], asked: Asked, model: Served) -> np.ndarray:
    """A picture as the pipeline is given it: at the size that is drawn, and its edges where these were asked for."""
    if not model.resizes(name):
        return pixels
    pixels = fitted(pixels, *size)
    if asked.canny is None or name not in CONTROLS:
        return pixels
    low, high = asked.canny
    if min(low, high) < 0:
        what = f"no thresholds (got {low:g} and {high:g}, expected 0 or more)."
        raise UsageError(what, where="canny", fix="use 100 and 200")
    return edge_picture(pixels, low, high)


def _size(asked: Asked, given: dict[str, np.ndarray], model: Served) -> tuple[int, int]:
    """(width, height) in pixels: as asked, else what fits the image, else the model's own."""
    if asked.width is not None and asked.height is not None:
        return asked.width, asked.height
    usual = model.default_size
    if "image" in given:
        usual = model.fit((given["image"].shape[1], given["image"].shape[0]))
    return asked.width or usual[0], asked.height or usual[1]


def decoded(text: str, where: str) -> np.ndarray:
    """uint8[h, w, 3] of a picture in base64.

    Raises:
        UsageError: it is no base64, or no picture that is read.
    """
    if text[:8].lower().startswith(("http://", "https://")):
        fix = "send the picture itself, as base64"
        raise UsageError("pictures are not fetched from addresses.", where=where, fix=fix)
    head, comma, rest = text.partition(",")
    try:
        data = base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("it is not base64.", where=where, fix="encode the picture's file as base64") from None
    with _DECODING:
        return decode_image(data, where)
