"""Video diffusion: a picture's latents beside those of every frame, and noise of EDM's (arXiv 2206.00364, 2311.15127).

A film x with noise of spread s: the network is given (x + s e) / sqrt(s^2 + 1), and log(s) / 4 as the timestep; it
says v, of which x is (x + s e) / (s^2 + 1) - s / sqrt(s^2 + 1) v. The loss is the mean square of what v is off.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ondevice.errors import CheckpointError
from ondevice.train.adapting import write_model
from ondevice.train.beginnings import begun
from ondevice.train.draws import Draws
from ondevice.train.engine import Engine, Job
from ondevice.train.films import Film, Stretch, films_of
from ondevice.train.order import Order, mixed
from ondevice.train.parts import place_of, stored_in

_LOOK = 224  # pixels that the image encoder sees, each way


@dataclass(frozen=True, slots=True)
class Films(Dataset[dict[str, Any]]):
    """Films, by position in the endless order of a seed."""

    films: Sequence[Film]
    stretch: Stretch
    seed: int

    def __getitem__(self, position: int) -> dict[str, Any]:
        film = self.films[Order(len(self.films), self.seed).at(position)]
        seed = mixed(self.seed, position)
        return {"film": film, "seed": seed, "frames": self.stretch.of(film.path, np.random.default_rng(seed))}


def collated(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch: `frames` uint8 [N, frames, 3, h, w], `motion` and `fps` float32 [N], and `seeds`."""
    frames = torch.from_numpy(np.stack([one["frames"] for one in samples]))
    return {
        "frames": frames.permute(0, 1, 4, 2, 3),
        "motion": torch.tensor([float(one["film"].motion) for one in samples]),
        "fps": torch.tensor([float(one["film"].fps) for one in samples]),
        "seeds": [one["seed"] for one in samples],
    }


def looked_at(pixels: torch.Tensor) -> torch.Tensor:
    """Pictures float32 [N, 3, h, w] in -1..1 as CLIP's image encoder is given them, [N, 3, 224, 224]: as diffusers'
    pipeline prepares them."""
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    unit = (_resize_with_antialiasing(pixels, (_LOOK, _LOOK)) + 1) / 2
    mean, spread = (
        torch.tensor(row, device=pixels.device)[:, None, None] for row in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    )
    return (unit - mean) / spread


@dataclass(frozen=True, slots=True)
class Noise:
    """How much noise there is in films, and in their pictures: the settings of the group "noise", and the least and the
    most logarithm of a spread."""

    settings: argparse.Namespace
    bounds: tuple[float, float]

    def spreads(self, draws: Draws) -> torch.Tensor:
        """float32 [N]: s of each film."""
        asked, (low, high) = self.settings, self.bounds
        usual = asked.log_sigma_mean + asked.log_sigma_std * draws.normal()
        evenly = low + (high - low) * draws.uniform()
        return torch.where(draws.uniform() < asked.even_sigmas, evenly, usual).exp()


class Filming(torch.nn.Module):
    """One batch's loss."""

    def __init__(
        self, unet: torch.nn.Module, image_encoder: torch.nn.Module, vae: torch.nn.Module, noise: Noise
    ) -> None:
        super().__init__()
        self.unet, self.image_encoder = unet, image_encoder
        self.vae: Any = vae
        self._noise = noise

    def train(self, mode: bool = True) -> Filming:
        """Put what learns into the mode of training; what does not drops no values."""
        super().train(False)
        for module in (self.unet, self.image_encoder):
            module.train(mode and any(one.requires_grad for one in module.parameters()))
        self.training = mode
        return self

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """`loss`, of a batch as `collated` makes it."""
        frames = batch["frames"].float() / 127.5 - 1
        draws = Draws(batch["seeds"], frames.device)
        count, length = frames.shape[:2]
        strength = self._noise.settings.noise_aug_strength
        picture = frames[:, 0]
        noised = picture + strength * draws.normal(*picture.shape[1:])
        with torch.no_grad():
            clean = self._encoded(frames.flatten(0, 1)).unflatten(0, (count, length)) * self.vae.config.scaling_factor
            beside = self._encoded(noised)
        spread = self._noise.spreads(draws).reshape(-1, 1, 1, 1, 1)
        noisy = clean + spread * draws.normal(*clean.shape[1:])
        shown = (draws.uniform() >= self._noise.settings.conditioning_dropout_prob).float()
        context = self.image_encoder(looked_at(picture)).image_embeds.float() * shown[:, None]
        beside = (beside * shown[:, None, None, None])[:, None].expand(-1, length, -1, -1, -1)
        numbers = torch.stack([batch["fps"] - 1, batch["motion"], torch.full_like(batch["fps"], strength)], 1)
        size = (spread.square() + 1).sqrt()
        found = self.unet(
            torch.cat([noisy / size, beside], 2),
            spread.flatten().log() / 4,
            context[:, None],
            numbers,
            return_dict=False,
        )[0]
        wanted = (noisy / size.square() - clean) * size / spread
        return {"loss": (found.float() - wanted).square().mean()}

    def _encoded(self, pictures: torch.Tensor) -> torch.Tensor:
        """Latents of pictures, as the encoder gives them, each by itself: float32 [N, c, h, w]."""
        dtype = next(self.vae.parameters()).dtype
        return torch.cat([self.vae.encode(one[None].to(dtype)).latent_dist.mode().float() for one in pictures])


