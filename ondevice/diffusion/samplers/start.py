"""Which calls of a schedule a run makes: all, those below a strength, or those between two cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ondevice.diffusion.samplers.settings import Settings


@dataclass(frozen=True)
class Start:
    """The first `skipped` of a schedule's calls are not made, nor are those from `end` on.

    `image`: the first sample is a noised image. `latents`: it is what another run left, as it is; it takes the
    noise's place. Otherwise it is noise alone.
    """

    skipped: int
    end: int
    image: bool = False
    latents: bool = False

    @classmethod
    def read(
        cls, settings: Settings, steps: int, timesteps: Sequence[float], train_steps: int, order: int = 1
    ) -> Start:
        """From the options `strength` (0 to 1: how much of the run is left to do; a part of a step more is left out,
        or with `strength_rounds` "up" is a step), or `denoising_start` and `denoising_end` (parts of the training
        schedule, 0 to 1, that are cut off its two ends).

        `timesteps` are those of all calls, `order` is calls per step.

        Raises:
            UsageError: no call is left, or two of them are given that exclude each other.

        Reference: diffusers' `StableDiffusionXLImg2ImgPipeline.get_timesteps`, `StableDiffusion3Img2ImgPipeline`'s
        ("up"), and `StableDiffusionXLPipeline`, 8.1.
        """
        strength = settings.optional_number("strength", None, 0.0, 1.0)
        up = settings.choice("strength_rounds", "down", "down", "up") == "up"
        begin, stop = (settings.optional_number(f"denoising_{key}", None, 0.0, 1.0) for key in ("start", "end"))
        end = len(timesteps)
        if stop:
            cutoff = round(train_steps - stop * train_steps)
            end = sum(t >= cutoff for t in timesteps)
        if begin is not None:
            if strength is not None:
                raise settings.fail("denoising_start", "nothing beside strength", "leave one of the two out")
            cutoff = round(train_steps - begin * train_steps)
            left = sum(t < cutoff for t in timesteps)
            # Of a solver with two calls per step, a step is made whole.
            left = min(left + 1, len(timesteps)) if order == 2 and left % 2 == 0 else left
            skipped = len(timesteps) - left
        elif strength is not None:
            wanted = min(steps * strength, float(steps))
            run = steps - int(steps - wanted) if up else int(wanted)
            if run < 1:
                least = "more" if up else f"at least {1 / steps:.3g} with {steps} steps"
                raise settings.fail("strength", least, "use more steps or a higher strength")
            skipped = (steps - run) * order
        else:
            skipped = 0
        if skipped >= end:
            key = "denoising_start" if begin is not None else "denoising_end"
            raise settings.fail(
                key, "parts between which there is a timestep", "use more steps, or parts that are further apart"
            )
        return cls(skipped, end, strength is not None, begin is not None)
