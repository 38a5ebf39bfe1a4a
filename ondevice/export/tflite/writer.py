"""A fused graph as COMPONENT/model.tflite: builtin ops only, static shapes.

Ports have our names in the file's signature "serving_default"; those with four axes are channels last.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from ondevice.base.publish import system
from ondevice.compiler.jobs import Job
from ondevice.converters import Model
from ondevice.errors import GraphError
from ondevice.export.manifest import Entry, Port
from ondevice.export.options import Options
from ondevice.export.tflite import file
from ondevice.export.tflite.emit import emit
from ondevice.export.tflite.weights import Storage
from ondevice.export.tflite.words import LAST, Tensor
from ondevice.graph.verify import static_shape


def write(graph: ir.Model, job: Job, folder: Path, options: Options) -> Entry:
    """As `ondevice.export.options.Writer` has it. Raises GraphError where the file cannot be written, too."""
    model = file.Model(job.component)
    ports = emit(graph.graph, model, Storage(options.dtype, options.weights), bool(options.flags.get("composites")))
    path = folder / job.component / "model.tflite"
    with system(path.relative_to(folder).as_posix(), GraphError):
        path.parent.mkdir()
        model.write(path, *({name: tensor.number for name, tensor in table.items()} for table in ports))
    shapes = {str(value.name): static_shape(value) for value in (*graph.graph.inputs, *graph.graph.outputs)}
    inputs, outputs = ({name: _port(name, tensor) for name, tensor in table.items()} for table in ports)
    return Entry(job.component, (path.relative_to(folder).as_posix(),), inputs, outputs, shapes, dict(job.sizes))


def _port(name: str, tensor: Tensor) -> Port:
    return Port(name, tensor.dtype, tensor.shape, LAST if len(tensor.shape) == 4 else ())


def finish(model: Model, folder: Path, options: Options) -> None:
    """Nothing else is looked for."""
