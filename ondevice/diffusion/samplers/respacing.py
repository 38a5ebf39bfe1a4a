"""Levels of noise other than those of evenly spaced timesteps: given lists, and curves between the schedule's ends.

Sources: arXiv 2206.00364, equation 5 (Karras); 2407.12173 (beta); 2404.14507 (Align Your Steps, whose authors publish
the lists below and interpolate them between their logarithms for other counts); diffusers 0.42.1, `schedulers/*.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ondevice.diffusion.samplers.beta_quantile import beta_quantile
from ondevice.diffusion.samplers.schedule import Schedule

KINDS = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
    "lu": "use_lu_lambdas",
}
"""The curves and the config's keys for them."""

AYS: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "sd": (
        (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
        (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    ),
    "sdxl": (
        (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
        (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    ),
    "video": ((), (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)),
}
"""Align Your Steps: timesteps for ten steps, and levels of which the last is where the schedule ends."""


@dataclass(frozen=True)
class Respaced:
    """float64[steps] each, falling. `kind`: a key of KINDS, or "sigmas" or "timesteps" of a given list."""

    sigmas: np.ndarray
    timesteps: np.ndarray
    kind: str


def respaced(
    schedule: Schedule, in_sigmas: np.ndarray, steps: int, *, limits: bool = True, kinds: tuple[str, ...] = ()
) -> Respaced | None:
    """What the options `sigmas`, `timesteps` and `ays`, or the config's flags for `kinds`, ask for; None where they ask
    for nothing.

    `in_sigmas` falls; its ends are the range of a curve unless the config's `sigma_min`, `sigma_max` say otherwise
    (`limits`).
    """
    settings = schedule.settings
    asked = [kind for kind in kinds if settings.flag(KINDS[kind], False)]
    if "lu" in asked:  # it gives way to Karras, and others to it, as in the reference
        asked = ["karras" if "karras" in asked else "lu"]
    least, most = (
        (settings.optional_number(key, None, 1e-10, 1e6) for key in ("sigma_min", "sigma_max"))
        if kinds
        else (
            None,
            None,
        )
    )
    given = _given(schedule, steps)
    if given is None and not asked:
        return None
    if len(asked) + (given is not None) > 1:
        raise settings.fail(KINDS[asked[-1]], f"one kind of levels, not {given.kind if given else asked[0]} too")
    if given is not None:
        return given
    low, high = float(in_sigmas[-1]), float(in_sigmas[0])
    if limits:
        low, high = least or low, most or high
    sigmas = curve(asked[0], high, low, steps)
    return Respaced(sigmas, timesteps_of(sigmas, np.log(schedule.sigmas)), asked[0])


def curve(kind: str, high: float, low: float, steps: int, rho: float = 7.0) -> np.ndarray:
    """float64[steps] from `high` to `low`."""
    if kind == "karras":
        ramp = np.linspace(0, 1, steps)
        return np.asarray((high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho)
    if kind == "beta":
        return np.array([low + beta_quantile(1 - p, 0.6) * (high - low) for p in np.linspace(0, 1, steps).tolist()])
    # "lu" is linear in lambda, and so is "exponential".
    return np.exp(np.linspace(math.log(high), math.log(low), steps))


def given_timesteps(schedule: Schedule, steps: int) -> list[int] | None:
    """Whole timesteps from the options `timesteps` or `ays`, for classes without sigmas."""
    settings = schedule.settings
    timesteps = settings.falling("timesteps", steps, 0, schedule.train_steps - 1)
    if timesteps is not None and any(t != int(t) for t in timesteps):
        raise settings.fail("timesteps", "whole numbers")
    name = settings.choice("ays", None, None, *AYS)
    if name is not None:
        if timesteps is not None:
            raise settings.fail("ays", "nothing beside timesteps")
        if steps != len(AYS[name][0]):
            raise settings.fail("ays", f"{len(AYS[name][0]) or 'no'} steps with this sampler", "use another sampler")
        timesteps = list(AYS[name][0])
    return None if timesteps is None else [int(t) for t in timesteps]


def _given(schedule: Schedule, steps: int) -> Respaced | None:
    settings = schedule.settings
    sigmas = settings.falling("sigmas", steps, 1e-10, 1e6)
    timesteps = settings.falling("timesteps", steps, 0, schedule.train_steps - 1)
    name = settings.choice("ays", None, None, *AYS)
    if (sigmas is not None) + (timesteps is not None) + (name is not None) > 1:
        raise settings.fail("timesteps" if name is None else "ays", "one kind of levels, not another list too")
    if name is not None and steps == len(AYS[name][0]):
        timesteps = list(map(float, AYS[name][0]))
    elif name is not None:
        logs = np.log(AYS[name][1])
        sigmas = np.exp(np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(logs)), logs))[:-1].tolist()
    if timesteps is not None:
        at = np.array(timesteps)
        return Respaced(np.interp(at, np.arange(schedule.train_steps), schedule.sigmas), at, "timesteps")
    if sigmas is None:
        return None
    return Respaced(np.array(sigmas), timesteps_of(np.array(sigmas), np.log(schedule.sigmas)), "sigmas")


def timesteps_of(sigmas: np.ndarray, log_sigmas: np.ndarray) -> np.ndarray:
    """The timestep of each sigma, between whole ones, by the logarithm."""
    log_sigma = np.log(np.maximum(sigmas, 1e-10))
    # The last level that is reached, or the first of all; one sigma after another, as a table of all by all could
    # take a gigabyte.
    reached = [np.flatnonzero(log_sigmas <= at) for at in log_sigma]
    low = np.array([levels[-1] if len(levels) else 0 for levels in reached], np.int64).clip(max=len(log_sigmas) - 2)
    below, above = log_sigmas[low], log_sigmas[low + 1]
    weight = np.clip((below - log_sigma) / (below - above), 0, 1)
    return (1 - weight) * low + weight * (low + 1)
