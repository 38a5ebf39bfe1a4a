"""Where on the schedule a run begins: at its top, or part of the way down from an image."""

from __future__ import annotations

from dataclasses import dataclass

from ondevice.diffusion.samplers.settings import Settings


@dataclass(frozen=True)
class Start:
    """`calls` of the schedule are skipped; `image` says that the first sample is a noised image, not noise alone."""

    calls: int
    image: bool

    @classmethod
    def read(cls, settings: Settings, steps: int, order: int = 1) -> Start:
        """From the option `strength` (0 to 1: how much of the run is left to do). `order` is calls per step.

        Reference: diffusers `StableDiffusionImg2ImgPipeline.get_timesteps`.
        """
        strength = settings.optional_number("strength", None, 0.0, 1.0)
        if strength is None:
            return cls(0, False)
        run = min(int(steps * strength), steps)
        if run < 1:
            raise settings.fail(
                "strength", f"at least {1 / steps:.3g} with {steps} steps", "use more steps or a higher strength"
            )
        return cls((steps - run) * order, True)
