"""This project, as a user runs it: a bundle on the OpenCL device of the CPU. `option` is the storage type, and behind a
blank what products are multiplied in, where that is not float32."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.bundle.in_memory import weight_sources
from ondevice.bundle.manifest import PlanEntry
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.bundle.writer import Contents, write_bundle
from ondevice.compiler import Job, Recipe
from ondevice.compiler.fallbacks import of_products
from ondevice.compiler.picture import about
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.errors import PeerError
from ondevice.measure.peers.peer import Loaded, Task
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import AUTO, FP32, load_target

TRIES = 2  # of what runs once per text: the first builds its kernels and reads its weights


def convert(task: Task, folder: Path, option: str) -> None:
    """A bundle of this one plan for this machine's CPU, as `convert` makes it, `folder`/bundle; before it are those of
    what runs once per text in the place of a part of it.

    Raises:
        PeerError: nothing is multiplied in what was asked for; says why.
    """
    dtype, _, math = option.partition(" ")
    checkpoint, recipe = task.checkpoint(), Recipe(dtype, target=load_target(AUTO), math=math or FP32)
    model = build(checkpoint)
    once = [name for name, role in model.family.roles.items() if role.of == task.component]
    jobs = [Job(name, {"batch": task.sizes["batch"]}) for name in once] + [Job(task.component, task.sizes)]
    made = list(programs(model, recipe, jobs))
    if math and not made[-1].program.in_math.applied:
        why = of_products(made[-1].rewrite) or "text encoders stay in float32"
        raise PeerError(f"nothing is multiplied in {math} on {recipe.target.name} ({why}).")
    write_bundle(
        folder / "bundle",
        Contents(
            plans=[compiled.plan() for compiled in made],
            weights={key: one for compiled in made for key, one in weight_sources(compiled.program).items()},
            scheduler={},
            model=about(checkpoint) | {"target": recipe.target.name},
        ),
    )


def load(folder: Path, inputs: Mapping[str, np.ndarray], threads: int, option: str) -> Loaded:
    """A session on the CPU, whose runtime takes the cores that the process may use. What runs once per text has run,
    and what it made stays on the device."""
    bundle = open_bundle(folder / "bundle")
    *once, entry = bundle.plans
    session, given = Session(bundle, choose_device("cpu")), dict[str, Any](inputs)

    def prepare() -> float:
        """Seconds."""
        began = time.perf_counter()
        for first in once:
            given.update(session.run_on(first.component, _asked(bundle, first, given), **first.sizes))
        for value in given.values():
            if not isinstance(value, np.ndarray):
                session.read(value)  # waits for it, as a picture does
        return time.perf_counter() - began

    once_s = min(prepare() for _ in range(TRIES)) if once else 0.0
    asked = _asked(bundle, entry, given)

    def run() -> np.ndarray:
        (output,) = session.run(entry.component, asked, **entry.sizes).values()
        return output

    return Loaded(run, once_s)


def _asked(bundle: Bundle, entry: PlanEntry, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan takes, of what there is."""
    plan = bundle.plan(entry.component, **entry.sizes)
    return {name: given[name] for name in (plan.operands[index].name for index in plan.inputs)}
