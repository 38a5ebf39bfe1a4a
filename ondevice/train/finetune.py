"""The step that LoRA and DreamBooth share: pictures and captions in, a loss out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch

from ondevice.train.draws import Draws
from ondevice.train.noising import Diffusion, Flow
from ondevice.train.parts import SD3, SDXL, Parts, Texts


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
        self._noising, self._texts, self._prior = noising, texts, prior
        self._kind, self._held = parts.kind, parts.held

    def train(self, mode: bool = True) -> Finetune:
        """Put what learns into the mode of training; what does not drops no values."""
        super().train(False)
        for module in (self.net, *self.encoders.values()):
            module.train(mode and any(one.requires_grad for one in module.parameters()))
        self.training = mode
        return self

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """`loss`, and beside a prior its two parts; of `pixels` float32 [N, 3, h, w] in -1..1, `sizes` int64 [N, 4],
        `captions` and `seeds`, N of each."""
        pixels = batch["pixels"]
        draws = Draws(batch["seeds"], pixels.device)
        latents = self.latents(pixels, draws)
        words = self.words(self._texts.of(batch["captions"]), batch)
        more = self.beside(batch, draws)

        def network(noisy: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            noisy = noisy if more is None else torch.cat([noisy, more], 1)
            return self.net(noisy, timestep=steps, return_dict=False, **words)[0]

        losses = self._noising.losses(network, latents, draws)
        if self._prior is None:
            return {"loss": losses.mean()}
        own, prior = (half.mean() for half in losses.chunk(2))
        return {"loss": own + self._prior * prior, "instance_loss": own.detach(), "prior_loss": prior.detach()}

    def beside(self, batch: Mapping[str, Any], draws: Draws) -> torch.Tensor | None:
        """What the network is given behind the noisy latents, [N, more channels, h, w]; None: nothing."""
        return None

    def words(self, told: tuple[torch.Tensor, ...], batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the network is given of a batch beside latents and timesteps: what texts say, and of Stable Diffusion
        XL height and width of each picture before, top and left of its piece, height and width of that."""
        states, *pooled = told
        if self._kind == SD3:
            return {"encoder_hidden_states": states, "pooled_projections": pooled[0]}
        if self._kind != SDXL:
            return {"encoder_hidden_states": states}
        sizes, side = batch["sizes"], batch["pixels"].shape[2:]
        ids = torch.cat([sizes, torch.tensor(side, device=sizes.device).expand(len(sizes), 2)], 1).float()
        return {"encoder_hidden_states": states, "added_cond_kwargs": {"text_embeds": pooled[0], "time_ids": ids}}

    @torch.no_grad()
    def latents(self, pixels: torch.Tensor, draws: Draws) -> torch.Tensor:
        """float32 [N, c, h, w] of pictures, drawn as their encoder says, at the spread that the network works in."""
        with torch.autocast(pixels.device.type, enabled=False) if self._held else nullcontext():
            posterior = self.vae.encode(pixels.to(next(self.vae.parameters()).dtype)).latent_dist
        drawn = posterior.mean.float() + posterior.std.float() * draws.normal(*posterior.mean.shape[1:])
        config = self.vae.config
        return (drawn - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor
