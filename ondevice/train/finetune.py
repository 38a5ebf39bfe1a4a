"""The step that LoRA and DreamBooth share: pictures and captions in, a loss out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ondevice.train.draws import Draws
from ondevice.train.noising import Diffusion, Flow
from ondevice.train.parts import SD1, Parts, Texts


class Finetune(torch.nn.Module):
    """One batch's loss, of a model whose network, adapters or text encoders learn.

    Args:
        noising: what is learned.
        texts: reads captions.
        prior: how much the pictures of a class weigh, which are the second half of a batch; None: there are none.
    """

    def __init__(self, parts: Parts, noising: Diffusion | Flow, texts: Texts, prior: float | None = None) -> None:
        super().__init__()
        self.net, self.vae = parts.net, parts.pipe.vae
        self.encoders = torch.nn.ModuleDict(parts.encoders())
        self._kind, self._noising, self._texts, self._prior = parts.kind, noising, texts, prior

    def train(self, mode: bool = True) -> Finetune:
        """Put what learns into the mode of training; what does not drops no values."""
        super().train(False)
        for module in (self.net, *self.encoders.values()):
            module.train(mode and any(one.requires_grad for one in module.parameters()))
        self.training = mode
        return self

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """`loss`, and beside a prior its two parts; of `pixels` float32 [N, 3, h, w] in -1..1, `captions` and
        `seeds`, N of each."""
        pixels = batch["pixels"]
        draws = Draws(batch["seeds"], pixels.device)
        latents = self.latents(pixels, draws)
        told = self._texts.of(batch["captions"])
        more = self.beside(batch, draws)

        def network(noisy: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            noisy = noisy if more is None else torch.cat([noisy, more], 1)
            if self._kind == SD1:
                return self.net(noisy, steps, told[0], return_dict=False)[0]
            return self.net(noisy, told[0], told[1], steps, return_dict=False)[0]

        losses = self._noising.losses(network, latents, draws)
        if self._prior is None:
            return {"loss": losses.mean()}
        own, prior = (half.mean() for half in losses.chunk(2))
        return {"loss": own + self._prior * prior, "instance_loss": own.detach(), "prior_loss": prior.detach()}

    def beside(self, batch: Mapping[str, Any], draws: Draws) -> torch.Tensor | None:
        """What the network is given behind the noisy latents, [N, more channels, h, w]; None: nothing."""
        return None

    @torch.no_grad()
    def latents(self, pixels: torch.Tensor, draws: Draws) -> torch.Tensor:
        """float32 [N, c, h, w] of pictures, drawn as their encoder says, at the spread that the network works in."""
        posterior = self.vae.encode(pixels.to(next(self.vae.parameters()).dtype)).latent_dist
        drawn = posterior.mean.float() + posterior.std.float() * draws.normal(*posterior.mean.shape[1:])
        config = self.vae.config
        return (drawn - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor
