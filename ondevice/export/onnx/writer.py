"""A fused graph as COMPONENT/model.onnx with its weights beside it, in the types that were asked for; for one size or
for every one.

Fused ops have function bodies, so any ONNX runtime runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from ondevice.compiler.jobs import Job
from ondevice.converters import Model
from ondevice.converters.onnx_export import save_onnx
from ondevice.errors import UsageError
from ondevice.export.manifest import Entry, Port
from ondevice.export.onnx.dynamic import freed
from ondevice.export.onnx.half import halve
from ondevice.export.onnx.linked import FLAG, link_weights
from ondevice.export.onnx.pipeline_folder import port_name, write_pipeline_folder
from ondevice.export.onnx.quantized import quantize
from ondevice.export.options import Options

_DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.INT32: "int32"}


def write(graph: ir.Model, job: Job, folder: Path, options: Options, others: Sequence[ir.Model] = ()) -> Entry:
    """As `ondevice.export.options.Writer` has it.

    Raises UsageError where weights are to be linked and cannot be.
    """
    place, linked = folder / job.component, list[ir.Value]()
    if options.flags.get("link-weights") and options.weights:
        what = f"the checkpoint has no {options.weights} weights that a graph could refer to."
        raise UsageError(what, where=FLAG, fix=f"leave out {FLAG} or --weights")
    place.mkdir()
    for one in (graph, *others):
        if options.weights:
            quantize(one)
        if options.dtype == "fp16":
            halve(one)
    if others:
        graph = freed([graph, *others], job.component)
    if options.flags.get("link-weights"):
        linked = link_weights(graph, place)
    inputs, outputs = (
        {str(value.name): _port(value) for value in values} for values in (graph.graph.inputs, graph.graph.outputs)
    )
    for name, value in zip(outputs, graph.graph.outputs, strict=True):
        value.name = outputs[name].name
    path = save_onnx(graph, place / "model.onnx", linked)
    shapes = {name: port.shape for name, port in (inputs | outputs).items()}
    sizes = {} if others else dict(job.sizes)
    return Entry(job.component, (path.relative_to(folder).as_posix(),), inputs, outputs, shapes, sizes)


def _port(value: ir.Value) -> Port:
    assert value.dtype is not None and value.shape is not None
    shape = tuple(size if isinstance(size, int) else 0 for size in value.shape)
    return Port(port_name(str(value.name)), _DTYPES[value.dtype], shape)


def finish(model: Model, folder: Path, options: Options) -> None:
    """As `ondevice.export.options.Writer` has it."""
    write_pipeline_folder(model, folder, options)
