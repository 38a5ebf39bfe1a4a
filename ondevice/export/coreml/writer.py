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
from ondevice.errors import UsageError
from ondevice.export.coreml import swift
from ondevice.export.coreml.graph import ports, program
from ondevice.export.coreml.halves import halves
from ondevice.export.coreml.package import save_package
from ondevice.export.manifest import Entry
from ondevice.export.options import Options
from ondevice.graph.verify import static_shape


def write(graph: ir.Model, job: Job, folder: Path, options: Options) -> Entry:
    """As `ondevice.export.options.Writer` has it. Raises UsageError for weights that the version of iOS has not."""
    whole, ios = graph.graph, int(str(options.flags.get("ios") or 17))
    name = swift.package(job.component, [str(value.name) for value in whole.inputs])
    if options.weights == "int4" and ios < 18:
        what = f"Core ML has int4 from iOS 18 on (got {ios})."
        raise UsageError(what, where="--weights", fix="add --ios 18, or use --weights pal4")
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    inputs = swift.shaped(job.component, swift.named(job.component, ports(whole.inputs)))
    outputs = swift.named(job.component, ports(whole.outputs, taken=whole.inputs))
    parts = {name: whole}
    if job.component == "unet" and options.flags.get("split-unet"):
        parts = {f"{name}Chunk{number}": half for number, half in enumerate(halves(whole), 1)}
    for file, part in parts.items():
        given = {key: inputs.get(key, port) for key, port in ports(part.inputs).items()}
        gives = {key: outputs.get(key, port) for key, port in ports(part.outputs).items()}
        made = partial(program, part, inputs=given, outputs=gives, dtype=options.dtype, ios=ios)
        made = partial(made, weights=options.weights, component=job.component)
        save_package(folder / f"{file}.mlpackage", made, [*given.values()], [*gives.values()], ios)
    shapes = {str(value.name): static_shape(value) for value in (*whole.inputs, *whole.outputs)}
    return Entry(job.component, tuple(f"{file}.mlpackage" for file in parts), inputs, outputs, shapes, dict(job.sizes))


def finish(model: Model, folder: Path, options: Options) -> None:
    """As `ondevice.export.options.Writer` has it."""
    swift.put_vocabulary(folder)
