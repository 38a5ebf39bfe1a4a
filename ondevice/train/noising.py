"""What a network learns: from latents with noise in them, of what that noise is. Losses of each sample.

`Diffusion`: x_t = sqrt(a_t) x + sqrt(1 - a_t) e (arXiv 2006.11239); the network predicts e, or v = sqrt(a_t) e -
sqrt(1 - a_t) x (arXiv 2202.00512). Weights by min-SNR: arXiv 2303.09556, equation 7.
`Flow`: x_s = (1 - s) x + s e (arXiv 2403.03206); the network predicts e - x. Where s is drawn and how it weighs:
section 3.1 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ondevice.errors import CheckpointError, UsageError
from ondevice.train.draws import Draws

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(noisy latents [N, c, h, w], timesteps [N]) -> its prediction [N, c, h, w]."""
SCHEMES = ("sigma_sqrt", "logit_normal", "mode", "cosmap", "none")


def _wide(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, slots=True)
class Diffusion:
    """Noise of a fixed number of timesteps.

    Args:
        alphas: a_t, float32 [timesteps].
        prediction: "epsilon" or "v_prediction".
        offset: of a number per channel that is added to the noise.
        gamma: of min-SNR weights; None: every step weighs the same.
        perturbation: of more noise, which the network sees and does not learn (arXiv 2301.11706).
        floor: the least snr that min-SNR weights are of: what has less weighs more, by floor / snr.
        often: how often a timestep is drawn beside the others, float32 [timesteps]; None: all are as often.
    """

    alphas: torch.Tensor
    prediction: str = "epsilon"
    offset: float = 0.0
    gamma: float | None = None
    perturbation: float = 0.0
    floor: float = 0.0
    often: torch.Tensor | None = None

    @classmethod
    def of(cls, config: Any, offset: float, gamma: float | None, perturbation: float = 0.0) -> Diffusion:
        """Of a scheduler's config, as diffusers' DDPMScheduler reads it.
        Raises CheckpointError where the network predicts something else."""
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(config)
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            what = f"its network predicts {kind} (expected epsilon or v_prediction)."
            raise CheckpointError(what, where="scheduler", fix="train a model that predicts one of these")
        return cls(scheduler.alphas_cumprod.float(), kind, offset, gamma, perturbation)

    def losses(self, network: Network, latents: torch.Tensor, draws: Draws) -> torch.Tensor:
        """float32 [N]: how far off the network is for each of the latents [N, c, h, w], at timesteps that are drawn."""
        noise = draws.normal(*latents.shape[1:])
        if self.offset:
            noise = noise + self.offset * draws.normal(latents.shape[1], 1, 1)
        steps = draws.below(len(self.alphas)) if self.often is None else draws.among(self.often)
        kept = self.alphas.to(latents.device)[steps]
        signal, spread = _wide(kept.sqrt(), latents), _wide((1 - kept).sqrt(), latents)
        seen = noise
        if self.perturbation:
            seen = noise + self.perturbation * draws.normal(*latents.shape[1:])
        found = network(signal * latents + spread * seen, steps).float()
        wanted = noise if self.prediction == "epsilon" else signal * noise - spread * latents
        errors = (found - wanted).square().flatten(1).mean(1)
        if self.gamma is None and not self.floor:
            return errors
        snr = kept / (1 - kept)
        return errors * snr.clamp(self.floor, self.gamma) / (snr if self.prediction == "epsilon" else snr + 1)


def biased(count: int, part: slice, times: float) -> torch.Tensor:
    """float32 [count]: how often each of so many timesteps is drawn, where those of a part are `times` as often.
    Raises UsageError where there are none in it."""
    often = torch.ones(count)
    if not len(often[part]):
        what = f"no timestep is there (got {part.start} to {part.stop}, expected some of 0 to {count})."
        raise UsageError(what, where="--timestep_bias_begin", fix="let --timestep_bias_end be larger")
    often[part] *= times
    return often


@dataclass(frozen=True, slots=True)
class Flow:
    """Noise that grows along a straight line.

    Args:
        sigmas, timesteps: s and what the network is told of it, float32 [n], from much noise to little.
        scheme: one of SCHEMES: how s is drawn (logit_normal, mode; else evenly), or weighs (sigma_sqrt, cosmap; else
            all the same).
        mean, spread: of logit_normal.
        scale: of mode.
    """

    sigmas: torch.Tensor
    timesteps: torch.Tensor
    scheme: str = "sigma_sqrt"
    mean: float = 0.0
    spread: float = 1.0
    scale: float = 1.29

    @classmethod
    def of(cls, config: Any, **how: Any) -> Flow:
        """Of a scheduler's config, as diffusers' FlowMatchEulerDiscreteScheduler reads it; `how`: the other fields."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        count = len(scheduler.timesteps)
        return cls(scheduler.sigmas[:count].float(), scheduler.timesteps.float(), **how)

    def losses(self, network: Network, latents: torch.Tensor, draws: Draws) -> torch.Tensor:
        """float32 [N]: how far off the network's guess of each of the latents [N, c, h, w] is, at a noise that is
        drawn, and weighed."""
        noise = draws.normal(*latents.shape[1:])
        places = (self._drawn(draws) * len(self.sigmas)).long().clamp(max=len(self.sigmas) - 1)
        sigmas = self.sigmas.to(latents.device)[places]
        wide = _wide(sigmas, latents)
        noisy = (1 - wide) * latents + wide * noise
        flow = network(noisy, self.timesteps.to(latents.device)[places]).float()
        errors = (noisy - wide * flow - latents).square().flatten(1).mean(1)
        return errors * self._weights(sigmas)

    def _drawn(self, draws: Draws) -> torch.Tensor:
        """[N] in 0..1, where along `sigmas`."""
        if self.scheme == "logit_normal":
            return torch.sigmoid(self.mean + self.spread * draws.normal())
        u = draws.uniform()
        if self.scheme == "mode":
            return 1 - u - self.scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
        return u

    def _weights(self, sigmas: torch.Tensor) -> torch.Tensor:
        if self.scheme == "sigma_sqrt":
            return sigmas**-2
        if self.scheme == "cosmap":
            return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
        return torch.ones_like(sigmas)