def filmed(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or films that cannot be read."""
    import diffusers
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    def part(kind: Any, name: str) -> Any:
        return begun(kind, getattr(settings, f"{name}_name_or_path", None) or base, name)

    base = settings.pretrained_model_name_or_path
    vae: Any = part(_kind_of_vae(settings.vae_name_or_path or base), "vae")
    unet: Any = part(diffusers.UNetSpatioTemporalConditionModel, "unet")
    looks: Any = part(CLIPVisionModelWithProjection, "image_encoder")
    scheduler: Any = part(diffusers.EulerDiscreteScheduler, "scheduler")
    _check(unet.config, looks.config, vae.config)
    stored_in(vae.requires_grad_(False).eval(), engine.half)
    unet.float().requires_grad_(True)
    looks.requires_grad_(settings.train_image_encoder)
    stored_in(looks, torch.float32 if settings.train_image_encoder else engine.half)
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    bounds = (math.log(scheduler.config.sigma_min or 0.002), math.log(scheduler.config.sigma_max or 700.0))

    def write(folder: Path) -> Path:
        pipe = diffusers.StableVideoDiffusionPipeline(
            vae=vae, image_encoder=looks, unet=unet, scheduler=scheduler, feature_extractor=CLIPImageProcessor()
        )
        return write_model(pipe, folder)

    films = films_of(Path(settings.data_dir), settings.fps)
    data = Films(films, Stretch(settings.num_frames, settings.width, settings.height), settings.seed)
    learns = [one for module in (unet, looks) for one in module.parameters() if one.requires_grad]
    groups = [{"params": learns, "lr": engine.rate()}]
    step = Filming(unet, looks, vae, Noise(settings, bounds))
    return Job(step, groups, data, len(films), collated, write)


def _kind_of_vae(source: str) -> Any:
    """The class that a VAE's config names: of films, or of pictures. Raises CheckpointError for another."""
    import diffusers

    place, kinds = place_of(source), (diffusers.AutoencoderKLTemporalDecoder, diffusers.AutoencoderKL)
    try:
        inside = {} if Path(place).is_dir() and not (Path(place) / "vae").is_dir() else {"subfolder": "vae"}
        name = diffusers.AutoencoderKL.load_config(place, **inside)["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        fix = "give a diffusers folder of a vae"
        raise CheckpointError(f"it cannot be read ({error}).", where=f"--vae_name_or_path {source}", fix=fix) from error
    found = next((kind for kind in kinds if kind.__name__ == name), None)
    if found is None:
        what = f"it is of a class that is not known here (got {name})."
        raise CheckpointError(what, where=f"--vae_name_or_path {source}", fix=f"give a {kinds[0].__name__}")
    return found


def _check(unet: Any, looks: Any, vae: Any) -> None:
    """Raises CheckpointError where parts do not go together."""
    for name, expected, of in (
        ("in_channels", 2 * vae.latent_channels, "twice the vae's latent_channels"),
        ("cross_attention_dim", looks.projection_dim, "the image encoder's projection_dim"),
    ):
        got = getattr(unet, name)
        if got != expected:
            what = f"its {name} is not {of} (got {got}, expected {expected})."
            raise CheckpointError(what, where="unet", fix="give parts that go together")
