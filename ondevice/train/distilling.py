"""Latent consistency distillation: a student whose guess of a path's end agrees with its guess one step of the teacher
further down that path (arXiv 2310.04378, algorithm 1; as a LoRA: arXiv 2311.05556).

f(x, t) = skip(t) x + out(t) x0(x, t), where skip(t) = d^2 / ((s t)^2 + d^2) and out(t) = s t / sqrt((s t)^2 + d^2), d =
0.5 and s is `timestep_scaling_factor`: as diffusers' LCMScheduler jumps. The teacher's step is DDIM's, of a guess with
guidance: uncond + (w + 1) (cond - uncond), w drawn for each sample.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ondevice.diffusion.request import Picture
from ondevice.drawing import say
from ondevice.errors import CheckpointError
from ondevice.train.adapting import asked, cut_of, opened_parts, prepare_net, settle, texts_of, write_model
from ondevice.train.average import Average
from ondevice.train.beginnings import CONFIG, begun, take_what_fits
from ondevice.train.drawn import drawing
from ondevice.train.draws import Draws
from ondevice.train.engine import Engine, Job
from ondevice.train.finetune import Finetune
from ondevice.train.lines import Lines
from ondevice.train.lora_files import add_lora, write_lora
from ondevice.train.noising import Diffusion
from ondevice.train.part_files import parts_of
from ondevice.train.parts import SD1, SD3, Parts, Texts, place_of
from ondevice.train.samples import collated
from ondevice.train.shards import Shards

_DATA_SPREAD = 0.5
_TOLD = "cond_proj"  # in the name of the layer that is told of guidance
Network = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Solver:
    """The teacher's path: `count` of the timesteps of `alphas` (float32 [timesteps]), and DDIM's step down it."""

    alphas: torch.Tensor
    count: int

    @property
    def stride(self) -> int:
        """Timesteps of a step."""
        return len(self.alphas) // self.count

    def at(self, places: torch.Tensor) -> torch.Tensor:
        """int64 [N]: timesteps of places on the path, from little noise to much."""
        return (places + 1) * self.stride - 1

    def step(self, x0: torch.Tensor, noise: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Where a guess of the end and of the noise lead, one step down from places [N]."""
        before = self.alphas.to(x0.device)[(self.at(places) - self.stride).clamp(min=0)]
        signal, spread = (_wide(one.sqrt(), x0) for one in (before, 1 - before))
        return signal * x0 + spread * noise


def _wide(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def embedded(w: torch.Tensor, width: int) -> torch.Tensor:
    """float32 [N, width]: what a student is told of w, guidance less one: sines and cosines of 1000 w, as diffusers'
    LatentConsistencyModelPipeline computes it."""
    half = width // 2
    angles = 1000 * w[:, None] * torch.exp(-math.log(10000) * torch.arange(half, device=w.device) / (half - 1))
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))


