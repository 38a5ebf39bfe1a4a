"""This project, as a user runs it: a bundle on the OpenCL device of the CPU. `option` is the storage type, and behind a
blank what products are multiplied in, where that is not float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ondevice.bundle.in_memory import weight_sources
from ondevice.bundle.reader import open_bundle
from ondevice.bundle.writer import Contents, write_bundle
from ondevice.compiler import Job, Recipe
from ondevice.compiler.fallbacks import of_products
from ondevice.compiler.picture import about
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.errors import PeerError
from ondevice.measure.peers.peer import Run, Task
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import AUTO, FP32, load_target


def convert(task: Task, folder: Path, option: str) -> None:
    """A bundle of this one plan for this machine's CPU, as `convert` makes it, `folder`/bundle.

    Raises:
        PeerError: nothing is multiplied in what was asked for; says why.
    """
    dtype, _, math = option.partition(" ")
    checkpoint, recipe = task.checkpoint(), Recipe(dtype, target=load_target(AUTO), math=math or FP32)
    (compiled,) = programs(build(checkpoint), recipe, [Job(task.component, task.sizes)])
    if math and not compiled.program.in_math.applied:
        why = of_products(compiled.rewrite) or "text encoders stay in float32"
        raise PeerError(f"nothing is multiplied in {math} on {recipe.target.name} ({why}).")
    write_bundle(
        folder / "bundle",
        Contents(
            plans=[compiled.plan()],
            weights=weight_sources(compiled.program),
            scheduler={},
            model=about(checkpoint) | {"target": recipe.target.name},
        ),
    )


def load(folder: Path, inputs: Mapping[str, np.ndarray], threads: int, option: str) -> Run:
    """A session on the CPU, whose runtime takes the cores that the process may use."""
    bundle = open_bundle(folder / "bundle")
    (entry,) = bundle.plans
    session = Session(bundle, choose_device("cpu"))

    def run() -> np.ndarray:
        (output,) = session.run(entry.component, inputs, **entry.sizes).values()
        return output

    return run
