"""Rewritten graphs as ONNX files, which any ONNX runtime runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import onnx_ir as ir

from ondevice.base.publish import check_space, foreign, hidden_folder, published, recover
from ondevice.compiler.compile import Progress
from ondevice.compiler.fallbacks import settle
from ondevice.compiler.jobs import bundle_jobs
from ondevice.compiler.programs import fused_graphs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.converters.families import roles
from ondevice.converters.onnx_export import save_onnx
from ondevice.errors import GraphError, UsageError


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
    """The rewritten graphs as `out`/COMPONENT/model.onnx with their weights beside them:
    float32, static shapes, the UNet at batch 2.

    Fused ops have function bodies, so any ONNX runtime runs them; `without` "all" gives the plain graphs. The folder
    appears whole or not at all.

    Args:
        without, strict, force: as `compile_bundle` takes them; no kernels are chosen here, so methods mean nothing.

    Raises:
        UsageError: more than one size, or one that the VAE's scale does not divide; or `out` is not ours to replace.
        GraphError: a file cannot be written.
    """
    if len(sizes) > 1:
        what = f"{len(sizes)} sizes given (expected one: ONNX graphs here have static shapes)."
        raise UsageError(what, where="--size", fix="name one size")
    model, out, fallbacks = build(checkpoint), out.absolute(), list(checkpoint.notes)
    largest = {job.component: job for job in bundle_jobs(model, sizes, 0, fallbacks)}  # its largest batch comes last
    writable_folder(out, force)
    graphs: dict[str, ir.Model] = {}  # their weights are lazy
    for fused in fused_graphs(model, Recipe(without=without), largest.values()):
        graphs[fused.job.component] = fused.graph
        fallbacks += fused.fallbacks
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
    files = [f"{component}/model.onnx{ending}" for component in roles() for ending in ("", ".data")]
    if not there.is_dir() or (other := foreign(there, files)):
        what = (
            f"{out} holds {other}, which is not ours." if there.is_dir() else f"{out} is there already and no folder."
        )
        raise UsageError(what, where="--out", fix="choose another")
    if any(there.iterdir()) and not force:
        raise UsageError(f"{out} is there already.", where="--out", fix="choose another, or replace it with --force")
