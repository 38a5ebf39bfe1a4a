"""Jobs: which plans a bundle gets, each a component at fixed sizes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ondevice.bundle.format import MAX_PLANS, MAX_SIZE
from ondevice.bundle.manifest import PlanEntry
from ondevice.bundle.pipeline import PipelineSpec, Role
from ondevice.compiler.picture import spec_of
from ondevice.converters import Model
from ondevice.converters.architectures.vae_bands import LEAST
from ondevice.errors import GraphError, PlanError, UsageError, multiples_near

log = logging.getLogger(__name__)
LARGEST = 2048  # pixels per side of a picture that nobody asked for
BAND = 64  # rows of pixels in which a decoder in bands works: an eighth of a 512x512 picture
MOST_CHUNKS = 8  # of a text, each as long as a text encoder takes at once
CHUNK = 7  # frames that are decoded at once, where nobody says it
SMALLER = "use a smaller --size, or another --target"


@dataclass(frozen=True, slots=True)
class Job:
    """One plan to make: a graph at fixed sizes."""

    component: str
    sizes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Frames:
    """How many frames films have; none: as many as the model was trained with. `chunk` is how many are decoded at
    once; None: CHUNK, or all where they are fewer."""

    counts: tuple[int, ...] = ()
    chunk: int | None = None

    def chunks(self) -> tuple[int, ...]:
        """The numbers of frames that are decoded at once, largest first: a chunk's, and what is left after the last."""
        sizes = (min(self.chunk or CHUNK, count) for count in self.counts)
        found = {rest for count, size in zip(self.counts, sizes, strict=True) for rest in (size, count % size) if rest}
        return tuple(sorted(found, reverse=True))


Part = TypeVar("Part", Job, PlanEntry)


def training_size(given: int | list[int] | None, scale: int) -> tuple[int, int]:
    """(width, height) in pixels that a model was trained at;
    its config says so in latents, as one number or as [height, width].

    Raises:
        UsageError: it says nothing, or more than LARGEST pixels per side.
    """
    if given is None:
        raise UsageError(
            "the UNet's config has no size to go by (sample_size is null).", where="--size", fix="name a size"
        )
    height, width = given if isinstance(given, list) else (given, given)
    if max(height, width) * scale > LARGEST:
        what = (
            f"the UNet's config asks for {width * scale}x{height * scale} pixels (its sample_size of {given} "
            "may be in pixels itself)."
        )
        raise UsageError(what, where="--size", fix="name a size, such as 512x512")
    return width * scale, height * scale


