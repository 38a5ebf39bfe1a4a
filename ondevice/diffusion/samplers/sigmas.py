"""Samplers that step from sigma to sigma: Euler, Euler ancestral, Heun and LMS.

Sources: arXiv 2206.00364, algorithms 1 and 2 (Euler, Heun); k-diffusion's `sample_euler_ancestral` and `sample_lms`;
diffusers' classes. A sample here is image + sigma * noise, and the model sees it divided by sqrt(sigma**2 + 1).
"""

from __future__ import annotations

import numpy as np

from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.lagrange import lagrange
from ondevice.diffusion.samplers.respacing import respaced
from ondevice.diffusion.samplers.schedule import PREDICTIONS, Schedule, float_timesteps, read_schedule
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import SamplerTable

CURVES = ("karras", "exponential", "beta")


def clean(schedule: Schedule, sample: Value, output: Value, sigma: float) -> Value:
    """The clean image that the model's output means."""
    if schedule.prediction == "epsilon":
        return sample - sigma * output
    if schedule.prediction == "v_prediction":
        return sample / (sigma**2 + 1) - sigma / (sigma**2 + 1) ** 0.5 * output
    return output


def scale(sigma: float) -> float:
    return 1 / (sigma**2 + 1) ** 0.5


def finish(
    b: Builder, x: Value, schedule: Schedule, steps: int, sigmas: np.ndarray, start: Start, *, memory: bool = True
) -> SamplerTable:
    top = float(sigmas.max())
    # With spacing leading the first sample also holds an image of unit variance, in expectation.
    noise = top if schedule.spacing in ("linspace", "trailing") else (top**2 + 1) ** 0.5
    return b.table(
        schedule.settings.sampler, steps, x, start, train_steps=schedule.train_steps, first_noise=noise, memory=memory
    )


