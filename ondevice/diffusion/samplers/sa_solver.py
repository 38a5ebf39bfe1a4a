"""SA-Solver: stochastic Adams methods, predictor and corrector.

Source: arXiv 2309.05019. Reference: diffusers' `SASolverScheduler`, whose noise is on between timesteps 200 and 800.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.lagrange import lagrange
from ondevice.diffusion.samplers.levels import SOLVER_PREDICTIONS, Ends, Level, clean_of, levels_of, noise_of
from ondevice.diffusion.samplers.multistep import VARIANCES, last_timestep
from ondevice.diffusion.samplers.schedule import read_schedule
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import SamplerTable


def sa_solver(settings: Settings, steps: int) -> SamplerTable:
    """`predictor_order` 1 to 4 and `corrector_order` 1 to 4, lower at both ends; each step draws."""
    settings.refuse("thresholding", False, False, None)
    settings.refuse("tau_func", None, None)
    settings.choice("variance_type", *VARIANCES[:1], *VARIANCES)
    schedule = read_schedule(settings, spacing="linspace", predictions=SOLVER_PREDICTIONS)
    of_clean = settings.choice("algorithm_type", "data_prediction", "data_prediction", "noise_prediction") == (
        "data_prediction"
    )
    timesteps, levels = levels_of(
        settings,
        schedule,
        steps,
        ends=Ends(choice=False),
        kinds=("karras", "exponential", "beta"),
        last=last_timestep(settings, schedule),
    )
    clean = clean_of(settings, schedule)
    if not of_clean and schedule.prediction == "flow_prediction":
        raise settings.fail("algorithm_type", "data_prediction with flow_prediction")
    most_predicted = settings.integer("predictor_order", 2, 1, 4)
    most_corrected = settings.integer("corrector_order", 2, 1, 4)
    kept = max(most_predicted, most_corrected - 1)
    lower_final = settings.flag("lower_order_final", True)
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    solver = _Steps(levels, of_clean)
    b = Builder()
    x = before = b.sample
    history: list[Value] = []
    draw: Value | None = None
    order, tau = 0, 0.0
    for i in range(start.skipped, len(timesteps)):
        at = levels[i]
        output = b.call(x, timesteps[i], schedule.noised(timesteps[i]))  # as the class's `add_noise` has it
        newest = b.keep(clean(x, output, at) if of_clean else noise_of(schedule, x, output, at))
        if draw is not None:
            x = b.keep(solver.step(before, [newest, *history], draw, i - 1, newest=i, order=order, tau=tau))
        used = len(history)
        history = [newest, *history[: kept - 1]]
        left = len(timesteps) - i
        order = min(most_predicted, left) if lower_final else most_predicted
        tau = 1.0 if 200 <= timesteps[i] <= 800 else 0.0
        before, draw = x, b.keep(b.noise())
        x = b.keep(solver.step(x, history, draw, i, newest=i, order=min(order, used + 1), tau=tau))
        order = min(most_corrected, left + 1) if lower_final else most_corrected
        order = min(order, used + 2)
    return b.table(settings.sampler, steps, x, start, train_steps=schedule.train_steps)


@dataclass(frozen=True)
class _Steps:
    """Steps between `levels`, by clean images or by noises."""

    levels: list[Level]
    of_clean: bool

    def step(
        self, x: Value, outputs: list[Value], draw: Value, i: int, *, newest: int, order: int, tau: float
    ) -> Value:
        """From level i to i + 1, by the polynomial through `order` outputs, the first made at level `newest`."""
        now, end = self.levels[i], self.levels[i + 1]
        h = float(end.lam - now.lam)
        nodes = [float(self.levels[newest - k].lam) for k in range(order)]
        rate = 1 + tau**2 if self.of_clean else -1.0
        weights = _weights(nodes, float(now.lam), float(end.lam), rate)
        if self.of_clean and order == 2:
            # The reference's own second-order terms, for the predictor and the corrector.
            curve = (h * rate - 1 + math.exp(-rate * h)) / rate**2
            more = (h**2 / 2 - curve) / (nodes[0] - nodes[1]) if newest == i else h / 2 - curve / h
            more = math.exp(rate * end.lam) * more
            weights = [weights[0] + more, weights[1] - more]
        moved = math.exp(-(tau**2) * h) * end.sigma / now.sigma * x if self.of_clean else end.alpha / now.alpha * x
        factor = rate * end.sigma * math.exp(-(tau**2) * end.lam) if self.of_clean else -(1 + tau**2) * end.alpha
        for weight, output in zip(weights, outputs, strict=False):
            moved = moved + factor * weight * output
        spread = math.sqrt(-math.expm1(-2 * tau**2 * h)) if self.of_clean else tau * math.sqrt(math.expm1(2 * h))
        return moved + end.sigma * spread * draw


def _weights(nodes: list[float], low: float, high: float, rate: float) -> list[float]:
    """Integral from `low` to `high` of each Lagrange basis polynomial through `nodes` times exp(rate * lambda)."""
    weights = []
    for basis in lagrange(nodes):
        total = 0.0
        for at, sign in ((high, 1.0), (low, -1.0)):
            # By parts: sum of (-1)^n p^(n) / rate^(n + 1).
            derivative, scale = basis, 1 / rate
            for _ in nodes:
                total += sign * scale * float(derivative(at)) * math.exp(rate * at)
                derivative, scale = derivative.deriv(), -scale / rate
        weights.append(total)
    return weights
