"""DPM-Solver++, single step (DPM++ 2S): a step of order k is made of k calls, all of which begin at its sample.

Sources: arXiv 2211.01095, algorithm 1; 2206.00927, algorithms 4 and 5. Reference: diffusers'
`DPMSolverSinglestepScheduler`.
"""

from __future__ import annotations

import math

from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.levels import SOLVER_PREDICTIONS, Ends, Level, levels_of
from ondevice.diffusion.samplers.multistep import (
    SOLVERS,
    VARIANCES,
    algorithm_of,
    converted,
    dpm_step,
    fresh_noise,
    last_timestep,
)
from ondevice.diffusion.samplers.schedule import read_schedule
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import SamplerTable


def dpmpp_2s(settings: Settings, steps: int) -> SamplerTable:
    """Orders 1 to 3. The noise of sde-dpmsolver++ is drawn in each call, that of a step's earlier ones being lost."""
    settings.refuse("thresholding", False, False, None)
    settings.choice("variance_type", *VARIANCES[:1], *VARIANCES)
    schedule = read_schedule(settings, spacing=None, predictions=SOLVER_PREDICTIONS)
    algorithm = algorithm_of(settings)
    if algorithm == "sde-dpmsolver":
        raise settings.fail("algorithm_type", "dpmsolver++, sde-dpmsolver++ or dpmsolver")
    most = settings.integer("solver_order", 2, 1, 3)
    heun = settings.choice("solver_type", "midpoint", *SOLVERS) == "heun"
    last = last_timestep(settings, schedule)
    timesteps, levels = levels_of(
        settings, schedule, steps, ends=Ends(), kinds=("karras", "exponential", "beta"), last=last
    )
    orders = _orders(settings, most, steps)
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    convert = converted(settings, schedule, algorithm)
    b = Builder()
    x = first = b.sample
    history: list[Value] = []
    for i in range(start.skipped, len(timesteps)):
        history = [b.keep(convert(x, b.call(x, timesteps[i], levels[i].noised), levels[i])), *history[: most - 1]]
        order = min(orders[i], len(history))
        if order == 1:
            first = x
        step = _step(first, history[:order], levels[i + 1 - order : i + 2], heun, algorithm)
        if algorithm == "sde-dpmsolver++":
            step = step + fresh_noise(levels[i + 1 - order], levels[i + 1], algorithm) * b.noise()
        x = b.keep(step)
    return b.table(settings.sampler, steps, x, start, train_steps=schedule.train_steps)


def _orders(settings: Settings, most: int, steps: int) -> list[int]:
    """The order of each call: 1, 2, 3, 1, 2, 3..., lower at the end."""
    to_zero = settings.choice("final_sigmas_type", "zero", "zero", "sigma_min") == "zero"
    lower_final = settings.flag("lower_order_final", False)
    orders = [1 + i % most for i in range(steps)]
    if lower_final or steps % most or to_zero:
        if most > 1 and steps % most == 0:
            orders[-2:] = [2, 1] if most == 3 else [1, 1]
        orders[-1] = 1 if to_zero else orders[-1]
    return orders


def _step(x: Value, outputs: list[Value], levels: list[Level], heun: bool, algorithm: str) -> Value:
    """From the first of `levels` to the last. `outputs`: newest first; `levels`: oldest first."""
    if len(outputs) == 1:
        return dpm_step(x, outputs, levels, heun, algorithm)
    first, end = levels[0], levels[-1]
    h = end.lam - first.lam
    base = outputs[-1]
    # How far into the step each later output was made, and its slope from the first.
    ratios = [(level.lam - first.lam) / h for level in levels[1:-1]]
    slopes = [(output - base) / ratio for output, ratio in zip(outputs[-2::-1], ratios, strict=True)]
    sign = -1.0 if algorithm.endswith("++") else 1.0
    g = sign * (2 * h if algorithm.startswith("sde") else h)
    grow = math.expm1(g)
    if sign < 0:
        to = end.alpha
        moved = end.sigma / first.sigma * (math.exp(-h) if algorithm.startswith("sde") else 1.0) * x
    else:
        to = end.sigma
        moved = end.alpha / first.alpha * x
    moved = moved - to * grow * base
    by_slope = to * (1 - grow / g) if sign < 0 else -to * (grow / g - 1)
    if len(outputs) == 2:
        return moved + (by_slope if heun else -0.5 * to * grow) * slopes[0]
    if not heun:
        return moved + by_slope * slopes[1]
    near, far = ratios
    d1 = (far * slopes[0] - near * slopes[1]) / (far - near)
    d2 = 2.0 * (slopes[1] - slopes[0]) / (far - near)
    curve = (g - grow) / g**2 + (-0.5 if algorithm.startswith("sde") else 0.5)  # signs as in the reference
    return moved + by_slope * d1 + to * curve * d2
