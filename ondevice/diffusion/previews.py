"""Small pictures of what is being drawn: pixels of latents, by a sum of their channels or by the bundle's fast
decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from ondevice.bundle.pipeline import LATENTS, PipelineSpec, Role
from ondevice.diffusion.after import given_to_decoders
from ondevice.diffusion.image import to_pixels
from ondevice.diffusion.values import Runner
from ondevice.errors import UsageError

By = Literal["rgb", "taesd"]
"""How: `rgb`, a pixel per place of the latents, which costs nothing; `taesd`, the fast decoder's picture."""
WAYS: tuple[By, ...] = get_args(By)
Preview = Callable[[np.ndarray], np.ndarray]
"""float32 [frames, channels, height / scale, width / scale] -> uint8 [h, w, 3], of the first frame."""


def way_of(spec: PipelineSpec, asked: str | None) -> By:
    """How a pipeline's latents are shown: as asked, else by a sum where one is known, else by the fast decoder.

    Raises:
        UsageError: what is asked for is not there, or nothing is.
    """
    if asked not in (None, *WAYS):
        raise UsageError(f"unknown (got {asked!r}, expected {' or '.join(WAYS)})", where="preview", fix="use rgb")
    have = {"rgb": bool(spec.latents.preview), "taesd": bool(spec.fast)}
    for way in WAYS if asked is None else [way for way in WAYS if way == asked]:
        if have[way]:
            return way
    lacks = {
        "rgb": "no sum of this model's channels is known to be a picture",
        "taesd": "this bundle has no fast decoder",
    }
    reasons = " and ".join(lacks[way] for way in WAYS if asked in (None, way))
    fix = "convert with --taesd" if not spec.fast else "use taesd"
    raise UsageError(
        f"{reasons}.", where="preview", fix=fix if asked != "taesd" or not have["rgb"] else f"use rgb, or {fix}"
    )


def previewer(
    spec: PipelineSpec, session: Runner, plans: Mapping[str, Sequence[Mapping[str, int]]], by: str | None = None
) -> Preview:
    """What shows latents of a pipeline.

    Args:
        session: runs the fast decoder, where that is what shows them.
        plans: sizes of the plans of each component.
        by: one of WAYS; None: as `way_of` has it.

    Raises:
        UsageError: as `way_of`; or the fast decoder reads more than latents. What it gives raises OnDeviceError where
            the decoder has no plan of the latents' size, or fails.
    """
    if way_of(spec, by) == "rgb":
        return lambda latents: by_sum(spec.latents.preview, latents)
    known = {LATENTS}
    for role in spec.fast:
        if more := [feed.name or feed.kind for feed in role.feed.values() if feed.name not in known]:
            what = f"the fast decoder reads {more[0]}, which is not there before a picture is drawn"
            raise UsageError(what, where="preview", fix="use rgb")
        known.update(role.keep.values())
    return lambda latents: _decoded(spec, session, plans, latents[:1])


def by_sum(factors: Sequence[Sequence[float]], latents: np.ndarray) -> np.ndarray:
    """Red, green and blue of each place: its channels times `factors`, summed in their order, and the last of these."""
    first = latents[0].astype(np.float32)
    colours = []
    for *row, constant in factors:
        total = np.zeros(first.shape[1:], np.float32)
        for factor, channel in zip(row, first, strict=True):
            total = total + np.float32(factor) * channel
        colours.append(total + np.float32(constant))
    return np.asarray(to_pixels(np.stack(colours)[np.newaxis])[0])


def _decoded(
    spec: PipelineSpec, session: Runner, plans: Mapping[str, Sequence[Mapping[str, int]]], latents: np.ndarray
) -> np.ndarray:
    """The picture that the fast decoder makes."""
    values: dict[str, Any] = {LATENTS: given_to_decoders(spec.latents, latents.astype(np.float32))}
    place = {"batch": 1, "height": latents.shape[2], "width": latents.shape[3], "frames": 1}

    def run(role: Role, on: Callable[..., Mapping[str, Any]]) -> None:
        names = plans[role.component][0]
        fed = {port: values[feed.name] for port, feed in role.feed.items()}
        made = on(role.component, fed, **{name: size for name, size in place.items() if name in names})
        values.update({name: made[port] for port, name in role.keep.items()})

    *others, last = spec.fast
    for role in others:
        run(role, session.run_on)
    run(last, session.run)
    return np.asarray(to_pixels(values[spec.gives])[0])
