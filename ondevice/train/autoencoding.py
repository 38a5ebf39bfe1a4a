"""Autoencoders: pictures to latents and back (arXiv 2112.10752, appendix G, without its adversarial loss)."""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ondevice.base.publish import published
from ondevice.errors import CheckpointError, OutputError, UsageError
from ondevice.train.adapting import MODEL, cut_of
from ondevice.train.beginnings import CONFIG, begun
from ondevice.train.draws import Draws
from ondevice.train.engine import Engine, Job
from ondevice.train.lines import Lines
from ondevice.train.order import Share
from ondevice.train.part_files import parts_of
from ondevice.train.samples import collated

_MEASURED = 64  # pictures whose latents are measured
_REACH = 9  # pixels about an edge
_EDGE = 0.1  # of a channel in -1..1


def edge_weight(pixels: torch.Tensor, more: float) -> torch.Tensor:
    """float32 [N, 1, h, w], on average 1: `more` parts more near edges of pictures [N, 3, h, w] than where they are
    flat."""
    high = torch.nn.functional.max_pool2d(pixels, _REACH, 1, _REACH // 2)
    low = -torch.nn.functional.max_pool2d(-pixels, _REACH, 1, _REACH // 2)
    weight = 1 + more * ((high - low).amax(1, keepdim=True) > _EDGE).float()
    return weight / weight.mean()


def differences(found: torch.Tensor, wanted: torch.Tensor, more: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of sizes and of squares of what pictures differ by, weighed by `edge_weight` of those that are wanted."""
    weight = edge_weight(wanted, more) if more else torch.ones(())
    off = found.float() - wanted
    return (weight * off.abs()).mean(), (weight * off.square()).mean()


class Autoencoding(torch.nn.Module):
    """One batch's loss.

    Args:
        unit: what latents are multiplied by to be of unit spread.
        settings: `crop` and what is in the group "loss".
        factor: pixels of a latent, each way.
    """

    def __init__(self, vae: torch.nn.Module, unit: float, settings: argparse.Namespace, factor: int) -> None:
        super().__init__()
        self.vae: Any = vae
        self._unit, self._settings, self._factor = unit, settings, factor

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """`loss`, and its parts `l1`, `l2` and `kl`; of `pixels` float32 [N, 3, h, w] in -1..1 and `seeds`."""
        settings = self._settings
        draws = Draws(batch["seeds"], batch["pixels"].device)
        pixels = self._part(batch["pixels"], draws)
        posterior = self.vae.encode(pixels).latent_dist
        mean, spread = posterior.mean.float(), posterior.std.float()
        noise = draws.normal(*mean.shape[1:])
        more = settings.latent_noise / self._unit * draws.normal(1, 1, 1).abs()
        found = self.vae.decode(mean + (spread + more) * noise).sample
        l1, l2 = differences(found, pixels, settings.edge_weight)
        of_unit = self._unit * spread
        kl = 0.5 * ((self._unit * mean).square() + of_unit.square() - 1 - 2 * of_unit.log()).mean()
        loss = settings.l1_weight * l1 + settings.l2_weight * l2 + settings.kl_weight * kl
        return {"loss": loss, "l1": l1.detach(), "l2": l2.detach(), "kl": kl.detach()}

    def _part(self, pixels: torch.Tensor, draws: Draws) -> torch.Tensor:
        """A square of each picture, which begins where a latent does; all of it where none is asked for."""
        side = self._settings.crop
        if side is None:
            return pixels
        places = (pixels.shape[-1] - side) // self._factor + 1
        corners = zip(*(self._factor * draws.below(places) for _ in range(2)), strict=True)
        return torch.stack([one[:, y : y + side, x : x + side] for one, (y, x) in zip(pixels, corners, strict=True)])


@torch.no_grad()
def folded(vae: Any, pictures: Iterable[torch.Tensor]) -> Any:
    """A copy whose latents of `pictures`, [1, 3, h, w] each, have mean 0 and spread 1 / scaling_factor in each channel.

    Shift and scale go into the 1x1 convolutions about the latents, so that readers need the factor alone. Raises
    CheckpointError where the model has none.
    """
    made = copy.deepcopy(vae).eval()
    before, after = made.quant_conv, made.post_quant_conv
    if before is None or after is None:
        what = "it has no convolutions about its latents, which could scale them."
        raise CheckpointError(what, where="vae", fix="give --fold_latents false")
    means, drawn = [], []
    numbers = torch.Generator().manual_seed(0)
    for one in pictures:
        posterior = made.encode(one.to(next(made.parameters()).device)).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=numbers).to(posterior.mean.device)
        means.append(posterior.mean)
        drawn.append(posterior.mean + posterior.std * noise)
    mean = torch.cat(means).mean((0, 2, 3))
    scale = torch.cat(drawn).std((0, 2, 3)) * made.config.scaling_factor
    count = len(mean)
    before.weight[:count] /= scale[:, None, None, None]
    before.bias[:count] = (before.bias[:count] - mean) / scale
    before.bias[count:] -= 2 * scale.log()  # the second half holds logarithms of variances
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= scale[None, :, None, None]
    return made


def autoencoded(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or part files that cannot be read."""
    from diffusers import AutoencoderKL

    source = settings.vae_name_or_path
    vae: Any = begun(AutoencoderKL, source, "vae")
    vae.float().requires_grad_(True)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    for name in ("resolution", "crop"):
        if (side := getattr(settings, name)) is not None and side % factor:
            what = f"it is no multiple of the pixels of a latent (got {side}, expected one of {factor})."
            raise UsageError(what, where=f"--{name}", fix=f"use {max(side // factor, 1) * factor}")
    if settings.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    parts = parts_of(Path(settings.file_list))

    def lines(share: Share, workers: int) -> Lines:
        return Lines(parts, cut_of(settings), share, settings.seed, settings.buffer_count, workers)

    def write(folder: Path) -> Path:
        made = vae
        if settings.fold_latents:
            samples = itertools.islice(iter(lines(Share(1), 0)), _MEASURED)
            made = folded(vae, (sample[0]["pixels"][None] for sample in samples))
        with published(folder / MODEL, OutputError) as new:
            made.save_pretrained(new)
        return folder / MODEL

    # a model that was folded has latents of spread 1 / scaling_factor, one at random of about 1
    unit = 1.0 if source.endswith(CONFIG) else vae.config.scaling_factor
    groups = [{"params": list(vae.parameters()), "lr": engine.rate()}]
    step = Autoencoding(vae, unit, settings, factor)
    data = lines(engine.share, settings.dataloader_num_workers)
    return Job(step, groups, data, settings.num_records, collated, write)
