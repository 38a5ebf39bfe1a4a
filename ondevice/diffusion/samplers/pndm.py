"""PNDM: pseudo linear multistep, after a warm-up. arXiv 2202.09778, equations 9 to 13; diffusers `PNDMScheduler`."""

from __future__ import annotations

import numpy as np

from ondevice.diffusion.samplers.builder import Builder, Value
from ondevice.diffusion.samplers.schedule import Schedule, read_schedule, whole_timesteps
from ondevice.diffusion.samplers.settings import Settings
from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import MAX_TRAIN_STEPS, SamplerTable

# Adams-Bashforth weights, newest output first, by how many outputs there are.
_SLOPES = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
# Runge-Kutta weights of the four calls of a warm-up step.
_PRK = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


def pndm(settings: Settings, steps: int) -> SamplerTable:
    """The warm-up is the first step done twice (`skip_prk_steps`, as Stable Diffusion does)
    or three Runge-Kutta steps."""
    schedule = read_schedule(settings, spacing="leading", predictions=("epsilon", "v_prediction"))
    final = 1.0 if settings.flag("set_alpha_to_one", False) else float(schedule.alphas_cumprod[0])
    warm, main = _timesteps(settings, schedule, steps)
    timesteps = [int(t) for t in (*warm, *main)]
    start = Start.read(settings, steps, timesteps, schedule.train_steps)
    step = schedule.train_steps // steps

    def move(sample: Value, slope: Value, now: int, to: int) -> Value:
        """Equation 9: from timestep `now` to `to` along `slope`."""
        alpha, alpha_to = schedule.alpha(now, final), schedule.alpha(to, final)
        if schedule.prediction == "v_prediction":
            slope = alpha**0.5 * slope + (1 - alpha) ** 0.5 * sample
        below = alpha * (1 - alpha_to) ** 0.5 + (alpha * (1 - alpha) * alpha_to) ** 0.5
        return (alpha_to / alpha) ** 0.5 * sample - (alpha_to - alpha) / below * slope

    b = Builder()
    x = held = b.sample
    outputs: list[Value] = []
    total = Value({})
    for i, t in enumerate(timesteps[start.skipped :]):
        output = b.call(x, t, schedule.noised(t))
        if i < len(warm):
            phase = i % 4
            if phase == 0:
                held, total, output = x, Value({}), b.keep(output)
                outputs.insert(0, output)
            total = total + _PRK[phase] * output
            if phase < 3:
                total = b.keep(total)
            x = b.keep(
                move(held, total if phase == 3 else output, int(warm[i - phase]), t - (0 if i % 2 else step // 2))
            )
        elif i == 1:
            x = b.keep(move(held, 0.5 * (output + outputs[0]), t + step, t))
        else:
            outputs = [b.keep(output), *outputs[:3]]
            slope = Value({})
            for weight, past in zip(_SLOPES[len(outputs)], outputs, strict=True):
                slope = slope + weight * past
            x = b.keep(move(x, slope, t, t - step))
    return b.table("pndm", steps, x, start, train_steps=schedule.train_steps)


def ipndm(settings: Settings, steps: int) -> SamplerTable:
    """The same weights over angles of noise and image, without a warm-up; timesteps are parts of the way, 0 to 1.
    diffusers' `IPNDMScheduler`."""
    settings.refuse_betas()
    train_steps = settings.integer("num_train_timesteps", 1000, 1, MAX_TRAIN_STEPS)
    sigmas = np.sin(np.linspace(1, 0, steps + 1) * np.pi / 2) ** 2
    alphas = np.sqrt(1 - sigmas**2)
    timesteps = (np.arctan2(sigmas, alphas)[:-1] / np.pi * 2).tolist()
    start = Start.read(settings, steps, timesteps, train_steps)
    b = Builder()
    x = b.sample
    slopes: list[Value] = []
    for i in range(start.skipped, steps):
        (alpha, sigma), (to, sigma_to) = ((float(alphas[k]), float(sigmas[k])) for k in (i, i + 1))
        output = b.call(x, timesteps[i], (alpha, sigma))
        slopes = [b.keep(sigma * x + alpha * output), *slopes[:3]]
        slope = Value({})
        for weight, past in zip(_SLOPES[len(slopes)], slopes, strict=True):
            slope = slope + weight * past
        # The first step begins at noise alone, of which nothing is left when the slope is taken away.
        clean = (x - sigma * slope) / alpha if alpha > 0 else Value({})
        x = b.keep(to * clean + sigma_to * slope)
    return b.table(settings.sampler, steps, x, start, train_steps=train_steps)


def _timesteps(settings: Settings, schedule: Schedule, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(warm-up, main) timesteps, int64, falling."""
    falling = whole_timesteps(schedule, steps)
    if settings.flag("skip_prk_steps", False):
        return np.empty(0, np.int64), np.concatenate([falling[:1], falling[1:2], falling[1:]])
    if steps < 4:
        raise settings.fail(
            "skip_prk_steps", "true for fewer than 4 steps", "use 4 steps or more, or set skip_prk_steps to true"
        )
    pairs = falling[3::-1].repeat(2) + np.tile([0, schedule.train_steps // steps // 2], 4)
    return pairs[:-1].repeat(2)[1:-1][::-1], falling[3:]
