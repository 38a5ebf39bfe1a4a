"""Tiny autoencoders, of what a whole one makes of pictures and of latents."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ondevice.base.publish import published
from ondevice.errors import CheckpointError, OutputError
from ondevice.train.adapting import MODEL
from ondevice.train.autoencoding import differences
from ondevice.train.beginnings import begun
from ondevice.train.draws import Draws
from ondevice.train.engine import Engine, Job
from ondevice.train.parts import stored_in
from ondevice.train.pretraining import lines_of
from ondevice.train.samples import collated

_SQUARES = 2.0  # weight of squares beside sizes, as `autoencoder` has it


class TinyAutoencoding(torch.nn.Module):
    """One batch's loss: of the encoder and of the decoder, summed.

    Args:
        tiny: AutoencoderTiny, whose latents are those that samplers have.
        vae: AutoencoderKL.
        settings: what is in the group "loss".
    """

    def __init__(self, tiny: torch.nn.Module, vae: torch.nn.Module, settings: argparse.Namespace) -> None:
        super().__init__()
        self.tiny: Any = tiny
        self.vae: Any = vae
        self._settings = settings
        config: Any = vae.config
        self._scale, self._shift = config.scaling_factor, getattr(config, "shift_factor", None) or 0.0

    def train(self, mode: bool = True) -> TinyAutoencoding:
        """Put what learns into the mode of training."""
        super().train(False)
        self.tiny.train(mode)
        self.training = mode
        return self

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """`loss`, `encoder` and `decoder`; of `pixels` float32 [N, 3, h, w] in -1..1 and `seeds`."""
        pixels = batch["pixels"]
        draws = Draws(batch["seeds"], pixels.device)
        with torch.no_grad():
            posterior = self.vae.encode(pixels.to(next(self.vae.parameters()).dtype)).latent_dist
            mean = (posterior.mean.float() - self._shift) * self._scale
            latents = self._as_samplers_have(mean, posterior.std.float() * self._scale, draws)
            given = (latents / self._scale + self._shift).to(posterior.mean.dtype)
            seen = self.vae.decode(given).sample.float().clamp(-1, 1)
        encoder = (self.tiny.encode(pixels).latents.float() - mean).square().mean()
        sizes, squares = differences(self.tiny.decode(latents).sample, seen, self._settings.edge_weight)
        decoder = sizes + _SQUARES * squares
        return {"loss": encoder + decoder, "encoder": encoder.detach(), "decoder": decoder.detach()}

    def _as_samplers_have(self, mean: torch.Tensor, spread: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Latents as the encoder draws them, with a little noise, or (a part of them) on the way from noise."""
        shape = mean.shape[1:]
        clean = mean + spread * draws.normal(*shape)
        noise = draws.normal(*shape)
        amount, turn, kind = ((draws.uniform()).reshape(-1, 1, 1, 1) for _ in range(3))
        near = clean + self._settings.latent_noise * amount * noise
        far = torch.cos(math.pi / 2 * turn) * clean + torch.sin(math.pi / 2 * turn) * noise
        return torch.where(kind < self._settings.on_the_way, far, near)


def tiny(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or part files that cannot be read."""
    from diffusers import AutoencoderKL, AutoencoderTiny

    vae: Any = begun(AutoencoderKL, settings.vae_name_or_path, "vae")
    stored_in(vae.requires_grad_(False).eval(), engine.half)
    source, count = settings.taesd_name_or_path, vae.config.latent_channels
    learns: Any = AutoencoderTiny(latent_channels=count) if source is None else begun(AutoencoderTiny, source, "taesd")
    if (got := learns.config.latent_channels) != count:
        what = f"its latent_channels are not the vae's (got {got}, expected {count})."
        raise CheckpointError(what, where=f"--taesd_name_or_path {source}", fix="give one that goes with it")
    learns.float().requires_grad_(True)
    if settings.gradient_checkpointing:
        learns.enable_gradient_checkpointing()

    def write(folder: Path) -> Path:
        with published(folder / MODEL, OutputError) as new:
            learns.save_pretrained(new)
        return folder / MODEL

    groups = [{"params": list(learns.parameters()), "lr": engine.rate()}]
    step = TinyAutoencoding(learns, vae, settings)
    return Job(step, groups, lines_of(settings, engine), settings.num_records, collated, write)
