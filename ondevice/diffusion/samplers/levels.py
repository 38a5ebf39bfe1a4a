"""Points of a schedule for solvers in the half log-SNR, lambda = log(alpha / sigma).

Reference: diffusers 0.42.1, `set_timesteps` and `convert_model_output` of the multistep and single-step classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ondevice.diffusion.samplers.builder import Value
from ondevice.diffusion.samplers.respacing import respaced
from ondevice.diffusion.samplers.schedule import PREDICTIONS, Schedule, whole_timesteps
from ondevice.diffusion.samplers.settings import Settings


@dataclass(frozen=True)
class Level:
    """One point of the schedule: a sample there is alpha * image + sigma * noise."""

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
        """From sigma / alpha, where alpha**2 + sigma**2 = 1."""
        alpha = 1 / (ratio**2 + 1) ** 0.5
        return cls(alpha, ratio * alpha)

    @classmethod
    def of_flow(cls, sigma: float) -> Level:
        """Of flow matching, where alpha + sigma = 1."""
        return cls(1 - sigma, sigma)


@dataclass(frozen=True)
class Points:
    """A schedule: of each call the timestep and what its input is scaled by (1 where there are no `scales`), and one
    level more than calls."""

    timesteps: Sequence[float]
    levels: list[Level]
    scales: Sequence[float] = ()


@dataclass(frozen=True)
class Ends:
    """What classes do differently at the end of a schedule.

    `choice`: `final_sigmas_type` is read; without it the last level is the schedule's first, or, of respaced levels,
    their own last once more. `of_respaced`: `sigma_min` means the respaced levels' own last.
    """

    choice: bool = True
    of_respaced: bool = False


def levels_of(
    settings: Settings,
    schedule: Schedule,
    steps: int,
    *,
    ends: Ends,
    kinds: tuple[str, ...],
    last: int | None = None,
    rounds: bool = True,
) -> tuple[list[int], list[Level]]:
    """(timesteps, levels): one level more than timesteps.

    `kinds`: the curves that the class has. `last`: where evenly spaced timesteps stop. `rounds`: timesteps of Karras
    levels are rounded, not cut off, to integers.
    """
    end = float(schedule.sigmas[0])
    flow = settings.flag("use_flow_sigmas", False)
    shift = flow_shift(settings)
    if flow:
        alphas = np.linspace(1, 1 / schedule.train_steps, steps + 1)
        ratios = shifted(1.0 - alphas, shift)[::-1][:-1]
        timesteps = ratios * schedule.train_steps
        asked = [kind for kind in kinds if settings.flag(f"use_{kind}_sigmas", False)]
        if asked:
            raise settings.fail(f"use_{asked[0]}_sigmas", "false beside use_flow_sigmas")
        of_end = float(ratios[-1]) if not ends.choice or ends.of_respaced else end
    else:
        timesteps = whole_timesteps(schedule, steps, extra=int(schedule.spacing != "trailing"), last=last).astype(
            np.float64
        )
        ratios = np.interp(timesteps, np.arange(schedule.train_steps), schedule.sigmas)
        of_end = end
        if other := respaced(schedule, schedule.sigmas[::-1], steps, kinds=kinds):
            ratios, timesteps = other.sigmas, other.timesteps
            if rounds and other.kind in ("karras", "lu", "sigmas"):
                timesteps = timesteps.round()
            of_end = float(ratios[-1]) if not ends.choice or ends.of_respaced else end
    if ends.choice and settings.choice("final_sigmas_type", "zero", "zero", "sigma_min") == "zero":
        of_end = 0.0
    of = Level.of_flow if flow else Level.of
    return [int(t) for t in timesteps], [of(float(r)) for r in np.append(ratios, of_end).astype(np.float32)]


def shifted(sigmas: np.ndarray, shift: float) -> np.ndarray:
    """Levels of flow matching, moved up for larger pictures (arXiv 2403.03206, equation 23)."""
    return np.asarray(shift * sigmas / (1 + (shift - 1) * sigmas))


def flow_shift(settings: Settings) -> float:
    """`flow_shift`, or what `use_dynamic_shifting` makes of the option `mu`."""
    shift = settings.number("flow_shift", 1.0, 1e-6, 1e6)
    mu = shift_by_size(settings, needed=False)
    if mu is None:
        return shift
    settings.choice("time_shift_type", "exponential", "exponential")
    return math.exp(mu)


def shift_by_size(settings: Settings, *, needed: bool = True) -> float | None:
    """The option `mu`, or what diffusers' pipelines make of the option `image_seq_len` (a picture's size in patches)
    and the config's `base_shift`, `max_shift`, `base_image_seq_len` and `max_image_seq_len`; None where
    `use_dynamic_shifting` is off, or neither is given and neither `needed`.

    Reference: `calculate_shift` of diffusers' Flux and Stable Diffusion 3 pipelines.
    """
    mu = settings.optional_number("mu", None, -50, 50)
    length = settings.optional_number("image_seq_len", None, 1, 1e9)
    low, high = settings.number("base_shift", 0.5, -50, 50), settings.number("max_shift", 1.15, -50, 50)
    short = settings.integer("base_image_seq_len", 256, 1, 10**9)
    long = settings.integer("max_image_seq_len", 4096, 1, 10**9)
    if not settings.flag("use_dynamic_shifting", False):
        if mu is not None or length is not None:
            raise settings.fail("mu" if mu is not None else "image_seq_len", "none without use_dynamic_shifting")
        return None
    if mu is not None:
        return mu
    if length is None and not needed:
        return None
    if length is None:
        raise settings.fail("use_dynamic_shifting", "the option mu or image_seq_len beside it", "give --set mu=1.15")
    if long == short:
        raise settings.fail("max_image_seq_len", "another than base_image_seq_len")
    return low + (high - low) / (long - short) * (length - short)


Clean = Callable[[Value, Value, Level], Value]


def clean_of(settings: Settings, schedule: Schedule) -> Clean:
    """(sample, model's output, level) to the clean image that the output means."""
    if schedule.prediction == "flow_prediction" and not settings.flag("use_flow_sigmas", False):
        raise settings.fail("prediction_type", "another without use_flow_sigmas")

    def clean(sample: Value, output: Value, at: Level) -> Value:
        if schedule.prediction == "epsilon":
            return (sample - at.sigma * output) / at.alpha
        if schedule.prediction == "v_prediction":
            return at.alpha * sample - at.sigma * output
        return sample - at.sigma * output if schedule.prediction == "flow_prediction" else output

    return clean


def noise_of(schedule: Schedule, sample: Value, output: Value, at: Level) -> Value:
    """The noise that the model's output means."""
    if schedule.prediction == "sample":
        return (sample - at.alpha * output) / at.sigma
    return at.alpha * output + at.sigma * sample if schedule.prediction == "v_prediction" else output


SOLVER_PREDICTIONS = (*PREDICTIONS, "flow_prediction")