def jobs(
    spec: PipelineSpec,
    sized: Callable[[str], bool],
    sizes: Sequence[tuple[int, int]],
    lengths: Callable[[str], Sequence[int]] = lambda component: (),
    pieces: int = 1,
    frames: Callable[[str], Sequence[int]] = lambda component: (),
) -> Iterator[Job]:
    """The plans of a bundle: what the loop runs is there for one pass and for all passes, but for one pass alone where
    it has frames, which are work enough for a device; the rest runs once per text or picture.

    Args:
        sized: whether a component has a height and a width.
        sizes: (width, height) in pixels.
        lengths: of the texts that a component reads, in tokens; none where it has plans of one length.
        pieces: of how many latents a side is a multiple.
        frames: that a component has plans for; none where it has no frames.

    Raises:
        UsageError: a size is not a positive multiple of the VAE's scale and pieces, or larger than a bundle can say.
    """
    scale, step = spec.latents.scale, spec.latents.scale * pieces
    in_loop = [role.component for role in spec.loop_roles()]
    others = [role.component for role in (*spec.after, *spec.fast)] + [
        step.component for step in spec.before if isinstance(step, Role)
    ]
    found: dict[str, set[int]] = {component: {1} for component in (*in_loop, *others)}
    for loop in spec.denoise:
        for role in loop.roles:
            found[role.component] |= set() if frames(role.component) else {len(loop.passes)}
    todo = {component: sorted(batches) for component, batches in found.items()}

    def jobs_of(component: str, place: dict[str, int]) -> Iterator[Job]:
        texts: list[dict[str, int]] = [{"tokens": length} for length in lengths(component)] or [{}]
        counts: list[dict[str, int]] = [{"frames": count} for count in frames(component)] or [{}]
        yield from (
            Job(component, {"batch": batch} | place | count | text)
            for count in counts
            for text in texts
            for batch in todo[component]
        )

    yield from itertools.chain(*(jobs_of(component, {}) for component in todo if not sized(component)))
    for width, height in dict.fromkeys(sizes):
        for pixels in (width, height):
            if pixels <= 0 or pixels % step:
                what = f"{width}x{height} is not a multiple of {step} pixels (got {pixels})."
                raise UsageError(what, where="--size", fix=f"use {multiples_near(pixels, step)}")
        if max(width, height) > MAX_SIZE * scale:
            what = (
                f"{width}x{height} is larger than a bundle can say (expected at most "
                f"{MAX_SIZE * scale} pixels per side)."
            )
            raise UsageError(what, where="--size", fix="use a smaller size")
        latent = {"height": height // scale, "width": width // scale}
        yield from itertools.chain(*(jobs_of(component, latent) for component in todo if sized(component)))


def band_jobs(model: Model, spec: PipelineSpec, sizes: Sequence[tuple[int, int]], rows: int) -> Iterator[Job]:
    """The stages of a decoder that works on bands of at most `rows` rows of pixels.

    Raises:
        UsageError: exported graphs have no stages, or the bands are too low.
    """
    if not LEAST <= rows <= MAX_SIZE:
        wrong = f"too low (expected at least {LEAST})" if rows < LEAST else f"too high (expected at most {MAX_SIZE})"
        raise UsageError(f"bands of {rows} rows are {wrong}.", where="--tile-vae", fix="use 64")
    scale = spec.latents.scale
    for width, height in dict.fromkeys(sizes):
        latent = {"batch": 1, "height": height // scale, "width": width // scale}
        for stage in range(model.stages(latent["height"], latent["width"], spec.decoder.component)):
            yield Job(spec.decoder.component, latent | {"stage": stage + 1, "rows": rows})


def bundle_jobs(
    model: Model,
    sizes: Sequence[tuple[int, int]],
    tile_vae: int,
    fallbacks: list[str],
    chunks: int = 1,
    film: Frames | None = None,
) -> list[Job]:
    """Every plan of a bundle, in its order.

    Args:
        sizes: (width, height) in pixels; none: the size that the model was trained at.
        tile_vae: rows of a band, as `Recipe` has it.
        fallbacks: gets a line for each plan that the checkpoint has no graph for, as `plannable` says it.
        chunks, film: as `Recipe` has them.

    Raises:
        UsageError: a size, a height of bands, longer texts or so many frames cannot be had, or there are more plans
            than a bundle can hold.
        GraphError: the checkpoint has no graph of a part that every picture needs.
    """
    spec = spec_of(model)
    sizes = sizes or [
        model.family.size
        or training_size(model.config(spec.denoise[0].roles[-1].component).get("sample_size"), spec.latents.scale)
    ]
    _check_chunks(model, chunks)
    film = checked_frames(model, spec, film or Frames())
    in_chunks = {role.component for role in (*spec.after, *spec.fast) if role.every == "chunk"}

    def frames(component: str) -> tuple[int, ...]:
        if not model.framed(component):
            return ()
        return film.chunks() if component in in_chunks else film.counts

    def lengths(component: str) -> list[int]:
        tokens = model.tokens(component) if chunks > 1 else 0
        return [count * tokens for count in range(1, chunks + 1)] if tokens else []

    pieces = model.family.pieces(model.configs)
    todo = plannable(model, spec, jobs(spec, model.sized, sizes, lengths, pieces, frames), fallbacks)
    todo += [Job(share, job.sizes) for job in todo for share in model.shares(job.component)]
    if tile_vae:
        todo += band_jobs(model, spec, sizes, tile_vae)
    if len(todo) > MAX_PLANS:
        what = (
            f"{len(todo)} plans are too many for a bundle (expected at most {MAX_PLANS}, of which a size has several)."
        )
        raise UsageError(what, where="--size", fix="name fewer sizes")
    return todo


def checked_frames(model: Model, spec: PipelineSpec, film: Frames) -> Frames:
    """`film` with as many frames as the model was trained with where none are asked for.

    Raises:
        UsageError: the model draws pictures, or no films of so many frames.
    """
    name = spec.latents.frames
    if name is None:
        if film != Frames():
            flag = "--frames" if film.counts else "--decode-chunk"
            raise UsageError("the model draws pictures, and no films.", where=flag, fix="leave it out")
        return film
    own = int(model.config(spec.denoise[0].roles[-1].component)["num_frames"])
    most = int(spec.numbers[name].high)
    if film.chunk is not None and film.chunk < 1:
        what = f"no number of frames (got {film.chunk}, expected 1 or more)."
        raise UsageError(what, where="--decode-chunk", fix=f"use {CHUNK}, or leave it out")
    for count in film.counts:
        if not 1 <= count <= most:
            what = f"no number of frames (got {count}, expected 1 to {most})."
            raise UsageError(what, where="--frames", fix=f"use {own}")
    return replace(film, counts=tuple(dict.fromkeys(film.counts)) or (own,))


def _check_chunks(model: Model, chunks: int) -> None:
    if not 1 <= chunks <= MOST_CHUNKS:
        what = f"not a number of chunks (got {chunks}, expected 1 to {MOST_CHUNKS})."
        raise UsageError(what, where="--chunks", fix="use 3")
    if chunks > 1 and model.checkpoint.graphs:
        raise UsageError(
            "an exported graph reads texts of one length.",
            where="--chunks",
            fix="convert from weights, or leave it out",
        )
    if chunks > 1 and not any(model.tokens(role) for role in model.roles):
        what = "its text encoders take texts of several lengths at once, and so one chunk alone."
        raise UsageError(what, where="--chunks", fix="leave it out")


def largest_jobs(model: Model, size: tuple[int, int] | None) -> list[Job]:
    """One job per component, of one size in pixels (None: the training size):
    the largest batch, which is the one guidance runs."""
    largest: dict[str, Job] = {}
    for job in bundle_jobs(model, [size] if size else [], 0, []):
        if job.component not in largest or job.sizes["batch"] > largest[job.component].sizes["batch"]:
            largest[job.component] = job
    return list(largest.values())


def only(found: Sequence[Part], component: str | None) -> list[Part]:
    """Those of one component, or all. Raises UsageError where there is none."""
    chosen = [item for item in found if component in (None, item.component)]
    if not chosen:
        have = ", ".join(dict.fromkeys(item.component for item in found))
        raise UsageError(f"there is no {component} (it has {have}).", where="--component", fix="name one of these")
    return chosen


def plannable(model: Model, spec: PipelineSpec, todo: Iterable[Job], fallbacks: list[str]) -> list[Job]:
    """Those jobs that the checkpoint has graphs for.
    Weights make every size; a folder of ONNX files may be fixed to one, or lack a part.

    What is left out is logged and added to `fallbacks`, with what a bundle cannot do without it.

    Raises:
        GraphError: the text encoder, the decoder, or every UNet of a size would be missing.
    """
    kept, missing = [], []
    for job in todo:
        reason = model.lacks(job.component, **job.sizes)
        kept += [job] if reason is None else []
        missing += [(job, reason)] if reason is not None else []
    try:
        fallbacks += left_out(spec, kept, missing)
    except PlanError as error:
        fix = "choose the --size that it is fixed to, or export it again with dynamic axes"
        raise GraphError(error.what, where=f"{model.checkpoint.source}: {error.where}", fix=fix) from None
    return kept


def left_out(spec: PipelineSpec, kept: Sequence[Job], missing: Iterable[tuple[Job, str]]) -> list[str]:
    """What a bundle cannot do without the plans of `missing`, each with its reason; logged, too.

    Raises:
        PlanError: no picture could be drawn without one.
    """
    found, in_loop = [], {role.component for role in spec.loop_roles()}
    for job, reason in missing:
        others = [other for other in kept if other.component == job.component and _place(other) == _place(job)]
        in_bands = "stage" not in job.sizes and any("stage" in other.sizes for other in others)
        if in_bands:
            without = "pictures decoded in bands only, which is slower"
        elif any(role.component == job.component for role in spec.fast):
            without = "no fast decoder (--taesd) at this size"
        elif spec.begins_from_picture(job.component) and not (job.component in in_loop and others):
            without = f"no --{'control' if job.component in in_loop else 'init-image'} at this size"
        elif others and _length(job) > max(map(_length, others)):
            without = f"no texts of {job.sizes['tokens']} tokens at this size"
        elif "frames" in job.sizes:  # films of as many as the others take would end with frames that no plan takes
            fix = "use fewer --frames, or a smaller --size" if job.component in in_loop else SMALLER
            raise PlanError(f"{reason}.", where=job.component, fix=fix)
        elif job.component in in_loop and others:
            without = (
                "no pictures without guidance" if job.sizes["batch"] == 1 else "guidance in two passes, which is slower"
            )
        else:
            raise PlanError(f"{reason}.", where=job.component, fix=SMALLER)
        found.append(f"{job.component}: {reason}; left out, so the bundle has {without}")
        log.warning("%s", found[-1])
    return found


def _length(job: Job) -> int:
    return job.sizes.get("tokens", 0)


def _place(job: Job) -> dict[str, int]:
    return {name: size for name, size in job.sizes.items() if name in ("height", "width")}
