"""Samplers for models with EDM's preconditioning: what goes in and comes out is scaled by `sigma_data`.

Source: arXiv 2206.00364, table 1 and algorithm 1. Reference: diffusers' `EDMEulerScheduler`,
`EDMDPMSolverMultistepScheduler` and `CosineDPMSolverMultistepScheduler`.
"""

from __future__ import annotations

import math

import numpy as np

from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.levels import Clean, Level, Points
from ondevice.diffusion.samplers.multistep import solve
from ondevice.diffusion.samplers.respacing import curve
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import MAX_TRAIN_STEPS, SamplerTable


def edm_euler(settings: Settings, steps: int) -> SamplerTable:
    """First order, no churn."""
    sigmas, first_noise = _sigmas(settings, steps, 0.002, 80.0, "karras")
    clean, scales = _preconditioned(settings, sigmas, 0.5, "epsilon")
    timesteps = _log_times(sigmas)
    start = Start.read(settings, steps, timesteps, _train_steps(settings))
    b = Builder()
    x = b.sample
    for i in range(start.skipped, steps):
        now, to = Level(1.0, float(sigmas[i])), float(sigmas[i + 1])
        seen = clean(x, b.call(x, timesteps[i], now.noised, scales[i]), now)
        x = b.keep(x + (to - now.sigma) / now.sigma * (x - seen))
    train_steps = _train_steps(settings)
    return b.table(settings.sampler, steps, x, start, train_steps=train_steps, first_noise=first_noise, memory=False)


def edm_dpmpp_2m(settings: Settings, steps: int) -> SamplerTable:
    """DPM-Solver++, orders 1 to 3; `algorithm_type` sde-dpmsolver++ adds noise and has orders 1 and 2."""
    settings.refuse("thresholding", False, False, None)
    algorithm = str(settings.choice("algorithm_type", "dpmsolver++", "dpmsolver++", "sde-dpmsolver++", "deis")).replace(
        "deis", "dpmsolver++"
    )
    sigmas, first_noise = _sigmas(settings, steps, 0.002, 80.0, "karras")
    clean, scales = _preconditioned(settings, sigmas, 0.5, "epsilon")
    points = Points(_log_times(sigmas), _levels(sigmas), scales)
    return _multistep(settings, points, clean, first_noise, algorithm, (1, 2, 3))


def cosine_dpmpp_2m(settings: Settings, steps: int) -> SamplerTable:
    """Stable Audio's: stochastic DPM-Solver++ over the angle of noise and image.

    diffusers takes the noise from a Brownian tree; its parts for steps that follow each other are independent, as the
    draws here are, so that only a seed's picture is another one.
    """
    sigmas, first_noise = _sigmas(settings, steps, 0.3, 500.0, "exponential")
    clean, scales = _preconditioned(settings, sigmas, 1.0, "v_prediction")
    timesteps = [float(np.float32(math.atan(sigma) / math.pi * 2)) for sigma in sigmas[:-1].tolist()]
    points = Points(timesteps, _levels(sigmas), scales)
    return _multistep(settings, points, clean, first_noise, "sde-dpmsolver++", (1, 2))


def _multistep(
    settings: Settings, points: Points, clean: Clean, first_noise: float, algorithm: str, orders: tuple[int, ...]
) -> SamplerTable:
    if algorithm.startswith("sde") and settings.integer("solver_order", 2, 1, 3) > 2:
        raise settings.fail("solver_order", "1 or 2 with noise")
    steps, train_steps = len(points.timesteps), _train_steps(settings)
    start = Start.read(settings, steps, points.timesteps, train_steps)
    b = Builder()
    x = solve(b, settings, points, start, clean, algorithm, orders=orders)
    return b.table(settings.sampler, steps, x, start, train_steps=train_steps, first_noise=first_noise)


def _train_steps(settings: Settings) -> int:
    return settings.integer("num_train_timesteps", 1000, 1, MAX_TRAIN_STEPS)


def _sigmas(settings: Settings, steps: int, low: float, high: float, kind: str) -> tuple[np.ndarray, float]:
    """(sigmas float32[steps + 1], the factor of a run's first noise); `low`, `high`, `kind` are the
    class's defaults."""
    settings.refuse_betas()
    low = settings.number("sigma_min", low, 1e-10, 1e6)
    high = settings.number("sigma_max", high, low, 1e6)
    rho = settings.number("rho", 7.0, 0.1, 100.0)
    given = settings.falling("sigmas", steps, 1e-10, 1e6)
    karras = settings.choice("sigma_schedule", kind, "karras", "exponential") == "karras"
    # A single step of the other curve is at its low end, as in the reference.
    levels = curve("karras", high, low, steps, rho) if karras else curve("exponential", low, high, steps)[::-1]
    if given is not None:
        levels = np.array(given)
    zero = settings.choice("final_sigmas_type", "zero", "zero", "sigma_min") == "zero"
    end = 0.0 if zero else float(levels[-1]) if settings.sampler == "edm_euler" else low
    return np.append(levels, end).astype(np.float32), (high**2 + 1) ** 0.5


def _levels(sigmas: np.ndarray) -> list[Level]:
    return [Level(1.0, float(sigma)) for sigma in sigmas]


def _log_times(sigmas: np.ndarray) -> list[float]:
    return (np.float32(0.25) * np.log(sigmas[:-1])).tolist()


def _preconditioned(settings: Settings, sigmas: np.ndarray, data: float, prediction: str) -> tuple[Clean, list[float]]:
    """(what the model's output means, what its input is scaled by, per call)."""
    data = settings.number("sigma_data", data, 1e-6, 1e6)
    sign = 1.0 if settings.choice("prediction_type", prediction, "epsilon", "v_prediction") == "epsilon" else -1.0

    def clean(sample: Value, output: Value, at: Level) -> Value:
        both = at.sigma**2 + data**2
        return data**2 / both * sample + sign * at.sigma * data / both**0.5 * output

    return clean, [1 / (float(sigma) ** 2 + data**2) ** 0.5 for sigma in sigmas[:-1]]
