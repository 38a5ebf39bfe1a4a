"""UniPC: arXiv 2302.04867, algorithms 5 to 8. Reference: diffusers' `UniPCMultistepScheduler`."""

from __future__ import annotations

import math

import numpy as np

from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.levels import (
    SOLVER_PREDICTIONS,
    Ends,
    Level,
    clean_of,
    levels_of,
    noise_of,
    shift_by_size,
    shifted,
)
from ondevice.diffusion.samplers.respacing import curve
from ondevice.diffusion.samplers.schedule import Schedule, read_schedule
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import SamplerTable


def unipc(settings: Settings, steps: int) -> SamplerTable:
    """Each output first corrects the sample it was made from, then predicts the next."""
    settings.refuse("thresholding", False, False, None)
    settings.refuse("solver_p", None, None)
    schedule = read_schedule(
        settings, spacing="linspace", zero_snr=True, floor_zero_snr=True, predictions=SOLVER_PREDICTIONS
    )
    most = settings.integer("solver_order", 2, 1, 5)
    bh1 = settings.choice("solver_type", "bh2", "bh1", "bh2", "midpoint", "heun", "logrho") == "bh1"
    lower_final = settings.flag("lower_order_final", True)
    uncorrected = settings.integers("disable_corrector")
    of_clean = settings.flag("predict_x0", True)
    if settings.flag("use_flow_sigmas", False):
        timesteps, levels = _flow_levels(settings, schedule, steps)
    else:
        settings.refuse("shift_terminal", None, None)
        shift_by_size(settings)  # refused without a size, though nothing is shifted here
        timesteps, levels = levels_of(
            settings, schedule, steps, ends=Ends(of_respaced=True), kinds=("karras", "exponential", "beta")
        )
    clean = clean_of(settings, schedule)
    if not of_clean and (schedule.prediction == "flow_prediction" or levels[-1].sigma == 0):
        raise settings.fail("predict_x0", "true, unless final_sigmas_type is sigma_min and no flow is predicted")
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    b = Builder()
    x = before = b.sample
    history: list[Value] = []
    order = 0
    for i in range(start.skipped, len(timesteps)):
        output = b.call(x, timesteps[i], levels[i].noised)
        newest = b.keep(clean(x, output, levels[i]) if of_clean else noise_of(schedule, x, output, levels[i]))
        if history and i - 1 not in uncorrected:
            x = b.keep(_step(before, history, newest, levels, i - 1, order, bh1, of_clean))
        history = [newest, *history[: most - 1]]
        order = min(most, len(timesteps) - i) if lower_final else most
        order = min(order, len(history))
        before = x
        x = b.keep(_step(before, history, None, levels, i, order, bh1, of_clean))
    return b.table(settings.sampler, steps, x, start, train_steps=schedule.train_steps)


def _flow_levels(settings: Settings, schedule: Schedule, steps: int) -> tuple[list[int], list[Level]]:
    """(timesteps, levels) of flow matching, one level more than timesteps."""
    for curved in ("exponential", "beta"):
        settings.refuse(f"use_{curved}_sigmas", False, False, None)
    mu = shift_by_size(settings)
    shift = settings.number("flow_shift", 1.0, 1e-6, 1e6)
    terminal = settings.optional_number("shift_terminal", None, 0.0, 0.999)
    given = settings.falling("sigmas", steps, 1e-6, 1.0)
    if settings.flag("use_karras_sigmas", False):
        if given is not None:
            raise settings.fail("sigmas", "none beside use_karras_sigmas")
        ratios = curve("karras", float(schedule.sigmas[-1]), float(schedule.sigmas[0]), steps)
        sigmas = ratios / (ratios + 1)
    else:
        sigmas = np.linspace(1, 1 / schedule.train_steps, steps + 1)[:-1] if given is None else np.array(given)
        if mu is None:
            sigmas = shifted(sigmas, shift)
        else:
            kind = settings.choice("time_shift_type", "exponential", "exponential", "linear")
            sigmas = shifted(sigmas, math.exp(mu) if kind == "exponential" else mu)
        if terminal:
            sigmas = to_terminal(sigmas, terminal)
        if abs(sigmas[0] - 1) < 1e-6:
            sigmas[0] -= 1e-6  # a sample without any image has no lambda
    end = 0.0 if settings.choice("final_sigmas_type", "zero", "zero", "sigma_min") == "zero" else float(sigmas[-1])
    timesteps = [int(sigma * schedule.train_steps) for sigma in sigmas]
    return timesteps, [Level.of_flow(float(sigma)) for sigma in np.append(sigmas, end).astype(np.float32)]


def to_terminal(sigmas: np.ndarray, terminal: float) -> np.ndarray:
    """Levels stretched so that the last is `terminal`."""
    return np.asarray(1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - terminal)))


def _step(
    x: Value,
    outputs: list[Value],
    newest: Value | None,
    levels: list[Level],
    i: int,
    order: int,
    bh1: bool,
    of_clean: bool,
) -> Value:
    """From level i to i + 1. `outputs`: clean images or noises, newest first, made at i, i - 1, ...; `newest`:
    the one made at i + 1, when correcting."""
    end, now = levels[i + 1], levels[i]
    h = end.lam - now.lam
    ratios = [(levels[i - k].lam - now.lam) / h for k in range(1, order)]
    differences = [(outputs[k] - outputs[0]) / ratio for k, ratio in enumerate(ratios, 1)]
    if newest is not None:
        differences.append(newest - outputs[0])
    hh = -h if of_clean else h
    grow = math.expm1(hh)
    # The roles of alpha and sigma change where noise is integrated.
    (to, over) = (end.alpha, end.sigma / now.sigma) if of_clean else (end.sigma, end.alpha / now.alpha)
    moved = over * x - to * grow * outputs[0]
    if not differences:
        return moved
    # One difference gets 1/2 and not the equation's answer, in the paper's code and in the reference alike.
    weights = [0.5] if len(differences) == 1 else _weights([*ratios, 1.0][: len(differences)], hh, bh1)
    for weight, difference in zip(weights, differences, strict=True):
        moved = moved - to * (hh if bh1 else grow) * weight * difference
    return moved


def _weights(ratios: list[float], hh: float, bh1: bool) -> list[float]:
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
