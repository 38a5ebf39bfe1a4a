"""Core ML packages: COMPONENT.mlpackage, an ML program with its weights, for iOS 17 (macOS 14) and later.

Written without Core ML, on any system; a Mac or an iPhone compiles and runs them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from ondevice.compiler.jobs import Job
from ondevice.converters import Model
from ondevice.export.coreml.graph import ports, program
from ondevice.export.coreml.package import save_package
from ondevice.export.manifest import Entry
from ondevice.export.options import Options
from ondevice.graph.verify import static_shape


def write(graph: ir.Model, job: Job, folder: Path, options: Options) -> Entry:
    """As `ondevice.export.options.Writer` has it."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    net, ios = graph.graph, int(str(options.flags.get("ios", 17)))
    inputs, outputs = ports(net.inputs), ports(net.outputs, taken=net.inputs)
    made = partial(program, net, inputs=inputs, outputs=outputs, dtype=options.dtype, ios=ios, component=job.component)
    path = folder / f"{job.component}.mlpackage"
    save_package(path, made, [*inputs.values()], [*outputs.values()], ios)
    shapes = {str(value.name): static_shape(value) for value in (*net.inputs, *net.outputs)}
    return Entry(job.component, (path.name,), inputs, outputs, shapes, dict(job.sizes))


def finish(model: Model, folder: Path, options: Options) -> None:
    """Nothing else is looked for."""