@dataclass(frozen=True, slots=True)
class Asked:
    """How is distilled: bounds of w, the loss, and s of the weights at the path's end."""

    low: float
    high: float
    huber: float | None
    scaling: float

    def between(self, guess: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """How far two guesses are apart, on average."""
        off = guess.float() - target.float()
        if self.huber is None:
            return off.square().mean()
        return ((off.square() + self.huber**2).sqrt() - self.huber).mean()

    def weights(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(skip, out), each [N]."""
        scaled = self.scaling * timesteps.float()
        below = scaled.square() + _DATA_SPREAD**2
        return _DATA_SPREAD**2 / below, scaled / below.sqrt()


class Distillation(Finetune):
    """One batch's loss.

    Args:
        teacher: None: the student without its adapters.
        width: of what the student is told of guidance; None: it is told nothing.
    """

    def __init__(
        self,
        parts: Parts,
        noising: Diffusion,
        texts: Texts,
        asked: Asked,
        solver: Solver,
        teacher: torch.nn.Module | None,
        width: int | None,
    ) -> None:
        super().__init__(parts, noising, texts)
        self.teacher = teacher
        self._diffusion, self._asked, self._solver, self._width = noising, asked, solver, width
        self._average: Average | None = None

    def follow(self, average: Average | None) -> None:
        """Take the average of the student's weights as the target."""
        self._average = average

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """`loss`, of `pixels` float32 [N, 3, h, w] in -1..1, `sizes` int64 [N, 4], `captions` and `seeds`, N of
        each."""
        draws = Draws(batch["seeds"], batch["pixels"].device)
        latents = self.latents(batch["pixels"], draws)
        noise = draws.normal(*latents.shape[1:])
        places = draws.below(self._solver.count)
        w = self._asked.low + (self._asked.high - self._asked.low) * draws.uniform()
        start = self._solver.at(places)
        end = (start - self._solver.stride).clamp(min=0)
        kept = self._diffusion.alphas.to(latents.device)[start]
        noisy = _wide(kept.sqrt(), latents) * latents + _wide((1 - kept).sqrt(), latents) * noise
        told = self._texts.of(batch["captions"])
        words = self.words(told, batch)
        own = words if self._width is None else words | {"timestep_cond": embedded(w, self._width)}
        guess = self._jump(self.net, noisy, start, own)
        with torch.no_grad():
            empty = self.words(self._texts.none(told), batch)
            further = self._solver.step(*self._guided(noisy, start, (words, empty), w), places)
            target = self._jump(self._target, further, end, own)
        return {"loss": self._asked.between(guess, target)}

    def _jump(self, net: Network, x: torch.Tensor, timesteps: torch.Tensor, words: Mapping[str, Any]) -> torch.Tensor:
        """f(x, t)."""
        end, _ = self._guess(net(x, timestep=timesteps, return_dict=False, **words)[0], x, timesteps)
        skip, out = (_wide(one, x) for one in self._asked.weights(timesteps))
        return skip * x + out * end

    def _guess(
        self, prediction: torch.Tensor, x: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The path's end, and the noise, of what a network says."""
        kept = self._diffusion.alphas.to(x.device)[timesteps]
        signal, spread = (_wide(one.sqrt(), x) for one in (kept, 1 - kept))
        prediction = prediction.float()
        if self._diffusion.prediction == "epsilon":
            return (x - spread * prediction) / signal, prediction
        return signal * x - spread * prediction, signal * prediction + spread * x

    def _guided(
        self, x: torch.Tensor, timesteps: torch.Tensor, words: tuple[dict[str, Any], dict[str, Any]], w: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's guesses with guidance; `words` of the captions and of no text."""
        with self._teaching() as teacher:
            with_text, without = (
                self._guess(teacher(x, timestep=timesteps, return_dict=False, **told)[0], x, timesteps)
                for told in words
            )
        wide = _wide(w, x)
        end, noise = (one + wide * (one - other) for one, other in zip(with_text, without, strict=True))
        return end, noise

    @contextmanager
    def _teaching(self) -> Any:
        if self.teacher is not None:
            yield self.teacher
            return
        net: Any = self.net
        net.disable_adapters()
        try:
            yield net
        finally:
            net.enable_adapters()

    def _target(self, *args: Any, **more: Any) -> Any:
        """The student with its target's weights."""
        if self._average is None:
            return self.net(*args, **more)
        values = {name.removeprefix("net."): one for name, one in self._average.values.items()}
        return torch.func.functional_call(self.net, values, args, more)


def distilled(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained: a student network, or with `rank` among the settings adapters of the teacher's.
    Raises OnDeviceError for a model or data that cannot be read."""
    settle(settings)
    data = data_of(settings, engine)
    parts = opened_parts(settings, engine)
    if parts.kind == SD3:
        what = "distillation is of Stable Diffusion 1.x, 2.x and XL."
        raise CheckpointError(what, where="--pretrained_teacher_model", fix="give such a model")
    noising = Diffusion.of(parts.pipe.scheduler.config, 0.0, None)
    teacher, width = None, None
    if hasattr(settings, "rank"):
        add_lora(parts.net, settings.rank, settings.target_modules)
    else:
        teacher = parts.net
        parts.pipe.unet = student_of(teacher, settings.unet_time_cond_proj_dim, settings.student_name_or_path)
        width = parts.pipe.unet.config.time_cond_proj_dim
    prepare_net(parts, settings)
    huber = settings.huber_c if settings.loss_type == "huber" else None
    asked_of = Asked(settings.w_min, settings.w_max, huber, settings.timestep_scaling_factor)
    solver = Solver(noising.alphas, settings.num_ddim_timesteps)
    step = Distillation(parts, noising, texts_of(parts, settings), asked_of, solver, teacher, width)
    told = {"timestep_scaling": settings.timestep_scaling_factor, "original_inference_steps": solver.count}
    write = _adapters(parts, f"{settings.ckpt_name}.safetensors") if teacher is None else _model(parts, told)
    learns = [one for one in parts.net.parameters() if one.requires_grad]

    def draw() -> Sequence[Picture]:
        with tempfile.TemporaryDirectory(prefix="ondevice-train-") as folder:
            written = str(write(Path(folder)))
            source = place_of(settings.pretrained_model_name_or_path) if teacher is None else written
            with drawing(source, settings.resolution) as pipe:
                if teacher is None:
                    pipe.load_lora_weights(written)
                return list(asked(settings, "lcm").by(pipe))

    groups = [{"params": learns, "lr": engine.rate()}]
    return Job(
        step,
        groups,
        data,
        settings.max_train_samples,
        collated,
        write,
        write if teacher is None else None,
        draw,
        drawn_every=settings.validation_steps,
        followed=step.follow,
    )


def data_of(settings: argparse.Namespace, engine: Engine) -> Lines:
    """Shards, or part files. Raises UsageError for such as are not there, or too few."""
    about = (cut_of(settings), engine.share, settings.seed, settings.buffer_count, settings.dataloader_num_workers)
    if settings.file_list is not None:
        return Lines(parts_of(Path(settings.file_list)), *about)
    flag = "train_shards_path_or_url"
    shards = Shards(settings.allow_urls, settings.allow_pipes)
    return Lines(shards.named(settings.train_shards_path_or_url, flag), *about, shards.samples_of, flag)


def student_of(teacher: torch.nn.Module, width: int, source: str | None = None) -> torch.nn.Module:
    """A network that is told of guidance, too; all of it learns. It begins as the teacher, or as the network that
    `source` names: of a config with what fits of the teacher. What it is told begins as nothing, so that its first
    guesses are those of what it begins as. Raises CheckpointError for a source that cannot be read."""
    base: Any = teacher
    kind: Any = type(teacher)
    told = dict(base.state_dict())
    if source is not None:
        base = begun(kind, source, "unet", "student_name_or_path")
        if source.endswith(CONFIG):
            take_what_fits(base, teacher, say)
        told = {name: one for name, one in base.state_dict().items() if not (source.endswith(CONFIG) and _TOLD in name)}
    width = base.config.time_cond_proj_dim or width
    student: Any = kind.from_config(dict(base.config) | {"time_cond_proj_dim": width})
    torch.nn.init.zeros_(student.time_embedding.cond_proj.weight)
    student.load_state_dict({name: one.float() for name, one in told.items()}, strict=False)
    return student.float().requires_grad_(True)


def _model(parts: Parts, told: Mapping[str, Any]) -> Callable[[Path], Path]:
    """What writes the student as a diffusers folder, whose scheduler is told how it was trained."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    more: dict[str, Any] = {"requires_safety_checker": False}
    if parts.kind != SD1:
        zeros = parts.pipe.config.force_zeros_for_empty_prompt
        more = {"add_watermarker": False, "force_zeros_for_empty_prompt": zeros}

    def write(folder: Path) -> Path:
        pipe = parts.pipe
        kind = LatentConsistencyModelPipeline if parts.kind == SD1 else type(pipe)
        scheduler = LCMScheduler.from_config(pipe.scheduler.config, clip_sample=False, **told)
        return write_model(kind(**pipe.components | {"scheduler": scheduler}, **more), folder)

    return write


def _adapters(parts: Parts, file: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return write_lora({parts.net_name: parts.net}, folder / file)

    return write
