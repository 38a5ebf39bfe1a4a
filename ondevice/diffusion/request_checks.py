"""What a request asks of a pipeline, checked before anything runs: texts, pictures, sizes, latents."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from ondevice.bundle.pipeline import PipelineSpec, Sample
from ondevice.diffusion.control import nets_of
from ondevice.diffusion.image import rounded_down
from ondevice.diffusion.request import Request
from ondevice.diffusion.values import chunks_of
from ondevice.errors import UsageError, multiples_near


def check_given(spec: PipelineSpec, request: Request) -> None:
    """Raises UsageError for a picture or a text that the pipeline does not take, and one that is missing."""
    if spec.latents.begin is not None and request.image is not None and request.latents is not None:
        raise UsageError("both given (got latents and an image, expected one)", where="latents", fix="leave one out")
    texts, pictures = request.texts(), request.given_pictures()
    if "image" in pictures and "image" not in spec.pictures:
        raise UsageError("this model begins from no picture", where="image", fix="leave it out")
    takes = [name for name, given in spec.pictures.items() if not given.of]
    if not spec.texts:
        for name in (name for name, text in texts.items() if text):
            raise UsageError("this model takes no such text", where=name, fix="leave it out")
    for name in (name for name in pictures if name not in takes):
        what = f"this model takes no such picture (it takes {', '.join(takes) or 'none'})"
        raise UsageError(what, where=name, fix="leave it out")
    for first, then in itertools.pairwise(nets_of(spec)):
        if then in pictures and first not in pictures:
            what = f"its ControlNet adds to what that of {first} makes, whose picture was not given"
            raise UsageError(what, where=then, fix=f"give {first}, too")
    for name in (name for name, optional in spec.texts.items() if not optional and texts[name] is None):
        raise UsageError("this model draws nothing without this text", where=name, fix="give one; it may be empty")
    begun = pictures_begun_from(spec) if request.denoising_start is not None else set()
    needed = [name for name in takes if not spec.pictures[name].optional and name not in begun]
    for name in (name for name in needed if name not in pictures):
        raise UsageError("this model draws nothing without a picture", where=name, fix="give one")


def check_fast(spec: PipelineSpec, request: Request) -> None:
    """Raises UsageError where a fast decoder is asked for, and there is none."""
    if request.taesd and not spec.fast:
        what = "this bundle has no fast decoder."
        raise UsageError(what, where="taesd", fix="convert the checkpoint again with --taesd")


def check_chunk(
    spec: PipelineSpec, request: Request, frames: int, plans: Mapping[str, Sequence[Mapping[str, int]]]
) -> None:
    """Raises UsageError where frames are to be decoded so many at once that there are no plans for some of them;
    `plans` are their sizes, by component."""
    if request.decode_chunk is None:
        return
    roles = [role for role in (spec.fast if request.taesd else spec.after) if role.every == "chunk"]
    if not roles:
        raise UsageError("this model decodes no frames in chunks", where="decode_chunk", fix="leave it out")
    for role in roles:
        have = sorted({sizes.get("frames", 1) for sizes in plans.get(role.component, ())})
        if request.decode_chunk < 1 or sum(chunks_of(frames, have, request.decode_chunk)) != frames:
            known = " or ".join(map(str, have))
            what = f"the bundle does not decode {frames} frames so (got {request.decode_chunk} at once, it has {known})"
            raise UsageError(what, where="decode_chunk", fix=f"use {have[-1]}, or convert with --decode-chunk")


def pictures_begun_from(spec: PipelineSpec) -> set[str]:
    """The pictures that nothing but the beginning of a run needs: one that goes on from latents needs none of them."""
    kept = {step.moments for step in spec.before if isinstance(step, Sample) and step.keep == spec.latents.begin}
    begins: set[str] = set()
    others = {name for given in spec.pictures.values() for name in given.of}
    for role in spec.roles():
        read = {feed.name for feed in role.feed.values() if feed.kind == "picture"}
        (begins if kept & {*role.keep.values()} else others).update(read)
    return begins - others


def check_mask(spec: PipelineSpec, masked: bool, begin: str | None) -> None:
    """Raises UsageError for a mask without the picture of which it is a part: without a value to `begin` from."""
    if masked and begin is None and spec.latents.mask is not None:
        what = "a mask says which part of a picture is drawn anew, and no picture was given"
        raise UsageError(what, where=spec.latents.mask.picture, fix="give the picture, too, or leave the mask out")


def check_frames(spec: PipelineSpec, frames: int, plans: Mapping[str, Sequence[Mapping[str, int]]]) -> None:
    """Raises UsageError for a number of frames for which there are no plans; `plans` are their sizes, by component."""
    component = spec.denoise[0].roles[-1].component
    have = sorted({sizes.get("frames", 1) for sizes in plans.get(component, ())})
    if spec.latents.frames is not None and frames not in have:
        what = f"the bundle has no plans of so many (got {frames}, expected {' or '.join(map(str, have))})"
        raise UsageError(what, where=spec.latents.frames, fix=f"use {min(have, key=lambda one: abs(one - frames))}")


def picture_size(spec: PipelineSpec, request: Request, default: tuple[int, int]) -> tuple[int, int]:
    """(width, height) in pixels, each a multiple of `scale`: as asked, else those of the first of the pipeline's
    pictures that was given (rounded down, as diffusers does), else that of latents to go on from, else the default.

    Raises:
        UsageError: a side that cannot be drawn.
    """
    scale = spec.latents.scale
    pictures = request.given_pictures()
    first = next((pictures[name] for name in spec.pictures if name in pictures), None)
    usual = default if first is None else rounded_down(first, scale)
    if request.denoising_start is not None and request.latents is not None and request.latents.ndim == 4:
        usual = scale * request.latents.shape[3], scale * request.latents.shape[2]
    sizes = (
        usual[0] if request.width is None else request.width,
        usual[1] if request.height is None else request.height,
    )
    for name, value in zip(("width", "height"), sizes, strict=True):
        if value < scale or value % scale:
            what = f"not a size the model can draw (got {value}, expected a multiple of {scale})"
            raise UsageError(what, where=name, fix=f"use {multiples_near(value, scale)}")
    return sizes


def checked_latents(latents: np.ndarray | None, shape: tuple[int, ...], scale: int) -> np.ndarray:
    """Given latents as float32 of `shape`. Raises UsageError where they are missing, of another shape or not finite."""
    if latents is None:
        raise UsageError(
            "this model goes on from latents, and none were given",
            where="latents",
            fix="give those of the model before it",
        )
    if latents.shape != shape or latents.dtype.kind != "f":
        raise UsageError(
            f"wrong array (got {latents.dtype}{list(latents.shape)}, expected float32{list(shape)})",
            where="latents",
            fix=f"give latents of the picture's size divided by {scale}",
        )
    if not np.isfinite(latents).all():
        raise UsageError("some values are not finite (expected normal noise)", where="latents", fix="save them again")
    return latents.astype(np.float32)
