"""Multistep solvers in the half log-SNR, lambda = log(alpha / sigma): DPM-Solver++ and UniPC.

Sources: arXiv 2211.01095 (DPM-Solver++, algorithm 2; third order: appendix B), 2302.04867 (UniPC, algorithms 5 to 8);
diffusers' `DPMSolverMultistepScheduler` and `UniPCMultistepScheduler`. Both predict the clean image and integrate it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.schedule import Schedule, read_schedule, respaced, whole_timesteps
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import SamplerTable


@dataclass(frozen=True)
class Level:
    """One point of the schedule: alpha**2 + sigma**2 = 1."""

    alpha: float
    sigma: float

    @property
    def lam(self) -> np.float64:
        """Half log-SNR. A NumPy number, so that steps of no length divide as they do in the reference:
        to infinity or NaN."""
        return np.float64(math.log(self.alpha / self.sigma) if self.sigma else math.inf)

    @property
    def noised(self) -> tuple[float, float]:
        """Factors of image and noise in a sample here."""
        return self.alpha, self.sigma

    @classmethod
    def of(cls, ratio: float) -> Level:
        """From sigma / alpha."""
        alpha = 1 / (ratio**2 + 1) ** 0.5
        return cls(alpha, ratio * alpha)


def _levels(
    settings: Settings, schedule: Schedule, steps: int, last: int | None, *, whole: bool, last_of_respaced: bool
) -> tuple[list[int], list[Level]]:
    """(timesteps, levels): one level more than timesteps.

    `whole`: respaced timesteps are rounded, not cut off, to integers. `last_of_respaced`: the end `sigma_min` is the
    respaced sigmas' own last, not the schedule's first.
    """
    timesteps = whole_timesteps(schedule, steps, extra=int(schedule.spacing != "trailing"), last=last).astype(
        np.float64
    )
    ratios = np.interp(timesteps, np.arange(schedule.train_steps), schedule.sigmas)
    end = float(schedule.sigmas[0])
    if other := respaced(schedule, schedule.sigmas[::-1], steps):
        ratios, timesteps = other
        if whole and settings.flag("use_karras_sigmas", False):
            timesteps = timesteps.round()
        if last_of_respaced:
            end = float(ratios[-1])
    if settings.choice("final_sigmas_type", "zero", "zero", "sigma_min") == "zero":
        end = 0.0
    levels = [Level.of(float(r)) for r in np.append(ratios, end).astype(np.float32)]
    return [int(t) for t in timesteps], levels


def _clean(schedule: Schedule, sample: Value, output: Value, at: Level) -> Value:
    """The clean image that the model's output means."""
    if schedule.prediction == "epsilon":
        return (sample - at.sigma * output) / at.alpha
    if schedule.prediction == "v_prediction":
        return at.alpha * sample - at.sigma * output
    return output


def dpmpp_2m(settings: Settings, steps: int) -> SamplerTable:
    """DPM-Solver++, order `solver_order`, lower at both ends; `algorithm_type` sde-dpmsolver++ adds noise."""
    settings.refuse("thresholding", False, False, None)
    settings.refuse("use_lu_lambdas", False, False, None)
    settings.refuse("use_flow_sigmas", False, False, None)
    # idle, unless learned
    settings.choice("variance_type", None, None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
    schedule = read_schedule(settings, spacing="linspace", zero_snr=True, floor_zero_snr=True)
    order = settings.integer("solver_order", 2, 1, 3)
    sde = (
        settings.choice("algorithm_type", "dpmsolver++", "dpmsolver++", "sde-dpmsolver++", "deis") == "sde-dpmsolver++"
    )
    heun = settings.choice("solver_type", "midpoint", "midpoint", "heun", "logrho", "bh1", "bh2") == "heun"
    lower_final = settings.flag("lower_order_final", True) and steps < 15
    euler_final = settings.flag("euler_at_final", False)
    to_zero = settings.choice("final_sigmas_type", "zero", "zero", "sigma_min") == "zero"
    first_final = lower_final or euler_final or to_zero
    floor = settings.number("lambda_min_clipped", -math.inf)
    alphas = schedule.alphas_cumprod
    lambdas = np.log(np.sqrt(alphas)) - np.log(np.sqrt(np.float32(1) - alphas))
    last = schedule.train_steps - int(np.searchsorted(lambdas[::-1], np.float32(floor)))
    if last < 1:
        raise settings.fail("lambda_min_clipped", f"less than {lambdas[0]:.3g}")
    timesteps, levels = _levels(
        settings, schedule, steps, last, whole=schedule_rounds(settings), last_of_respaced=False
    )
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    b = Builder()
    x = b.sample
    history: list[Value] = []
    for i in range(start.skipped, len(timesteps)):
        left = len(timesteps) - 1 - i
        history = [
            b.keep(_clean(schedule, x, b.call(x, timesteps[i], levels[i].noised), levels[i])),
            *history[: order - 1],
        ]
        usable = len(history)
        if left == 0 and first_final:
            usable = 1
        elif left == 1 and lower_final:
            usable = min(usable, 2)
        step = _dpm_step(x, history[:usable], levels[max(i + 1 - usable, 0) : i + 2], heun, sde)
        if sde:
            h = levels[i + 1].lam - levels[i].lam
            step = step + levels[i + 1].sigma * math.sqrt(-math.expm1(-2 * h)) * b.noise()
        x = b.keep(step)
    return b.table(settings.sampler, steps, x, start, train_steps=schedule.train_steps)


def schedule_rounds(settings: Settings) -> bool:
    """Whether Karras timesteps are rounded: not for the cosine schedule."""
    return (
        settings.choice("beta_schedule", "linear", "linear", "scaled_linear", "squaredcos_cap_v2")
        != "squaredcos_cap_v2"
    )


def _dpm_step(x: Value, clean: list[Value], levels: list[Level], heun: bool, sde: bool) -> Value:
    """One step of order len(clean). `clean`: newest first; `levels`: oldest first, the last being the step's end."""
    end, now = levels[-1], levels[-2]
    h = end.lam - now.lam
    # The stochastic solver integrates the same polynomial over twice the distance.
    g = 2 * h if sde else h
    grow = -math.expm1(-g)
    moved = end.sigma / now.sigma * (math.exp(-h) if sde else 1.0) * x + end.alpha * grow * clean[0]
    if len(clean) == 1:
        return moved
    # Differences of the clean images, as derivatives by lambda over the step (D1, D2 in the paper).
    r0 = (now.lam - levels[-3].lam) / h
    d1 = (clean[0] - clean[1]) / r0
    if len(clean) == 2:
        if not heun:
            return moved + 0.5 * end.alpha * grow * d1
        return moved + end.alpha * (1 - grow / g) * d1
    r1 = (levels[-3].lam - levels[-4].lam) / h
    older = (clean[1] - clean[2]) / r1
    d2 = (d1 - older) / (r0 + r1)
    d1 = d1 + r0 * d2
    # The reference's stochastic solver has the sign of 1/2 the other way round here, and is followed.
    curve = (grow - g) / g**2 - 0.5 if sde else 0.5 - (g - grow) / g**2
    return moved + end.alpha * (1 - grow / g) * d1 + end.alpha * curve * d2


def unipc(settings: Settings, steps: int) -> SamplerTable:
    """UniPC: each output first corrects the sample it was made from, then predicts the next."""
    settings.refuse("thresholding", False, False, None)
    settings.refuse("use_flow_sigmas", False, False, None)
    settings.refuse("use_dynamic_shifting", False, False, None)
    settings.refuse("shift_terminal", None, None)
    settings.refuse("solver_p", None, None)
    settings.refuse("predict_x0", True, True)
    schedule = read_schedule(settings, spacing="linspace", zero_snr=True, floor_zero_snr=True)
    most = settings.integer("solver_order", 2, 1, 5)
    bh1 = settings.choice("solver_type", "bh2", "bh1", "bh2", "midpoint", "heun", "logrho") == "bh1"
    lower_final = settings.flag("lower_order_final", True)
    uncorrected = settings.integers("disable_corrector")
    timesteps, levels = _levels(settings, schedule, steps, None, whole=True, last_of_respaced=True)
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    b = Builder()
    x = before = b.sample
    history: list[Value] = []
    order = 0
    for i in range(start.skipped, len(timesteps)):
        clean = b.keep(_clean(schedule, x, b.call(x, timesteps[i], levels[i].noised), levels[i]))
        if history and i - 1 not in uncorrected:
            x = b.keep(_unipc_step(before, history, clean, levels, i - 1, order, bh1))
        history = [clean, *history[: most - 1]]
        order = min(most, len(timesteps) - i) if lower_final else most
        order = min(order, len(history))
        before = x
        x = b.keep(_unipc_step(before, history, None, levels, i, order, bh1))
    return b.table(settings.sampler, steps, x, start, train_steps=schedule.train_steps)


def _unipc_step(
    x: Value, clean: list[Value], newest: Value | None, levels: list[Level], i: int, order: int, bh1: bool
) -> Value:
    """From level i to i + 1. `clean`: newest first, made at i, i - 1, ...; `newest`:
    the one made at i + 1, when correcting."""
    end, now = levels[i + 1], levels[i]
    h = end.lam - now.lam
    ratios = [(levels[i - k].lam - now.lam) / h for k in range(1, order)]
    differences = [(clean[k] - clean[0]) / ratio for k, ratio in enumerate(ratios, 1)]
    if newest is not None:
        differences.append(newest - clean[0])
    grow = math.expm1(-h)
    moved = end.sigma / now.sigma * x - end.alpha * grow * clean[0]
    if not differences:
        return moved
    # One difference gets 1/2 and not the equation's answer, in the paper's code and in the reference alike.
    weights = [0.5] if len(differences) == 1 else _unipc_weights([*ratios, 1.0][: len(differences)], -h, bh1)
    for weight, difference in zip(weights, differences, strict=True):
        moved = moved - end.alpha * (-h if bh1 else grow) * weight * difference
    return moved


def _unipc_weights(ratios: list[float], hh: float, bh1: bool) -> list[float]:
    """Solves equation 5 of the paper: sum_m weight[m] * ratios[m]**k = b[k] for k below len(ratios)."""
    below = hh if bh1 else math.expm1(hh)
    phi = math.expm1(hh) / hh - 1
    factorial = 1
    b = []
    for k in range(1, len(ratios) + 1):
        b.append(phi * factorial / below)
        factorial *= k + 1
        phi = phi / hh - 1 / factorial
    try:
        return [float(w) for w in np.linalg.solve(np.vander(ratios, increasing=True).T, b)]
    except np.linalg.LinAlgError:
        # two levels in one place, or an infinite step; the builder refuses the infinity by name
        return [math.inf] * len(ratios)
