"""Samplers of flow matching: a sample is (1 - sigma) * image + sigma * noise, and the model says where it moves.

Sources: arXiv 2210.02747; 2403.03206 (the shift, equation 23). Reference: diffusers'
`FlowMatchEulerDiscreteScheduler` and `FlowMatchHeunDiscreteScheduler`.
"""

from __future__ import annotations

import math

import numpy as np

from ondevice.diffusion.samplers.builder import Builder
from ondevice.diffusion.samplers.levels import shift_by_size, shifted
from ondevice.diffusion.samplers.respacing import KINDS, curve
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.sigmas import CURVES
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import MAX_TRAIN_STEPS, SamplerTable
from ondevice.diffusion.samplers.unipc import to_terminal


def flow_euler(settings: Settings, steps: int) -> SamplerTable:
    """First order. With `stochastic_sampling` each step goes to the clean image and back up by fresh noise."""
    settings.refuse_betas()
    train_steps = settings.integer("num_train_timesteps", 1000, 1, MAX_TRAIN_STEPS)
    shift = settings.number("shift", 1.0, 1e-6, 1e6)
    mu = shift_by_size(settings)
    linear = settings.choice("time_shift_type", "exponential", "exponential", "linear") == "linear"
    terminal = settings.optional_number("shift_terminal", None, 0.0, 0.999)
    stochastic = settings.flag("stochastic_sampling", False)
    inverted = settings.flag("invert_sigmas", False)
    if inverted:
        for key in ("denoising_start", "denoising_end"):
            settings.refuse(key, None, None)  # timesteps rise
    asked = [kind for kind in CURVES if settings.flag(KINDS[kind], False)]
    if len(asked) > 1:
        raise settings.fail(KINDS[asked[1]], f"one kind of sigmas, not {asked[0]} too")
    given, times = settings.falling("sigmas", steps, 1e-6, 1.0), settings.falling("timesteps", steps, 1e-3, train_steps)
    if given is not None and times is not None:
        raise settings.fail("timesteps", "nothing beside sigmas")
    if times is not None:
        sigmas = np.array(times, np.float32) / train_steps
    else:
        sigmas = (
            np.array(given, np.float32) if given else _between_ends(train_steps, shift if mu is None else 1.0, steps)
        )
    if mu is None:
        sigmas = shifted(sigmas, shift)
    elif linear and mu <= 0:
        raise settings.fail("mu", "a number above 0 with time_shift_type linear")
    else:
        sigmas = shifted(sigmas, mu if linear else math.exp(mu))
    if terminal:
        sigmas = to_terminal(sigmas, terminal)
    if asked:
        sigmas = curve(asked[0], float(sigmas[0]), float(sigmas[-1]), steps)
    sigmas = sigmas.astype(np.float32)
    timesteps = sigmas * np.float32(train_steps) if times is None else np.array(times, np.float32)
    if inverted:
        sigmas = np.float32(1) - sigmas
        timesteps = sigmas * np.float32(train_steps)
    sigmas = np.append(sigmas, np.float32(1.0 if inverted else 0.0))
    start = Start.read(settings, steps, timesteps.tolist(), train_steps)
    b = Builder()
    x = b.sample
    for i in range(start.skipped, steps):
        sigma, to = float(sigmas[i]), float(sigmas[i + 1])
        output = b.call(x, float(timesteps[i]), (1 - sigma, sigma))
        if stochastic:
            x = b.keep((1 - to) * (x - sigma * output) + to * b.noise())
        else:
            x = b.keep(x + (to - sigma) * output)
    return b.table(settings.sampler, steps, x, start, train_steps=train_steps, memory=False)


def flow_heun(settings: Settings, steps: int) -> SamplerTable:
    """Second order, no churn: two calls per step but for the last, which is Euler's."""
    settings.refuse_betas()
    train_steps = settings.integer("num_train_timesteps", 1000, 1, MAX_TRAIN_STEPS)
    shift = settings.number("shift", 1.0, 1e-6, 1e6)
    levels = shifted(_between_ends(train_steps, shift, steps), shift).astype(np.float32)
    timesteps = (levels * np.float32(train_steps)).tolist()
    sigmas = [*map(float, levels), 0.0]
    start = Start.read(settings, steps, np.repeat(timesteps, 2)[1:].tolist(), train_steps, order=2)
    b = Builder()
    x = b.sample
    for i in range(start.skipped // 2, steps):
        sigma, to = sigmas[i], sigmas[i + 1]
        slope = b.call(x, timesteps[i], (1 - sigma, sigma))
        if i == steps - 1:
            x = b.keep(x + (to - sigma) * slope)
            continue
        slope = b.keep(slope)
        guess = b.keep(x + (to - sigma) * slope)
        slope_there = b.call(guess, timesteps[i + 1], (1 - to, to))
        x = b.keep(x + 0.5 * (to - sigma) * (slope + slope_there))
    return b.table(settings.sampler, steps, x, start, train_steps=train_steps)


def _between_ends(train_steps: int, shift: float, steps: int) -> np.ndarray:
    """float64[steps], evenly spaced between the training schedule's ends, which the shift has moved already: it is then
    applied once more, as in the reference."""
    ends = np.array([train_steps, 1], np.float32) / np.float32(train_steps)
    top, low = (float(end) * train_steps for end in shifted(ends, shift).astype(np.float32))
    return np.linspace(top, low, steps) / train_steps
