"""The whole way through: a checkpoint becomes a bundle. Each arrow of the design is one call here."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ondevice.base.publish import check_space, foreign, hidden_folder, published, recover
from ondevice.bundle.format import MAX_PLANS, MAX_SIZE
from ondevice.bundle.memory import weight_sources
from ondevice.bundle.weights import WeightSource
from ondevice.bundle.writer import writable_target, write_bundle
from ondevice.compiler.fallbacks import of_rules, rewritten, settle
from ondevice.converters import COMPONENTS, Model, build
from ondevice.converters.architectures.vae_bands import LEAST
from ondevice.converters.component import Checkpoint
from ondevice.converters.families import family_of
from ondevice.converters.onnx_export import save_onnx
from ondevice.diffusion.samplers.pipeline import choose
from ondevice.errors import GraphError, UsageError, multiples_near
from ondevice.graph.verify import static_shape
from ondevice.lower import lower
from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.program import Program
from ondevice.plan import plan
from ondevice.plan.plan import Plan
from ondevice.rewrite import METHODS
from ondevice.rewrite.statistics import given_statistics
from ondevice.target import Target, load_target

log = logging.getLogger(__name__)
LARGEST = 2048  # pixels a side of a picture that nobody asked for
Progress = Callable[[str, int, int], None]  # what, done, of


@dataclass(frozen=True, slots=True)
class Job:
    """One plan to make: a graph at fixed sizes."""

    component: str
    sizes: dict[str, int]


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a player must know of the model beside its plans; becomes the bundle's `model` object."""
    text, unet, vae = (checkpoint.components[name].config for name in ("text_encoder", "unet", "vae"))
    return {
        "family": checkpoint.family,
        "guidance_scale": family_of(checkpoint.family).guidance_scale,
        # Its name alone: a bundle is given away, and the rest of the path is nobody's business.
        "source": os.path.basename(os.path.abspath(checkpoint.source)) or "unknown",
        "latent_channels": vae["latent_channels"],
        "max_tokens": text["max_position_embeddings"],
        "prediction_type": checkpoint.scheduler.get("prediction_type", "epsilon"),
        "sample_size": unet.get("sample_size"),
        "scaling_factor": vae["scaling_factor"],
        "text_width": text["hidden_size"],
        "vae_scale": 2 ** (len(vae["block_out_channels"]) - 1),
    }


def training_size(about: Mapping[str, Any]) -> tuple[int, int]:
    """(width, height) in pixels that the UNet was trained at; its config says so in latents, as one number or as [height, width].

    Raises:
        UsageError: it says nothing, or more than LARGEST pixels a side.
    """
    given, scale = about["sample_size"], about["vae_scale"]
    if given is None:
        raise UsageError("the UNet's config has no size to go by (sample_size is null).", where="--size", fix="name a size")
    height, width = given if isinstance(given, list) else (given, given)
    if max(height, width) * scale > LARGEST:
        what = f"the UNet's config asks for {width * scale}x{height * scale} pixels (its sample_size of {given} may be in pixels itself)."
        raise UsageError(what, where="--size", fix="name a size, such as 512x512")
    return width * scale, height * scale


