"""Noise schedules: betas, timesteps and sigmas, in the number types that diffusers computes them in.

The types matter: 1 - beta in float32 keeps three digits of a small beta's tail, and a sigma near zero shows it.
Reference: diffusers 0.42.1, `schedulers/*.py`; Karras sigmas: arXiv 2206.00364, equation 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.table import MAX_TRAIN_STEPS
from ondevice.errors import UsageError

SPACINGS = ("leading", "linspace", "trailing")
PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class Schedule:
    """`alphas_cumprod` float32[train_steps] falls from near 1;
    `spacing` and `offset` say which timesteps are visited."""

    settings: Settings
    alphas_cumprod: np.ndarray
    spacing: str
    offset: int
    prediction: str

    @property
    def train_steps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def sigmas(self) -> np.ndarray:
        """float32[train_steps]: noise over image, rising."""
        return ((np.float32(1) - self.alphas_cumprod) / self.alphas_cumprod) ** np.float32(0.5)

    def noised(self, timestep: int) -> tuple[float, float]:
        """(image, noise) factors of an image noised to `timestep`."""
        alpha = self.alpha(timestep, 1.0)
        return alpha**0.5, (1 - alpha) ** 0.5

    def alpha(self, timestep: int, after_last: float) -> float:
        """alphas_cumprod at a timestep; `after_last` below zero. UsageError past the end."""
        if timestep < 0:
            return after_last
        if timestep >= self.train_steps:
            raise UsageError(
                f"the steps reach past the schedule (got timestep {timestep}, expected at most {self.train_steps - 1})",
                where=f"sampler {self.settings.sampler}",
                fix="use fewer steps or timestep_spacing trailing",
            )
        return float(self.alphas_cumprod[timestep])


def read_schedule(
    settings: Settings,
    *,
    spacing: str | None,
    beta: tuple[float, float] = (0.0001, 0.02),
    beta_schedule: str = "linear",
    predictions: tuple[str, ...] = PREDICTIONS,
    zero_snr: bool = False,
    floor_zero_snr: bool = False,
    more_beta_schedules: tuple[str, ...] = (),
) -> Schedule:
    """The schedule of a config. Keyword arguments are the defaults and abilities of the diffusers class followed.

    `spacing` None: the class has `linspace` alone, and no `steps_offset`. `zero_snr`: it reads
    `rescale_betas_zero_snr`; `floor_zero_snr`: it then puts 2**-24 where alphas_cumprod ends in zero.
    """
    count = settings.integer("num_train_timesteps", 1000, 1, MAX_TRAIN_STEPS)
    low, high = (
        settings.number(key, value, 0.0, 0.999) for key, value in zip(("beta_start", "beta_end"), beta, strict=True)
    )
    kind = settings.choice(
        "beta_schedule", beta_schedule, "linear", "scaled_linear", "squaredcos_cap_v2", *more_beta_schedules
    )
    given = settings.numbers("trained_betas", count, 0.0, 0.999)
    betas = np.array(given, np.float32) if given else _betas(str(kind), low, high, count)
    rescale = zero_snr and settings.flag("rescale_betas_zero_snr", False)
    if rescale:
        betas = _rescale(betas)
    # torch multiplies up in float64 and stores float32.
    alphas_cumprod = np.cumprod(np.float32(1) - betas, dtype=np.float64).astype(np.float32)
    if rescale and floor_zero_snr:
        alphas_cumprod[-1] = 2.0**-24
    return Schedule(
        settings,
        alphas_cumprod,
        str(settings.choice("timestep_spacing", spacing, *SPACINGS)) if spacing else "linspace",
        settings.integer("steps_offset", 0, 0, 1000) if spacing else 0,
        str(settings.choice("prediction_type", "epsilon", *predictions)),
    )


def _linspace(low: float, high: float, count: int) -> np.ndarray:
    """torch.linspace in float32: counted from both ends."""
    if count == 1:
        return np.array([low], np.float32)
    step = np.float32((np.float32(high) - np.float32(low)) / np.float32(count - 1))
    index = np.arange(count, dtype=np.float32)
    # x86 builds of torch fuse the multiply and the add.
    up = np.float64(np.float32(low)) + index.astype(np.float64) * np.float64(step)
    down = np.float64(np.float32(high)) - (count - 1 - index).astype(np.float64) * np.float64(step)
    return np.where(index < count // 2, up, down).astype(np.float32)


def _betas(kind: str, low: float, high: float, count: int) -> np.ndarray:
    if kind == "linear":
        return _linspace(low, high, count)
    if kind == "scaled_linear":
        return _linspace(low**0.5, high**0.5, count) ** np.float32(2)
    if kind == "sigmoid":
        return (1 / (1 + np.exp(-_linspace(-6, 6, count)))) * np.float32(high - low) + np.float32(low)
    bar = {
        "squaredcos_cap_v2": lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2,
        "exp": lambda t: math.exp(t * -12.0),
        "laplace": _laplace_bar,
    }[kind]
    return np.array([min(1 - bar((i + 1) / count) / bar(i / count), 0.999) for i in range(count)], np.float32)


def _laplace_bar(t: float) -> float:
    snr = math.exp(-0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * math.fabs(0.5 - t) + 1e-6))
    return math.sqrt(snr / (1 + snr))


def _rescale(betas: np.ndarray) -> np.ndarray:
    """Betas whose last alphas_cumprod is zero (arXiv 2305.08891, algorithm 1). float32."""
    root = np.sqrt(np.cumprod(np.float32(1) - betas, dtype=np.float64).astype(np.float32))
    first, last = root[0], root[-1]
    root = (root - last) * (first / (first - last))
    bar = root ** np.float32(2)
    return np.float32(1) - np.concatenate([bar[:1], bar[1:] / bar[:-1]])


def whole_timesteps(schedule: Schedule, steps: int, *, extra: int = 0, last: int | None = None) -> np.ndarray:
    """int64 timesteps, falling. `extra`=1: the solvers that divide into steps + 1 and leave the end out.
    `last`: where to stop."""
    settings, train = schedule.settings, schedule.train_steps
    top = train if last is None else last
    parts = steps + extra
    if steps > train or (schedule.spacing == "leading" and top // parts == 0):
        raise _too_many(settings, steps, train - extra)
    if schedule.spacing == "linspace":
        return np.linspace(0, top - 1, parts).round()[::-1][:steps].astype(np.int64)
    if schedule.spacing == "leading":
        return (np.arange(0, parts) * (top // parts)).round()[::-1][:steps].astype(np.int64) + schedule.offset
    falling = np.round(np.arange(top, 0, -(train / steps))).astype(np.int64) - 1
    # By rounding, some counts (61 of 1000) get one timestep more, at -1. diffusers keeps it; no model was
    # trained for it.
    return falling[falling >= 0]


def float_timesteps(schedule: Schedule, steps: int) -> np.ndarray:
    """float32 timesteps, falling; between whole ones where the spacing is linspace."""
    train = schedule.train_steps
    if steps > train:
        raise _too_many(schedule.settings, steps, train)
    if schedule.spacing == "linspace":
        return np.linspace(0, train - 1, steps, dtype=np.float32)[::-1].copy()
    return whole_timesteps(schedule, steps).astype(np.float32)


def _too_many(settings: Settings, steps: int, most: int) -> UsageError:
    return UsageError(
        f"too many steps (got {steps}, expected at most {most})",
        where=f"sampler {settings.sampler}",
        fix="use fewer steps",
    )
