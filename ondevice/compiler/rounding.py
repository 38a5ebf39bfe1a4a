"""What weights in few bits cost: one step of the denoiser with them and one without, on this machine's device."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ondevice.base import machine
from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.bundle.pipeline import TIMESTEP
from ondevice.bundle.plan_file import weight_bytes
from ondevice.compiler.jobs import Job
from ondevice.compiler.picture import spec_of
from ondevice.compiler.programs import Compiled, programs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import Model, build
from ondevice.errors import DeviceError, KernelBuildError, NoDeviceError
from ondevice.lower.kernel_file import load_all
from ondevice.lower.program import STORAGES
from ondevice.lower.quantize import SCHEMES
from ondevice.run.device import Device
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.run.timing import made_up
from ondevice.target import AUTO, load_target

log = logging.getLogger(__name__)
FACT = "rounding"  # a bundle's fact of its model: a Rounding as plain data
MOST_FLOPS = 2e12  # of a step: some ten seconds of a CPU
MIDDLE = 500.0  # of a schedule of 1,000 timesteps


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far a step with weights in few bits is from one with weights in the storage of activations.

    psnr_db: the largest magnitude of that one's result over the root mean square of the difference, in decibels.
    height, width: of the latents.
    """

    component: str
    weights: str  # as --weights says it
    storage: str  # as --dtype says it
    psnr_db: float
    height: int
    width: int

    def __str__(self) -> str:
        step = f"one step on fixed latents of {self.width}x{self.height}"
        return f"{self.component}: {self.weights} weights, {self.psnr_db:.1f} dB to {self.storage} ({step})"

    def fact(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "psnr_db": round(self.psnr_db, 1)}


def rounding(model: Model, recipe: Recipe, jobs: Sequence[Job]) -> Rounding | None:
    """Run the denoiser both ways, whole, of one picture at the first size; None where its weights are as ever, and,
    with the reason logged, where that cannot be done here.

    The graphs are lowered for the device at hand, whatever the recipe's target is: only what weights are rounded to
    counts. A step of more than MOST_FLOPS is taken at a half of its sides, again and again. One way is in memory at a
    time.
    """
    model = build(model.checkpoint, whole=True)  # weights of what runs once per text are rounded, too
    spec = spec_of(model)
    role = next(role for loop in spec.denoise for role in reversed(loop.roles))
    if not recipe.few_bits(role.component):
        return None
    try:
        device = choose_device()
        on = replace(recipe, target=load_target(AUTO if device.facts()["kind"] == "cpu" else "gpu"))
        job = min((job for job in jobs if job.component == role.component), key=lambda job: job.sizes["batch"])
        compiled = _compiled(model, on, job)
        while sum(call.flops for call in compiled.program.calls) > MOST_FLOPS and (smaller := _halved(model, job)):
            job, compiled = smaller, _compiled(model, on, smaller)
        timed = [port for port, feed in role.feed.items() if (feed.kind, feed.name) == ("value", TIMESTEP)]
        small = _step(compiled, device, timed)
        plain = _step(_compiled(model, replace(on, weights=""), job), device, timed)
    except (NoDeviceError, KernelBuildError, DeviceError) as error:
        log.warning("what rounding %s costs was not measured: %s", role.component, error)
        return None
    peak, wrong = np.abs(plain).max(), math.sqrt(np.square(small - plain).mean())
    if not (math.isfinite(wrong) and wrong > 0):
        log.warning("what rounding %s costs was not measured: the steps differ by %g", role.component, wrong)
        return None
    storage = next(name for name, stored in STORAGES.items() if stored == recipe.dtype)
    weights = SCHEMES[recipe.weights].name
    return Rounding(
        role.component, weights, storage, 20 * math.log10(peak / wrong), job.sizes["height"], job.sizes["width"]
    )


def said(model: Mapping[str, Any]) -> str | None:
    """What the facts of a bundle's model say of rounding, as a line; None where they say nothing."""
    return str(Rounding(**model[FACT])) if FACT in model else None


def _compiled(model: Model, recipe: Recipe, job: Job) -> Compiled:
    (compiled,) = programs(model, recipe, [job])
    return compiled


def _halved(model: Model, job: Job) -> Job | None:
    """The job at half its sides; None where the checkpoint has no graph of that, or they are odd."""
    if any(job.sizes[side] % 16 for side in ("height", "width")):
        return None
    smaller = Job(job.component, job.sizes | {side: job.sizes[side] // 2 for side in ("height", "width")})
    return None if model.lacks(smaller.component, **smaller.sizes) else smaller


def _step(compiled: Compiled, device: Device, timed: Sequence[str]) -> np.ndarray:
    """The first result of one run, in float64. Raises DeviceError where memory is short, or the device fails."""
    plan, free = compiled.plan(), machine.available_memory()
    if free is not None and (needed := weight_bytes(plan) + plan.arena) > free:
        raise DeviceError(f"a step needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB of memory are free.")
    inputs = made_up(plan)
    inputs |= {name: np.full_like(inputs[name], MIDDLE) for name in timed}
    bundle = MemoryBundle([plan], weight_sources(compiled.program), load_all())
    first, *_ = Session(bundle, device).run(plan.component, inputs, **plan.sizes).values()
    return first.astype(np.float64)
