"""The loop: each call of the sampler's table runs the passes of its stretch, and combines them to one prediction."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from ondevice.bundle.pipeline import LATENTS, TIMESTEP, Loop, PipelineSpec
from ondevice.diffusion.guidance import combined, passes_in_use
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.roles import Roles, check_finite
from ondevice.diffusion.samplers import SamplerTable, run_table
from ondevice.diffusion.values import Values
from ondevice.errors import UsageError

OnStep = Callable[[int, int, float, np.ndarray], np.ndarray | None]
"""Called after each pass of the network: calls done, calls in all, timestep, latents.
What it returns takes the latents' place."""


def run_loop(
    roles: Roles, table: SamplerTable, start: np.ndarray, stream: Noise, *, split: bool, on_step: OnStep | None
) -> np.ndarray:
    """The final sample, float32 of `start`'s shape.

    Args:
        start: the sample that the first call begins with.
        stream: gives the noise of calls that draw some.
        split: passes run one after another where they could run at once.

    Raises:
        UsageError: a call is in no stretch of the schedule.
        NumericError: a call's result is not finite.
    """
    calls, values = len(table.calls), roles.values
    numbers = itertools.count()

    def predict(x: np.ndarray, timestep: float) -> np.ndarray:
        call = next(numbers)
        values.enter_call(call, calls)
        values.keep(LATENTS, x)
        values.keep(TIMESTEP, np.array([timestep], np.float32))
        return _predict(_stretch(roles.spec, call / calls, values), roles, split)

    def after(call: int, x: np.ndarray) -> np.ndarray | None:
        timestep = table.calls[call].timestep
        check_finite(x, f"step {call + 1} of {calls} (timestep {timestep:g})")
        return on_step(call + 1, calls, timestep, x) if on_step is not None else None

    return run_table(table, predict, start, lambda _: stream.randn(start.shape), after)


def _stretch(spec: PipelineSpec, part: float, values: Values) -> Loop:
    """The loop of a part of the schedule, 0 to 1."""
    for loop in spec.denoise:
        if values.number(loop.start) <= part < values.number(loop.end):
            return loop
    raise UsageError(
        f"no part of the pipeline runs at {part:g} of the schedule",
        where="pipeline",
        fix="choose other parts, from 0 to 1",
    )


def _predict(loop: Loop, roles: Roles, split: bool) -> np.ndarray:
    """What the sampler takes as the model's output: all passes at once, or one after another."""
    values, session = roles.values, roles.session
    passes = passes_in_use(loop, values.numbers)
    at_once = all(roles.has_plan(role.component, len(passes)) for role in loop.roles)
    groups = [passes] if at_once and not split else [(one,) for one in passes]
    outputs: list[np.ndarray] = []
    for group in groups:
        for role in loop.roles:
            sizes = roles.sizes(role.component, len(group))
            feeds = values.feeds_of_passes(role, group, roles.zeros_like)
            if role is loop.roles[-1]:
                predicted = session.run(role.component, feeds, **sizes)
                port = next(port for port, name in role.keep.items() if name == loop.prediction)
                outputs += np.split(predicted[port], len(group))
                continue
            kept = session.run_on(role.component, feeds, **sizes)
            for port, name in role.keep.items():
                values.keep(name, kept[port])
    return combined(loop, outputs, values.numbers)