def plain(schedule: Schedule, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(timesteps, sigmas) without respacing, float32 and float64[steps]."""
    timesteps = float_timesteps(schedule, steps)
    return timesteps, np.interp(timesteps, np.arange(schedule.train_steps), schedule.sigmas)


def euler(settings: Settings, steps: int) -> SamplerTable:
    """First order, no churn."""
    schedule = read_schedule(
        settings, spacing="linspace", zero_snr=True, floor_zero_snr=True, predictions=(*PREDICTIONS, "original_sample")
    )
    timesteps, levels = plain(schedule, steps)
    if settings.choice("interpolation_type", "linear", "linear", "log_linear") == "log_linear":
        ends = np.log(schedule.sigmas)
        levels = np.exp(np.linspace(ends[-1], ends[0], steps + 1, dtype=np.float32))
    if other := respaced(schedule, levels, steps, kinds=CURVES):
        levels, timesteps = other.sigmas, other.timesteps
    last = settings.choice("final_sigmas_type", "zero", "zero", "sigma_min")
    sigmas = np.append(levels, 0.0 if last == "zero" else schedule.sigmas[0]).astype(np.float32)
    if (
        settings.choice("timestep_type", "discrete", "discrete", "continuous") == "continuous"
        and schedule.prediction == "v_prediction"
    ):
        timesteps = np.float32(0.25) * np.log(sigmas[:-1])
    start = Start.read(settings, steps, list(timesteps), schedule.train_steps)
    b = Builder()
    x = b.sample
    for i in range(start.skipped, len(timesteps)):
        sigma, to = float(sigmas[i]), float(sigmas[i + 1])
        output = b.call(x, float(np.float32(timesteps[i])), (1.0, sigma), scale(sigma))
        x = b.keep(x + (to - sigma) / sigma * (x - clean(schedule, x, output, sigma)))
    return finish(b, x, schedule, steps, sigmas, start, memory=False)


def ancestral(sigma: float, to: float) -> tuple[float, float]:
    """(down, up): the level that a step to `to` goes down to, and how much fresh noise takes it up again."""
    up = (to**2 * (sigma**2 - to**2) / sigma**2) ** 0.5
    return max(to**2 - up**2, 0.0) ** 0.5, up


def euler_a(settings: Settings, steps: int) -> SamplerTable:
    """Euler to a lower sigma than asked, then fresh noise back up. It draws at the last step too, with weight 0."""
    schedule = read_schedule(
        settings, spacing="linspace", zero_snr=True, floor_zero_snr=True, predictions=("epsilon", "v_prediction")
    )
    timesteps, levels = plain(schedule, steps)
    if other := respaced(schedule, levels, steps):
        levels, timesteps = other.sigmas, other.timesteps
    sigmas = np.append(levels, 0.0).astype(np.float32)
    start = Start.read(settings, steps, list(timesteps), schedule.train_steps)
    b = Builder()
    x = b.sample
    for i in range(start.skipped, len(timesteps)):
        sigma, to = float(sigmas[i]), float(sigmas[i + 1])
        down, up = ancestral(sigma, to)
        output = b.call(x, float(np.float32(timesteps[i])), (1.0, sigma), scale(sigma))
        x = b.keep(x + (down - sigma) / sigma * (x - clean(schedule, x, output, sigma)) + up * b.noise())
    return finish(b, x, schedule, steps, sigmas, start, memory=False)


def heun(settings: Settings, steps: int) -> SamplerTable:
    """Second order: two calls per step but for the last, which is Euler's."""
    settings.refuse("clip_sample", False, False, None)
    schedule = read_schedule(settings, spacing="linspace", beta=(0.00085, 0.012), more_beta_schedules=("exp",))
    timesteps, levels = plain(schedule, steps)
    if other := respaced(schedule, levels, steps, kinds=CURVES):
        levels, timesteps = other.sigmas, other.timesteps
    sigmas = np.append(levels, 0.0).astype(np.float32)
    start = Start.read(settings, steps, np.repeat(timesteps, 2)[1:].tolist(), schedule.train_steps, order=2)
    b = Builder()
    x = b.sample
    for i in range(start.skipped // 2, len(timesteps)):
        sigma, to = float(sigmas[i]), float(sigmas[i + 1])
        output = b.call(x, float(np.float32(timesteps[i])), (1.0, sigma), scale(sigma))
        slope = (x - clean(schedule, x, output, sigma)) / sigma
        if to == 0.0:
            x = b.keep(x + (to - sigma) * slope)
            continue
        slope = b.keep(slope)
        guess = b.keep(x + (to - sigma) * slope)
        output = b.call(guess, float(np.float32(timesteps[i + 1])), (1.0, to), scale(to))
        slope_there = (guess - clean(schedule, guess, output, to)) / to
        x = b.keep(x + 0.5 * (to - sigma) * (slope + slope_there))
    return finish(b, x, schedule, steps, sigmas, start)


def lms(settings: Settings, steps: int) -> SamplerTable:
    """Fourth-order linear multistep: the polynomial through the last slopes, integrated over the step."""
    schedule = read_schedule(settings, spacing="linspace")
    timesteps, levels = plain(schedule, steps)
    if other := respaced(schedule, levels, steps, limits=not settings.flag("use_karras_sigmas", False), kinds=CURVES):
        levels, timesteps = other.sigmas, other.timesteps
    sigmas = np.append(levels, 0.0).astype(np.float32)
    start = Start.read(settings, steps, list(timesteps), schedule.train_steps)
    b = Builder()
    x = b.sample
    slopes: list[Value] = []
    for i in range(start.skipped, len(timesteps)):
        sigma = float(sigmas[i])
        output = b.call(x, float(np.float32(timesteps[i])), (1.0, sigma), scale(sigma))
        slopes = [b.keep((x - clean(schedule, x, output, sigma)) / sigma), *slopes[:3]]
        # A run that starts part of the way down has fewer slopes than the order; the reference then drops
        # the last weights.
        weights = _lms_weights([float(s) for s in sigmas[max(i - 3, 0) : i + 2]])
        step = x
        for weight, slope in zip(weights, slopes, strict=False):
            step = step + weight * slope
        x = b.keep(step)
    return finish(b, x, schedule, steps, sigmas, start)


def _lms_weights(sigmas: list[float]) -> list[float]:
    """Integral over the last step of each Lagrange basis polynomial through the sigmas before its end, newest first."""
    *nodes, low = sigmas
    nodes.reverse()
    if len(set(nodes)) < len(nodes):
        raise ZeroDivisionError("two steps at one sigma")
    weights = []
    for basis in lagrange(nodes):
        integral = basis.integ(lbnd=nodes[0])
        weights.append(float(integral(low)))
    return weights