def jobs(scale: int, sizes: Sequence[tuple[int, int]]) -> Iterator[Job]:
    """The plans of a bundle: guidance runs the UNet at batch 2, none at batch 1; the rest runs one picture at a time.

    Raises:
        UsageError: a size is not a positive multiple of the VAE's scale, or larger than a bundle can say.
    """
    yield Job("text_encoder", {"batch": 1})
    for width, height in dict.fromkeys(sizes):
        for pixels in (width, height):
            if pixels <= 0 or pixels % scale:
                what = f"{width}x{height} is not a multiple of {scale} pixels (got {pixels})."
                raise UsageError(what, where="--size", fix=f"use {multiples_near(pixels, scale)}")
        if max(width, height) > MAX_SIZE * scale:
            what = f"{width}x{height} is larger than a bundle can say (expected at most {MAX_SIZE * scale} pixels a side)."
            raise UsageError(what, where="--size", fix="use a smaller size")
        latent = {"height": height // scale, "width": width // scale}
        yield Job("unet", {"batch": 1} | latent)
        yield Job("unet", {"batch": 2} | latent)
        yield Job("vae_decoder", {"batch": 1} | latent)
        yield Job("vae_encoder", {"batch": 1} | latent)


def band_jobs(model: Model, scale: int, sizes: Sequence[tuple[int, int]], rows: int) -> Iterator[Job]:
    """The stages of a decoder that works on bands of at most `rows` rows of pixels.

    Raises:
        UsageError: exported graphs have no stages, or the bands are too low.
    """
    if not LEAST <= rows <= MAX_SIZE:
        wrong = f"too low (expected at least {LEAST})" if rows < LEAST else f"too high (expected at most {MAX_SIZE})"
        raise UsageError(f"bands of {rows} rows are {wrong}.", where="--tile-vae", fix="use 64")
    for width, height in dict.fromkeys(sizes):
        latent = {"batch": 1, "height": height // scale, "width": width // scale}
        for stage in range(model.stages(latent["height"], latent["width"])):
            yield Job("vae_decoder", latent | {"stage": stage + 1, "rows": rows})


def plannable(model: Model, todo: Iterable[Job], fallbacks: list[str]) -> list[Job]:
    """Those jobs that the checkpoint has graphs for. Weights make every size; a folder of ONNX files may be fixed to one, or lack a part.

    What is left out is logged and added to `fallbacks`, with what a bundle cannot do without it.

    Raises:
        GraphError: the text encoder, the decoder, or every UNet of a size would be missing.
    """
    kept, missing = [], []
    for job in todo:
        reason = model.lacks(job.component, **job.sizes)
        kept += [job] if reason is None else []
        missing += [(job, reason)] if reason is not None else []
    for job, reason in missing:
        instead = any(_place(other) == _place(job) for other in kept if other.component == job.component == "unet")
        if job.component != "vae_encoder" and not instead:
            raise GraphError(
                f"{reason}.",
                where=f"{model.checkpoint.source}: {job.component}",
                fix="choose the --size that it is fixed to, or export it again with dynamic axes",
            )
        fallbacks.append(f"{job.component}: {reason}; left out, so the bundle has {_without(job)}")
        log.warning("%s", fallbacks[-1])
    return kept


def _place(job: Job) -> tuple[int, int]:
    return job.sizes["height"], job.sizes["width"]


def _without(job: Job) -> str:
    """What a bundle cannot do without a plan."""
    if job.component == "vae_encoder":
        return "no --init-image at this size"
    return "no pictures without guidance" if job.sizes["batch"] == 1 else "guidance in two passes, which is slower"


def storage_of(component: str, dtype: str) -> str:
    """The text encoder stays float32: it is small, runs once, and its rounding would reach every step."""
    return "f32" if component == "text_encoder" else dtype


def compile_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    dtype: str = "f16",
    target: str | Target = "host",
    without: Collection[str] = (),
    strict: bool = False,
    force: bool = False,
    tile_vae: int = 0,
    weights_as: str = "",
    sampler: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build, lower, plan and write every component of `checkpoint` at every size.

    Args:
        sizes: (width, height) in pixels; the size the model was trained at by default.
        dtype: storage of UNet and VAE, "f16" or "f32". Arithmetic is float32 in both.
        target: a name of ondevice/targets/, or a target: which methods are taken and which tunables the kernels get.
        without: families of fusion rules to leave out (`ondevice.rewrite.FAMILIES`, or "all").
        strict: refuse fallbacks: parts of the checkpoint that are not used, matches that a rule left alone, general kernels.
        force: replace an existing bundle at `out`.
        weights_as: "i8": the larger weights of products and convolutions as int8, which only targets with panels read; "": as `dtype`.
        tile_vae: add plans that decode in bands of at most so many rows; 0: none.
        sampler: what the bundle draws with by default; None: the checkpoint's own, or the nearest to it with a fallback that says so.

    Raises:
        OnDeviceError: any stage's error; nothing is left at `out` then but what was there before.
    """
    writable_target(out, force)
    model, about = build(checkpoint), facts(checkpoint)
    kernels, chosen = load_all(), load_target(target)
    plans: list[Plan] = []
    weights: dict[str, WeightSource] = {}
    rewrites: dict[str, dict[str, Any]] = {}
    fallbacks = list(checkpoint.notes)
    scheduler = choose(checkpoint.scheduler, sampler, checkpoint.source)
    fallbacks += [scheduler.fallback] if scheduler.fallback else []
    for line in (*scheduler.notes, *[scheduler.fallback] * bool(scheduler.fallback)):
        log.warning("%s: %s", checkpoint.source, line)
    todo = plannable(model, jobs(about["vae_scale"], sizes or [training_size(about)]), fallbacks)
    if tile_vae:
        todo += band_jobs(model, about["vae_scale"], sizes or [training_size(about)], tile_vae)
    if len(todo) > MAX_PLANS:
        what = f"{len(todo)} plans are too many for a bundle (expected at most {MAX_PLANS}, of which a size has four)."
        raise UsageError(what, where="--size", fix="name fewer sizes")
    for done, job in enumerate(todo):
        if progress:
            progress("planning", done, len(todo))
        program, row = lower_job(model, job, storage_of(job.component, dtype), kernels, chosen, without, weights_as)
        rewrites.setdefault(job.component, row)
        fallbacks += of_rules(job.component, row) + program.fallbacks
        log.info("%s %s: %s", job.component, " ".join(f"{name}={size}" for name, size in job.sizes.items()), tuned_line(program))
        plans.append(plan(program, storage=storage_of(job.component, dtype)))
        weights = weight_sources(program) | weights
    settle(fallbacks, strict)
    return write_bundle(
        out,
        plans=plans,
        weights=weights,
        tokenizer=checkpoint.tokenizer,
        scheduler=scheduler.config,
        samplers={f"{scheduler.sampler}_{scheduler.table.steps}": scheduler.table.to_json()},
        model=about | {"target": chosen.name},
        rewrites=rewrites,
        progress=partial(progress, "writing weights") if progress else None,
        force=force,
    )


def export_onnx(
    checkpoint: Checkpoint,
    out: Path,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    without: Collection[str] = (),
    strict: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """The rewritten graphs as `out`/COMPONENT/model.onnx with their weights beside them: float32, static shapes, the UNet at batch 2.

    Fused ops have function bodies, so any ONNX runtime runs them; `without` "all" gives the plain graphs. The folder appears whole or
    not at all.

    Args:
        without, strict, force: as `compile_bundle` takes them; no kernels are chosen here, and no methods.

    Raises:
        UsageError: more than one size, or one that the VAE's scale does not divide; or `out` is not ours to replace.
        GraphError: a file cannot be written.
    """
    about = facts(checkpoint)
    if len(sizes) > 1:
        what = f"{len(sizes)} sizes given (expected one: ONNX graphs here have static shapes)."
        raise UsageError(what, where="--size", fix="name one size")
    model, out, fallbacks = build(checkpoint), out.absolute(), list(checkpoint.notes)
    todo = plannable(model, jobs(about["vae_scale"], sizes or [training_size(about)]), fallbacks)
    if any(job.component == "unet" and job.sizes["batch"] == 2 for job in todo):
        todo = [job for job in todo if job.component != "unet" or job.sizes["batch"] == 2]
    writable_folder(out, force)
    graphs = {job.component: model.graph(job.component, **job.sizes) for job in todo}  # their weights are lazy
    target = load_target("host")  # of which nothing is asked without methods
    for component, graph in graphs.items():
        fallbacks += of_rules(component, rewritten(graph, target, (*without, *METHODS)))
    settle(fallbacks, strict)
    tensors = [value.const_value for graph in graphs.values() for value in graph.graph.initializers.values()]
    check_space(out.parent, sum(tensor.nbytes for tensor in tensors if tensor is not None), "the graphs do", GraphError)
    with published(out, GraphError, partial(_check_folder, out=out, force=force)) as folder:
        for done, (component, graph) in enumerate(graphs.items()):
            if progress:
                progress("writing graphs", done, len(graphs))
            (folder / component).mkdir()
            save_onnx(graph, folder / component / "model.onnx")
    return out


def writable_folder(out: Path, force: bool) -> None:
    """Raise UsageError or GraphError unless graphs can be written to the folder `out`: cheap, so that it is asked before the work, too."""
    out = out.absolute()
    if not out.parent.is_dir():
        raise UsageError(f"the folder {out.parent} does not exist.", where="--out", fix="create it, or choose another")
    recover(out)
    if out.exists() or out.is_symlink():
        _check_folder(out, out, force)
    with hidden_folder(out, GraphError):  # permissions do not say it all: disks are read-only, names too long
        return


def _check_folder(there: Path, out: Path, force: bool) -> None:
    """Refuse what is not ours to replace: `there`, which is at `out`, or was until a moment ago."""
    files = [f"{component}/model.onnx{ending}" for component in COMPONENTS for ending in ("", ".data")]
    if not there.is_dir() or (other := foreign(there, files)):
        what = f"{out} holds {other}, which is not ours." if there.is_dir() else f"{out} is there already and no folder."
        raise UsageError(what, where="--out", fix="choose another")
    if any(there.iterdir()) and not force:
        raise UsageError(f"{out} is there already.", where="--out", fix="choose another, or replace it with --force")


def tuned_line(program: Program) -> str:
    """Where the program's calls have their tunables from, most of them first."""
    parts = [f"{count} from {source}" for source, count in sorted(program.tuned.items(), key=lambda item: (-item[1], item[0]))]
    return f"tunables of {len(program.calls)} dispatches: {', '.join(parts) or 'none'}"


def lower_job(
    model: Model,
    job: Job,
    storage: str,
    kernels: Mapping[str, KernelFile],
    target: Target,
    without: Collection[str],
    weights_as: str = "",
) -> tuple[Program, dict[str, Any]]:
    """The program of one job, and what became of the rules: its graph, rewritten and lowered."""
    graph = model.graph(job.component, **job.sizes)
    row = rewritten(graph, target, without)
    if "stage" in job.sizes:
        given_statistics(graph)
        _between_stages(graph, storage)
    program = lower(graph, job.component, storage=storage, kernels=kernels, target=target, weights=weights_as)
    program.sizes = dict(job.sizes)
    return program, row


def _between_stages(graph: ir.Model, storage: str) -> None:
    """Pictures that go from stage to stage are passed as they are stored: what a player keeps of them would be twice as large."""
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        if storage == "f16" and len(static_shape(value)) == 4 and value.name not in ("latent_sample", "sample"):
            value.type = ir.TensorType(ir.DataType.FLOAT16)
