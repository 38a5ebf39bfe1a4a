"""DEIS in log-rho: polynomials through the last noises, integrated over rho = sigma / alpha.

Source: arXiv 2204.13902. Reference: diffusers' `DEISMultistepScheduler`.
"""

from __future__ import annotations

import math

from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.levels import SOLVER_PREDICTIONS, Ends, Level, clean_of, levels_of
from ondevice.diffusion.samplers.schedule import read_schedule
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import SamplerTable


def deis(settings: Settings, steps: int) -> SamplerTable:
    """Orders 1 to 3, lower at both ends."""
    settings.refuse("thresholding", False, False, None)
    settings.choice("algorithm_type", "deis", "deis", "dpmsolver", "dpmsolver++")
    settings.choice("solver_type", "logrho", "logrho", "midpoint", "heun", "bh1", "bh2")
    schedule = read_schedule(settings, spacing="linspace", predictions=SOLVER_PREDICTIONS)
    timesteps, levels = levels_of(
        settings, schedule, steps, ends=Ends(choice=False), kinds=("karras", "exponential", "beta")
    )
    clean = clean_of(settings, schedule)
    most = settings.integer("solver_order", 2, 1, 3)
    lower_final = settings.flag("lower_order_final", True) and steps < 15
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    b = Builder()
    x = b.sample
    history: list[Value] = []
    for i in range(start.skipped, len(timesteps)):
        at = levels[i]
        seen = clean(x, b.call(x, timesteps[i], at.noised), at)
        history = [b.keep((x - at.alpha * seen) / at.sigma), *history[: most - 1]]
        order = min(len(history), len(timesteps) - i) if lower_final else len(history)
        x = b.keep(_step(x, history[:order], levels[i + 1 - order : i + 2]))
    return b.table(settings.sampler, steps, x, start, train_steps=schedule.train_steps)


def _step(x: Value, noises: list[Value], levels: list[Level]) -> Value:
    """`noises`: newest first; `levels`: oldest first, the last being the step's end."""
    end, now = levels[-1], levels[-2]
    if len(noises) == 1:
        return end.alpha / now.alpha * x - end.sigma * math.expm1(end.lam - now.lam) * noises[0]
    rhos = [level.sigma / level.alpha for level in levels]
    to, *nodes = rhos[::-1]
    moved = x / now.alpha
    for j, noise in enumerate(noises):
        others = [math.log(node) for k, node in enumerate(nodes) if k != j]
        weight = _integral(to, others) - _integral(nodes[0], others)
        for other in others:
            weight = weight / (math.log(nodes[j]) - other)
        moved = moved + weight * noise
    return end.alpha * moved


def _integral(rho: float, roots: list[float]) -> float:
    """Of the product of (log rho - root) over the roots, from 0 to rho."""
    log = math.log(rho)
    if len(roots) == 1:
        return rho * (log - 1 - roots[0])
    first, second = roots
    return rho * (log**2 - (2 + first + second) * log + 2 + first + second + first * second)
