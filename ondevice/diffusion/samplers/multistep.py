"""DPM-Solver and DPM-Solver++, multistep: arXiv 2206.00927, and 2211.01095 (algorithm 2; third order: appendix B).

Reference: diffusers' `DPMSolverMultistepScheduler`. The "++" solvers integrate the clean image that the model's output
means, the others its noise.
"""

from __future__ import annotations

import math

import numpy as np

from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.levels import (
    SOLVER_PREDICTIONS,
    Clean,
    Ends,
    Level,
    Points,
    clean_of,
    levels_of,
    noise_of,
)
from ondevice.diffusion.samplers.schedule import Schedule, read_schedule
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import SamplerTable

ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
# Of other classes' solver types, in whose place midpoint stands.
SOLVERS = ("midpoint", "heun", "logrho", "bh1", "bh2")
# None of these changes anything, unless the variance is learned.
VARIANCES = (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")


def dpmpp_2m(settings: Settings, steps: int) -> SamplerTable:
    """Order `solver_order`, lower at both ends; `algorithm_type` sde-dpmsolver++ (or sde-dpmsolver) adds noise."""
    settings.refuse("thresholding", False, False, None)
    settings.choice("variance_type", *VARIANCES[:1], *VARIANCES)
    schedule = read_schedule(
        settings, spacing="linspace", zero_snr=True, floor_zero_snr=True, predictions=SOLVER_PREDICTIONS
    )
    algorithm = algorithm_of(settings)
    last = last_timestep(settings, schedule)
    timesteps, levels = levels_of(
        settings,
        schedule,
        steps,
        ends=Ends(),
        kinds=("karras", "exponential", "beta", "lu"),
        last=last,
        rounds=schedule_rounds(settings),
    )
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    b = Builder()
    convert = converted(settings, schedule, algorithm)
    x = solve(b, settings, Points(timesteps, levels), start, convert, algorithm, orders=(1, 2, 3))
    return b.table(settings.sampler, steps, x, start, train_steps=schedule.train_steps)


def algorithm_of(settings: Settings) -> str:
    """One of ALGORITHMS. The older ones, which integrate noise, cannot end without any."""
    algorithm = str(settings.choice("algorithm_type", "dpmsolver++", *ALGORITHMS, "deis"))
    if (
        algorithm in ("dpmsolver", "sde-dpmsolver")
        and settings.choice("final_sigmas_type", "zero", "zero", "sigma_min") == "zero"
    ):
        raise settings.fail("algorithm_type", "dpmsolver++ or sde-dpmsolver++ unless final_sigmas_type is sigma_min")
    return "dpmsolver++" if algorithm == "deis" else algorithm


def converted(settings: Settings, schedule: Schedule, algorithm: str) -> Clean:
    """What a solver integrates, from (sample, model's output, level)."""
    if algorithm.endswith("++"):
        return clean_of(settings, schedule)
    if schedule.prediction == "flow_prediction":
        raise settings.fail("prediction_type", "another with algorithm_type dpmsolver")
    return lambda sample, output, at: noise_of(schedule, sample, output, at)


def last_timestep(settings: Settings, schedule: Schedule) -> int:
    """Where evenly spaced timesteps stop, by `lambda_min_clipped`."""
    floor = settings.number("lambda_min_clipped", -math.inf)
    alphas = schedule.alphas_cumprod
    lambdas = np.log(np.sqrt(alphas)) - np.log(np.sqrt(np.float32(1) - alphas))
    last = schedule.train_steps - int(np.searchsorted(lambdas[::-1], np.float32(floor)))
    if last < 1:
        raise settings.fail("lambda_min_clipped", f"less than {lambdas[0]:.3g}")
    return last


def schedule_rounds(settings: Settings) -> bool:
    """Whether Karras timesteps are rounded: not for the cosine schedule."""
    return (
        settings.choice("beta_schedule", "linear", "linear", "scaled_linear", "squaredcos_cap_v2")
        != "squaredcos_cap_v2"
    )


def solve(
    b: Builder,
    settings: Settings,
    points: Points,
    start: Start,
    converted: Clean,
    algorithm: str,
    *,
    orders: tuple[int, ...],
) -> Value:
    """The sample at the end. `orders`: those that the class has for deterministic steps; with noise, the third exists
    for sde-dpmsolver++ alone."""
    timesteps, levels = points.timesteps, points.levels
    order = settings.integer("solver_order", 2, 1, max(orders))
    heun = settings.choice("solver_type", "midpoint", *SOLVERS) == "heun"
    sde = algorithm.startswith("sde")
    steps = len(timesteps)
    lower_final = settings.flag("lower_order_final", True) and steps < 15
    euler_final = settings.flag("euler_at_final", False)
    to_zero = settings.choice("final_sigmas_type", "zero", "zero", "sigma_min") == "zero"
    first_final = lower_final or euler_final or to_zero
    x = b.sample
    history: list[Value] = []
    for i in range(start.skipped, steps):
        left = steps - 1 - i
        output = b.call(x, timesteps[i], levels[i].noised, points.scales[i] if points.scales else 1.0)
        history = [b.keep(converted(x, output, levels[i])), *history[: order - 1]]
        usable = len(history)
        if left == 0 and first_final:
            usable = 1
        elif left == 1 and lower_final:
            usable = min(usable, 2)
        if usable == 3 and algorithm == "sde-dpmsolver":
            raise settings.fail("solver_order", "1 or 2 with algorithm_type sde-dpmsolver")
        step = dpm_step(x, history[:usable], levels[max(i + 1 - usable, 0) : i + 2], heun, algorithm)
        x = b.keep(step + fresh_noise(levels[i], levels[i + 1], algorithm) * b.noise() if sde else step)
    return x


def fresh_noise(now: Level, end: Level, algorithm: str) -> float:
    """The factor of the draw in a stochastic step."""
    h = end.lam - now.lam
    return float(end.sigma * math.sqrt(-math.expm1(-2 * h) if algorithm.endswith("++") else math.expm1(2 * h)))


def dpm_step(x: Value, outputs: list[Value], levels: list[Level], heun: bool, algorithm: str) -> Value:
    """One step of order len(outputs). `outputs`: clean images or noises, newest first; `levels`: oldest first, the last
    being the step's end."""
    end, now = levels[-1], levels[-2]
    h = end.lam - now.lam
    if not algorithm.endswith("++"):
        return _noise_step(x, outputs, levels, heun, 2.0 if algorithm.startswith("sde") else 1.0)
    sde = algorithm.startswith("sde")
    # The stochastic solver integrates the same polynomial over twice the distance.
    g = 2 * h if sde else h
    grow = -math.expm1(-g)
    moved = end.sigma / now.sigma * (math.exp(-h) if sde else 1.0) * x + end.alpha * grow * outputs[0]
    if len(outputs) == 1:
        return moved
    d1, d2 = _derivatives(outputs, levels)
    if d2 is None:
        if not heun:
            return moved + 0.5 * end.alpha * grow * d1
        return moved + end.alpha * (1 - grow / g) * d1
    # The reference's stochastic solver has the sign of 1/2 the other way round here, and is followed.
    curve = (grow - g) / g**2 - 0.5 if sde else 0.5 - (g - grow) / g**2
    return moved + end.alpha * (1 - grow / g) * d1 + end.alpha * curve * d2


def _derivatives(outputs: list[Value], levels: list[Level]) -> tuple[Value, Value | None]:
    """Differences of the outputs, as derivatives by lambda over the step (D1, D2 in the paper)."""
    now = levels[-2]
    h = levels[-1].lam - now.lam
    r0 = (now.lam - levels[-3].lam) / h
    d1 = (outputs[0] - outputs[1]) / r0
    if len(outputs) == 2:
        return d1, None
    r1 = (levels[-3].lam - levels[-4].lam) / h
    older = (outputs[1] - outputs[2]) / r1
    d2 = (d1 - older) / (r0 + r1)
    return d1 + r0 * d2, d2


def _noise_step(x: Value, noises: list[Value], levels: list[Level], heun: bool, twice: float) -> Value:
    """The same where noise is integrated. `twice`: 2 for the stochastic solver, which moves so much further."""
    end, now = levels[-1], levels[-2]
    h = end.lam - now.lam
    grow = math.expm1(h)
    moved = end.alpha / now.alpha * x - twice * end.sigma * grow * noises[0]
    if len(noises) == 1:
        return moved
    d1, d2 = _derivatives(noises, levels)
    if d2 is None:
        return moved - twice * end.sigma * (grow / h - 1 if heun else 0.5 * grow) * d1
    return moved - end.sigma * (grow / h - 1) * d1 - end.sigma * ((grow - h) / h**2 - 0.5) * d2
