"""Rewritten graphs in another format than bundles, with all that drawing from them takes: a folder."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ondevice.base.publish import check_space, foreign, hidden_folder, published, recover
from ondevice.compiler.compile import Progress
from ondevice.compiler.fallbacks import settle
from ondevice.compiler.jobs import bundle_jobs
from ondevice.compiler.picture import about, pipeline_of, scheduler_of, tokenizers
from ondevice.compiler.programs import Fused, fused_graphs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.converters.families.controlled import nets_of
from ondevice.errors import BundleError, GraphError, UsageError
from ondevice.export.manifest import MANIFEST, dump_manifest, read_manifest
from ondevice.export.onnx.dynamic import sampled
from ondevice.export.options import FORMATS, Format, Options
from ondevice.graph.origin import file_origin_of

log = logging.getLogger(__name__)
BYTES = {"fp32": 4, "fp16": 2, "int8": 1, "int4": 0.6, "pal4": 0.5, "pal6": 0.75, "pal8": 1}  # of a weight


def export(
    checkpoint: Checkpoint,
    out: Path,
    format: Format,
    options: Options | None = None,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    strict: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write every component of `checkpoint` in `format` into the folder `out`: at one picture size, the UNet for all
    passes of guidance. The folder appears whole or not at all.

    Args:
        sizes, strict, force: as `compile_bundle` takes them; no kernels are chosen here, so methods mean nothing.

    Raises:
        UsageError: an option that the format has not, or has not with ControlNets; more than one size, or one that the
            VAE's scale does not divide; or `out` is not ours to replace.
        GraphError: a file cannot be written, or the format cannot hold what is in a graph.
    """
    options = format.checked(options or Options())
    writer, dynamic = format.writer(), bool(options.flags.get("dynamic"))
    if len(sizes) > 1:
        what = f"{len(sizes)} sizes given (expected one: {format.what} have static shapes)."
        raise UsageError(what, where="--size", fix="name one size")
    if dynamic and nets_of(checkpoint.components):
        what = "what ControlNets give has sides that are rounded up, which no free size can be made of."
        raise UsageError(what, where="--dynamic", fix="leave it out and name one --size, or leave --controlnet out")
    model, out, fallbacks = build(checkpoint, published=True), out.absolute(), list(checkpoint.notes)
    scheduler = scheduler_of(model, options.sampler)
    fallbacks += [scheduler.fallback] if scheduler.fallback else []
    largest = {job.component: job for job in bundle_jobs(model, sizes, 0, fallbacks)}  # its largest batch comes last
    writable_folder(out, force)
    recipe = Recipe(without=[*options.without, *format.without])
    graphs: list[list[Fused]] = []  # of a component, at several sizes where it is to take every one; weights are lazy
    for job in largest.values():
        graphs.append(list(fused_graphs(model, recipe, sampled(model, job) if dynamic else [job])))
        fallbacks += graphs[-1][0].fallbacks
    settle(fallbacks, strict)
    check_space(out.parent, _bytes([fused for fused, *_ in graphs], options), "the graphs do", GraphError)
    with published(out, GraphError, partial(_check_folder, out=out, force=force)) as folder:
        entries = []
        for done, (fused, *others) in enumerate(graphs):
            if progress:
                progress(f"writing {format.what}", done, len(graphs))
            precise = format.precise and model.precise(fused.job.component)
            own = replace(options, dtype="fp32") if precise else options
            sizes_too = {"others": [other.graph for other in others]} if others else {}
            entries.append(writer.write(fused.graph, fused.job, folder, own, **sizes_too))
        cutters = {}
        for name, one in tokenizers(checkpoint).items():
            (folder / name).mkdir()
            for file, data in one.files.items():
                (folder / name / file).write_bytes(data)
            cutters[name] = {"folder": name, "length": one.length}
        writer.finish(model, folder, options)
        pipeline = pipeline_of(model, set(largest), scheduler.sampler, scheduler.table.steps)
        place = next(job.sizes for job in largest.values() if "height" in job.sizes)
        facts = {
            "model": about(checkpoint),
            "size": [pipeline["latents"]["scale"] * place[side] for side in ("width", "height")],
            "pipeline": pipeline,
            "scheduler": scheduler.config,
            "tokenizers": cutters,
        }
        (folder / MANIFEST).write_bytes(dump_manifest(format.name, options.said(), entries, folder, facts))
    return out


def _bytes(graphs: Collection[Fused], options: Options) -> int:
    """About what the weights take."""
    values = [value for fused in graphs for value in fused.graph.graph.initializers.values()]
    tensors = [value.const_value for value in values if value.const_value is not None]
    if options.flags.get("link-weights"):
        tensors = [tensor for tensor in tensors if file_origin_of(tensor) is None]
    return int(sum(tensor.size for tensor in tensors) * BYTES.get(options.weights or options.dtype, 4))


def writable_folder(out: Path, force: bool) -> None:
    """Raise UsageError or GraphError unless graphs can be written to the folder `out`:
    cheap, so that it is asked before the work, too."""
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
    if not there.is_dir() or (other := foreign(there, _ours(there))):
        what = (
            f"{out} holds {other}, which is not ours." if there.is_dir() else f"{out} is there already and no folder."
        )
        raise UsageError(what, where="--out", fix="choose another")
    if any(there.iterdir()) and not force:
        raise UsageError(f"{out} is there already.", where="--out", fix="choose another, or replace it with --force")


def _ours(folder: Path) -> tuple[str, ...]:
    """The files that an export in `folder` says it holds; none where there is no export."""
    try:
        return MANIFEST, *read_manifest(folder, tuple(FORMATS)).holds
    except BundleError:
        return ()
