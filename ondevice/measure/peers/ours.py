"""This project, as a user runs it: a bundle on the OpenCL device of the CPU. `option` is the storage type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ondevice.bundle.in_memory import weight_sources
from ondevice.bundle.reader import open_bundle
from ondevice.bundle.writer import Contents, write_bundle
from ondevice.compiler import Job, Recipe
from ondevice.compiler.picture import about
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.measure.peers.peer import Run, Task
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import AUTO, load_target


def convert(task: Task, folder: Path, option: str) -> None:
    """A bundle of this one plan for this machine's CPU, as `convert` makes it, `folder`/bundle."""
    checkpoint, recipe = task.checkpoint(), Recipe(option, target=load_target(AUTO))
    (compiled,) = programs(build(checkpoint), recipe, [Job(task.component, task.sizes)])
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
