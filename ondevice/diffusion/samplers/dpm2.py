"""Solvers with a second call at a middle level: DPM-Solver-2, its ancestral sibling, and DPM++ SDE.

Sources: arXiv 2206.00927 (DPM-Solver-2), 2211.01095 (DPM-Solver++); k-diffusion's `sample_dpm_2`,
`sample_dpm_2_ancestral` and `sample_dpmpp_sde`; diffusers' `KDPM2DiscreteScheduler`,
`KDPM2AncestralDiscreteScheduler` and `DPMSolverSDEScheduler`. Samples are those of sigmas.py.
"""

from __future__ import annotations

import math

import numpy as np

from ondevice.diffusion.samplers.builder import Builder
from ondevice.diffusion.samplers.respacing import respaced, timesteps_of
from ondevice.diffusion.samplers.schedule import read_schedule
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.sigmas import CURVES, ancestral, clean, finish, plain, scale
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import SamplerTable


def dpm2(settings: Settings, steps: int) -> SamplerTable:
    """The midpoint rule, the middle being the geometric mean of the levels."""
    return _solve(settings, steps, "dpm2")


def dpm2_a(settings: Settings, steps: int) -> SamplerTable:
    """The same to a lower sigma than asked, then fresh noise back up."""
    return _solve(settings, steps, "dpm2_a")


def dpmpp_sde(settings: Settings, steps: int) -> SamplerTable:
    """DPM++ SDE: both the middle and the end of a step get fresh noise.

    diffusers takes the noise from a Brownian tree over sigma, whose way to a step's end leads through its middle; here
    the second draw's share of the first is written out, so that noise is distributed as in the tree. The draws are
    those of docs/noise.md, not the tree's: a seed gives another picture than there.
    """
    return _solve(settings, steps, "dpmpp_sde")


def _solve(settings: Settings, steps: int, kind: str) -> SamplerTable:
    """Two calls per step but for the last, which is Euler's."""
    schedule = read_schedule(
        settings, spacing="linspace", beta=(0.00085, 0.012), predictions=("epsilon", "v_prediction")
    )
    timesteps, levels = plain(schedule, steps)
    if other := respaced(schedule, levels, steps, kinds=CURVES):
        levels, timesteps = other.sigmas, other.timesteps
        if other.kind == "karras" and kind != "dpmpp_sde":
            timesteps = timesteps.round()
    sigmas = np.append(levels, 0.0).astype(np.float32)
    lower = [ancestral(float(a), float(b))[0] if kind == "dpm2_a" else float(b) for a, b in _pairs(sigmas[:-1])]
    middles = [_between(float(a), b) for a, b in zip(sigmas, lower, strict=False)]
    times = [float(np.float32(timesteps[0]))]
    for middle, after in zip(timesteps_of(np.array(middles), np.log(schedule.sigmas)), timesteps[1:], strict=True):
        times += [float(np.float32(middle)), float(np.float32(after))]
    start = Start.read(settings, steps, times, schedule.train_steps, order=2)
    b = Builder()
    x = b.sample
    for i in range(start.skipped // 2, steps):
        sigma, to = float(sigmas[i]), float(sigmas[i + 1])
        output = b.call(x, times[2 * i], (1.0, sigma), scale(sigma))
        slope = (x - clean(schedule, x, output, sigma)) / sigma
        if i == steps - 1:
            x = b.keep(x + (to - sigma) * slope)
            continue
        middle = middles[i]
        down, up = ancestral(sigma, middle) if kind == "dpmpp_sde" else (middle, 0.0)
        first = b.keep(b.noise()) if kind == "dpmpp_sde" else None
        guess = x + (down - sigma) * slope
        guess = b.keep(guess if first is None else guess + up * first)
        # `add_noise` of the classes knows no middle: its level is the end's.
        output = b.call(guess, times[2 * i + 1], (1.0, to), scale(middle))
        seen = clean(schedule, guess, output, middle)
        down, up = (to, 0.0) if kind == "dpm2" else ancestral(sigma, to)
        step = x + (down - sigma) * ((x - seen) / sigma if first is not None else (guess - seen) / middle)
        if first is not None:
            way = sigma - to
            step = step + up * (((sigma - middle) / way) ** 0.5 * first + ((middle - to) / way) ** 0.5 * b.noise())
        elif kind == "dpm2_a":
            step = step + up * b.noise()
        x = b.keep(step)
    return finish(b, x, schedule, steps, sigmas, start)


def _pairs(sigmas: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(sigmas.tolist(), sigmas.tolist()[1:], strict=False))


def _between(first: float, second: float) -> float:
    """The geometric mean, in float32."""
    return float(np.float32(math.exp(0.5 * (math.log(first) + math.log(second)))))
