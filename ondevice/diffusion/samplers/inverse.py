"""DDIM run backwards (arXiv 2010.02502, section 4.3), as a table: from a picture's latents to a noise that draws them.

The step to timestep t takes the sample to be at an alphas_cumprod a' that lies before t, and asks the model about it
as if it were at t already; a' is what the ways differ in:

- `inverse`: that of t less the schedule's step, the mirror of the step that DDIM takes at t. diffusers'
  `DDIMInverseScheduler`.
- `ddim`: that of the timestep before t in DDIM's list. The loop of SingleZombie/DiffusersExample, with DDIM.
- `own`: the same over the list of the checkpoint's own sampler. PNDM's has a timestep twice: that step changes nothing.

The first step comes from what the class draws its last one to: alphas_cumprod[0], or 1 with `set_alpha_to_one`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ondevice.diffusion.samplers import make_table
from ondevice.diffusion.samplers.alphas import predictions
from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.schedule import Schedule, read_schedule
from ondevice.diffusion.samplers.settings import Settings, shown
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import SamplerTable
from ondevice.errors import UsageError

INVERSIONS = ("inverse", "ddim", "own")
OWN = ("pndm", "ddim")
"""Samplers whose own lists `own` takes: those whose classes know what alphas_cumprod they end at."""

MOST_REFINED = 50
_NAME = "ddim_inverse"


def inverse_table(
    way: str, steps: int, config: Mapping[str, Any], *, own: str = "ddim", refine: int = 0, **options: Any
) -> SamplerTable:
    """The table of an inversion: its sample is the picture's latents, its result the noise.

    Args:
        way: one of INVERSIONS.
        config: a scheduler_config.json, written for whichever sampler; `options` are keys that replace its own.
        own: the sampler that the checkpoint draws with.
        refine: how often each step is done again with what the model says of the sample that it led to. The more, the
            nearer it is to the one that DDIM's step leads back from; each is a pass of the model more. 0: never, as in
            all three references.

    Raises:
        UsageError: there is no such way, or it cannot follow the config.
    """
    _check(way, own, refine)
    settings = Settings(_NAME, config, options)
    settings.refuse_clipping(True)
    schedule = read_schedule(settings, spacing="leading", zero_snr=True)
    ends_at_one = settings.flag("set_alpha_to_one", not (way == "own" and own == "pndm"))
    final = 1.0 if ends_at_one else float(schedule.alphas_cumprod[0])
    settings.check_options()
    forward = make_table(own if way == "own" else "ddim", steps, config, **options)
    timesteps = [int(call.timestep) for call in forward.calls][::-1]
    b = Builder()
    x = b.sample
    for t, before in zip(timesteps, _levels_before(way, schedule, timesteps, steps, final), strict=True):
        here = b.keep(_step(schedule, x, b.call(x, t, schedule.noised(t)), (before, schedule.alpha(t, final))))
        for _ in range(refine):
            output = b.call(here, t, schedule.noised(t))
            here = b.keep(_mirrored(schedule, x, output, (before, schedule.alpha(t, final))))
        x = here
    start = Start(0, (1 + refine) * len(timesteps), latents=True)
    table = b.table(_NAME, steps, x, start, train_steps=schedule.train_steps)
    return replace(table, noised=())  # nothing is put back into a sample on its way to noise


def _check(way: str, own: str, refine: int) -> None:
    if way not in INVERSIONS:
        what = f"no such inversion (got {shown(way)!r}, expected one of {', '.join(INVERSIONS)})."
        raise UsageError(what, where="inversion", fix=f"use {INVERSIONS[0]}")
    if way == "own" and own not in OWN:
        what = f"only {' and '.join(OWN)} have timesteps of their own to go back by (the sampler is {own})."
        raise UsageError(what, where="inversion own", fix=f"use {INVERSIONS[0]}")
    if type(refine) is not int or not 0 <= refine <= MOST_REFINED:
        what = f"out of range (got {shown(refine)}, expected 0 to {MOST_REFINED})."
        raise UsageError(what, where="refine", fix="use 0 to 5")


def _levels_before(way: str, schedule: Schedule, timesteps: Sequence[int], steps: int, final: float) -> list[float]:
    """The alphas_cumprod that each step comes from."""
    if way == "inverse":
        return [schedule.alpha(t - schedule.train_steps // steps, final) for t in timesteps]
    return [final, *(schedule.alpha(t, final) for t in timesteps[:-1])]


def _step(schedule: Schedule, sample: Value, output: Value, levels: tuple[float, float]) -> Value:
    """The sample taken from the first to the second alphas_cumprod."""
    before, to = levels
    clean, noise = predictions(schedule, sample, output, before)
    return to**0.5 * clean + (1 - to) ** 0.5 * noise


def _mirrored(schedule: Schedule, sample: Value, output: Value, levels: tuple[float, float]) -> Value:
    """The sample at the second alphas_cumprod from which DDIM's step, with this output, leads to `sample` at the first.

    Of the noise and of the picture this is `_step` itself; of the velocity it is not: there the clean picture depends
    on the sample that is looked for.
    """
    if schedule.prediction != "v_prediction":
        return _step(schedule, sample, output, levels)
    (a, b), (to_a, to_b) = ((level**0.5, (1 - level) ** 0.5) for level in levels)
    return (sample + (a * to_b - b * to_a) * output) / (a * to_a + b * to_b)
