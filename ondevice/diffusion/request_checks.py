"""What a request asks of a pipeline, checked before anything runs: texts, pictures, sizes, latents."""

from __future__ import annotations

import numpy as np

from ondevice.bundle.pipeline import PipelineSpec, Sample
from ondevice.diffusion.image import rounded_down
from ondevice.diffusion.request import Request
from ondevice.errors import UsageError, multiples_near


def check_given(spec: PipelineSpec, request: Request) -> None:
    """Raises UsageError for a picture that the pipeline does not take, and a text or a picture that is missing."""
    if request.image is not None and "image" not in spec.pictures:
        raise UsageError("this model begins from no picture", where="image", fix="leave it out")
    texts, pictures = request.texts(), {"image": request.image}
    for name in (name for name, optional in spec.texts.items() if not optional and texts[name] is None):
        raise UsageError("this model draws nothing without this text", where=name, fix="give one; it may be empty")
    begun = pictures_begun_from(spec) if request.denoising_start is not None else set()
    needed = [name for name, given in spec.pictures.items() if not given.optional and name not in begun]
    for name in (name for name in needed if pictures[name] is None):
        raise UsageError("this model draws nothing without a picture", where=name, fix="give one")


def pictures_begun_from(spec: PipelineSpec) -> set[str]:
    """The pictures that nothing but the beginning of a run needs: one that goes on from latents needs none of them."""
    kept = {step.moments for step in spec.before if isinstance(step, Sample) and step.keep == spec.latents.begin}
    begins: set[str] = set()
    others = {name for given in spec.pictures.values() for name in given.of}
    for role in spec.roles():
        read = {feed.name for feed in role.feed.values() if feed.kind == "picture"}
        (begins if kept & {*role.keep.values()} else others).update(read)
    return begins - others


def picture_size(spec: PipelineSpec, request: Request, default: tuple[int, int]) -> tuple[int, int]:
    """(width, height) in pixels, each a multiple of `scale`: as asked, else the image's (rounded down, as diffusers
    does), else that of latents to go on from, else the default.

    Raises:
        UsageError: a side that cannot be drawn.
    """
    scale = spec.latents.scale
    usual = default if request.image is None else rounded_down(request.image, scale)
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
