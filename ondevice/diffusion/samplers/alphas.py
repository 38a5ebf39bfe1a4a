"""One-step samplers by alphas_cumprod: DDIM (arXiv 2010.02502), DDPM (2006.11239), LCM (2310.04378),
TCD (2402.19159). diffusers' classes."""

from __future__ import annotations

import numpy as np

from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.respacing import given_timesteps
from ondevice.diffusion.samplers.schedule import Schedule, read_schedule, whole_timesteps
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import SamplerTable
from ondevice.errors import UsageError


def predictions(schedule: Schedule, sample: Value, output: Value, alpha: float) -> tuple[Value, Value]:
    """(the clean image, the noise) that the model's output means, of a sample with this alphas_cumprod."""
    a, b = alpha**0.5, (1 - alpha) ** 0.5
    if schedule.prediction == "epsilon":
        return (sample - b * output) / a, output
    if schedule.prediction == "sample":
        return output, (sample - a * output) / b
    return a * sample - b * output, a * output + b * sample


def ddim(settings: Settings, steps: int) -> SamplerTable:
    """Equation 12. Option `eta`: 0 draws no noise, 1 draws as much as DDPM."""
    settings.refuse_clipping(True)
    schedule = read_schedule(settings, spacing="leading", zero_snr=True)
    eta = settings.number("eta", 0.0, 0.0, 1.0)
    final = 1.0 if settings.flag("set_alpha_to_one", True) else float(schedule.alphas_cumprod[0])
    timesteps = whole_timesteps(schedule, steps).tolist()
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    b = Builder()
    x = b.sample
    for t in timesteps[start.skipped :]:
        alpha, to = schedule.alpha(t, final), schedule.alpha(t - schedule.train_steps // steps, final)
        clean, noise = predictions(schedule, x, b.call(x, t, schedule.noised(t)), alpha)
        deviation = eta * max((1 - to) / (1 - alpha) * (1 - alpha / to), 0.0) ** 0.5
        step = to**0.5 * clean + max(1 - to - deviation**2, 0.0) ** 0.5 * noise
        x = b.keep(step + deviation * b.noise() if eta > 0 else step)
    return b.table("ddim", steps, x, start, train_steps=schedule.train_steps, memory=False)


def ddpm(settings: Settings, steps: int) -> SamplerTable:
    """Equations 6 and 7, with the variance that `variance_type` names."""
    settings.refuse_clipping(True)
    schedule = read_schedule(settings, spacing="leading", zero_snr=True, more_beta_schedules=("laplace", "sigmoid"))
    kind = settings.choice("variance_type", "fixed_small", "fixed_small", "fixed_small_log", "fixed_large", None)
    timesteps = given_timesteps(schedule, steps) or whole_timesteps(schedule, steps).tolist()
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    b = Builder()
    x = b.sample
    for i, t in enumerate(timesteps[start.skipped :], start.skipped):
        alpha = schedule.alpha(t, 1.0)
        to = schedule.alpha(timesteps[i + 1] if i + 1 < len(timesteps) else -1, 1.0)
        beta = 1 - alpha / to
        clean, _ = predictions(schedule, x, b.call(x, t, schedule.noised(t)), alpha)
        step = to**0.5 * beta / (1 - alpha) * clean + (alpha / to) ** 0.5 * (1 - to) / (1 - alpha) * x
        if t > 0:
            variance = beta if kind == "fixed_large" else max((1 - to) / (1 - alpha) * beta, 1e-20)
            step = step + variance**0.5 * b.noise()
        x = b.keep(step)
    return b.table("ddpm", steps, x, start, train_steps=schedule.train_steps, memory=False)


def lcm(settings: Settings, steps: int) -> SamplerTable:
    """Algorithm 1 with the boundary conditions of section 4.1, over the distilled timesteps."""
    schedule = _distilled_schedule(settings)
    scaling = settings.number("timestep_scaling", 10.0, 0.0, 1e6)
    timesteps = _distilled(settings, schedule, steps)
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    b = Builder()
    x = b.sample
    for i, t in enumerate(timesteps[start.skipped :], start.skipped):
        clean, _ = predictions(schedule, x, b.call(x, t, schedule.noised(t)), schedule.alpha(t, 1.0))
        scaled = t * scaling
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
        step = out * clean + skip * x
        if i + 1 < len(timesteps):
            to = schedule.alpha(timesteps[i + 1], 1.0)
            step = to**0.5 * step + (1 - to) ** 0.5 * b.noise()
        x = b.keep(step)
    return b.table("lcm", steps, x, start, train_steps=schedule.train_steps, memory=False)


def tcd(settings: Settings, steps: int) -> SamplerTable:
    """Algorithm 4, strategic stochastic sampling. Option `eta`, the paper's gamma: how far below the next timestep a
    step first goes, before fresh noise takes it up again."""
    schedule = _distilled_schedule(settings)
    eta = settings.number("eta", 0.3, 0.0, 1.0)
    timesteps = _distilled(settings, schedule, steps)
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    b = Builder()
    x = b.sample
    for i, t in enumerate(timesteps[start.skipped :], start.skipped):
        after = timesteps[i + 1] if i + 1 < len(timesteps) else 0
        below = int(np.floor(np.float32(1 - eta) * np.float32(after)))
        clean, noise = predictions(schedule, x, b.call(x, t, schedule.noised(t)), schedule.alpha(t, 1.0))
        to = schedule.alpha(below, 1.0)
        step = to**0.5 * clean + (1 - to) ** 0.5 * noise
        if eta > 0 and i + 1 < len(timesteps):
            ratio = schedule.alpha(after, 1.0) / to
            step = ratio**0.5 * step + max(1 - ratio, 0.0) ** 0.5 * b.noise()
        x = b.keep(step)
    return b.table("tcd", steps, x, start, train_steps=schedule.train_steps, memory=False)


def _distilled_schedule(settings: Settings) -> Schedule:
    """With the defaults of diffusers' classes for distilled models."""
    settings.refuse_clipping(False)
    return read_schedule(
        settings, spacing="leading", beta=(0.00085, 0.012), beta_schedule="scaled_linear", zero_snr=True
    )


def _distilled(settings: Settings, schedule: Schedule, steps: int) -> list[int]:
    """The timesteps of a distilled model: some of the `original_inference_steps` that it was distilled at."""
    original = settings.integer("original_inference_steps", 50, 1, schedule.train_steps)
    if given := given_timesteps(schedule, steps):
        return given
    if steps > original:
        raise UsageError(
            f"too many steps (got {steps}, expected at most original_inference_steps, {original})",
            where=f"sampler {settings.sampler}",
            fix="use fewer steps; 4 to 8 are usual",
        )
    distilled = (np.arange(1, original + 1) * (schedule.train_steps // original) - 1)[::-1]
    return [int(t) for t in distilled[np.floor(np.linspace(0, original, steps, endpoint=False)).astype(np.int64)]]
