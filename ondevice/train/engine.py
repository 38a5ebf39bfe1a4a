"""The loop that every recipe runs in: steps, checkpoints, logs, validation pictures, and the files at the end.

A step depends on the weights, the optimiser's state and the number of the step alone: what is random is a function of
the seed and of a sample's position (order.py, draws.py). So a checkpoint is those three, and a run that goes on from it
ends where an unbroken one does. A signal (Ctrl-C) ends a run between two steps, or within the part of one that changes
nothing yet; then the steps that were done are kept as a checkpoint, too.
"""

from __future__ import annotations

import argparse
import itertools
import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from diffusers.optimization import get_scheduler
from torch.utils.data import DataLoader, Dataset

from ondevice.base.process import signals
from ondevice.diffusion.request import Picture
from ondevice.drawing import say
from ondevice.errors import NumericError, UsageError
from ondevice.train.average import Average
from ondevice.train.checkpoints import Checkpoints
from ondevice.train.lines import Lines
from ondevice.train.logs import Logs
from ondevice.train.order import Share, mixed
from ondevice.train.processes import check_started, is_lost

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(slots=True)
class Job:
    """What a recipe trains.

    Args:
        step: a module whose forward takes a batch and gives {"loss": a number, and others to be logged}. What of its
            parameters requires a gradient is trained, and is all that a checkpoint holds of it.
        groups: of these parameters, as torch's optimisers take them, each with its `lr`.
        data: a sample for each position (order.py), a function of it alone; or a stream of them.
        count: samples of an epoch.
        collate: samples to a batch.
        export: writes the result into the output folder, and gives what is said of it: a path.
        beside: writes files into a checkpoint's folder, for those who take it as a result.
        draw: pictures of the model as it is; None: nothing is drawn.
        drawn_every: steps between them; None: as the settings have it, in epochs.
        followed: is given the weights' average before the first step, where there is one.
    """

    step: torch.nn.Module
    groups: list[dict[str, Any]]
    data: Dataset[Any] | Lines
    count: int
    collate: Callable[[list[Any]], dict[str, Any]]
    export: Callable[[Path], Path]
    beside: Callable[[Path], object] | None = None
    draw: Callable[[], Sequence[Picture]] | None = None
    drawn_every: int | None = None
    followed: Callable[[Average | None], object] | None = None


@dataclass(slots=True)
class _Positions:
    """The positions of each batch that a process takes, for torch's loader."""

    share: Share
    first: int
    steps: int

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(self.share.batches(self.first), len(self))

    def __len__(self) -> int:
        return self.steps * self.share.micro


@dataclass(slots=True)
class Engine:
    """A run of a recipe, in one of its processes.

    Args:
        recipe: its name.
        settings: all of its settings; the seed is filled in where there is none.
        begun: what the checkpoint says of itself that the run goes on from; None: it begins.

    Raises:
        UsageError: this machine cannot compute in the precision that is asked for, or a launcher has started fewer
            processes than it was told to.
    """

    recipe: str
    settings: argparse.Namespace
    accelerator: Accelerator = field(init=False)
    share: Share = field(init=False)
    out: Path = field(init=False)
    checkpoints: Checkpoints = field(init=False)
    _whole: int | None = field(init=False, default=None)  # steps whose weights there are; None: of no whole step
    begun: dict[str, Any] | None = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        try:
            self.accelerator = Accelerator(
                gradient_accumulation_steps=settings.gradient_accumulation_steps,
                mixed_precision=settings.mixed_precision,
                kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=settings.ddp_timeout))],
            )
        except ValueError as error:
            what = f"this machine cannot compute in it ({error})."
            raise UsageError(what, where="--mixed_precision", fix="use bf16, or no") from error
        one = self.accelerator
        check_started(one.num_processes)
        if one.mixed_precision == "fp16" and one.device.type == "cpu":
            what = "this machine cannot compute in it (fp16 is for GPUs)."
            raise UsageError(what, where="--mixed_precision", fix="use bf16, or no")
        self.share = Share(
            settings.train_batch_size, settings.gradient_accumulation_steps, one.process_index, one.num_processes
        )
        self.out = Path(settings.output_dir)
        self.checkpoints = Checkpoints(self.out, settings.checkpoints_total_limit)
        self._make_folder()
        kept = self.checkpoints.asked(settings.resume_from_checkpoint)
        self.begun = None if kept is None else self.checkpoints.state(kept, self.recipe)
        if settings.seed is None:
            settings.seed = self.begun["seed"] if self.begun else self._drawn_seed()
        elif self.begun and self.begun["seed"] != settings.seed:
            what = f"the checkpoint was trained with another (got {settings.seed}, expected {self.begun['seed']})."
            raise UsageError(what, where="--seed", fix="leave it out")
        settings.resume_from_checkpoint = kept
        torch.manual_seed(settings.seed)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def half(self) -> torch.dtype:
        """What weights that are not trained are kept in."""
        return HALVES.get(self.accelerator.mixed_precision, torch.float32)

    def rate(self, usual: float = 0.0) -> float:
        """The learning rate at its highest: as the settings have it, or the usual one where they leave that open."""
        settings = self.settings
        return self.scaled(usual if settings.learning_rate is None else settings.learning_rate)

    def scaled(self, rate: float) -> float:
        """A learning rate for the samples of a step, where the settings want that."""
        return float(rate * (self.share.of_step if self.settings.scale_lr else 1))

    def steps_of_epoch(self, count: int) -> int:
        """Steps until so many samples are taken."""
        return self.share.steps_of_epoch(count)

    def train(self, job: Job) -> Path:
        """Train from the beginning or from a checkpoint to the end; what `job.export` gives.

        Raises:
            NumericError: the loss is no number.
            OnDeviceError: files cannot be read or written.
        """
        settings = self.settings
        epoch = self.steps_of_epoch(job.count)
        drawn_every = job.drawn_every or (settings.validation_epochs * epoch if job.draw is not None else 1)
        total = settings.max_train_steps or settings.num_train_epochs * epoch
        peaks = [group["lr"] for group in job.groups]
        optimiser = torch.optim.AdamW(
            job.groups,
            lr=peaks[0],
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.adam_weight_decay,
            eps=settings.adam_epsilon,
        )
        rates = self._rates(optimiser, total)
        step, optimiser = self.accelerator.prepare(job.step, optimiser)
        trained = {name: one for name, one in job.step.named_parameters() if one.requires_grad}
        average = Average(trained, settings.ema_decay) if settings.use_ema else None
        if job.followed is not None:
            job.followed(average)
        begun = 0
        if self.begun is not None:
            scaler, begun = self.accelerator.scaler, self.begun["step"]
            path = settings.resume_from_checkpoint
            self.checkpoints.restore(path, self.begun, trained, average, optimiser, scaler)
            self._say(f"going on after step {begun}")
        self._whole = begun
        loader = iter(self._loader(job, begun, total))
        about = {"recipe": self.recipe, "steps": total, "samples": job.count, "settings": vars(settings)}
        parameters = sum(one.numel() for one in trained.values())
        samples = "" if isinstance(job.data, Lines) else f"{job.count:,} samples, "  # those of files are not counted
        self._say(f"{parameters:,} trained parameters, {samples}{total:,} steps, seed {settings.seed}")
        try:
            with Logs(self.out, settings.logging_dir, begun, total, about) if self.is_main else nullcontext() as logs:
                for number in range(begun, total):
                    for group, peak, factor in zip(optimiser.param_groups, peaks, rates, strict=True):
                        group["lr"] = peak * factor(number)
                    started = time.perf_counter()
                    found = self._gradients(number, step, loader)
                    done = number + 1
                    with signals.Held():  # what follows is done whole, or not at all
                        self._whole = None
                        self._update(optimiser, list(trained.values()))
                        if average is not None:
                            average.update()
                        self._whole = done
                        if logs is not None:
                            taken = {"seconds": time.perf_counter() - started, "lr": optimiser.param_groups[0]["lr"]}
                            logs.step(done, done / epoch, found | taken)
                    if done % settings.checkpointing_steps == 0 or done == total:
                        self._keep(done, job, trained, average, optimiser)
                    if self._draws(job) and (done % drawn_every == 0 or done == total):
                        self._draw(done, job, average, logs)
        except (KeyboardInterrupt, RuntimeError) as error:
            ended = isinstance(error, KeyboardInterrupt) or is_lost(error, self.share.processes)
            new = self._whole and self._whole != begun and not self.checkpoints.has(self._whole)
            if ended and self.is_main and self._whole and new:
                self._write(self._whole, job, trained, average, optimiser)
                self._say(f"stopped after step {self._whole}; --resume_from_checkpoint latest goes on")
            raise
        return self._exported(job, average)

    def _loader(self, job: Job, begun: int, total: int) -> DataLoader[Any]:
        """Batches from a step on."""
        if isinstance(job.data, Lines):
            job.data.first = begun
            how: dict[str, Any] = {"batch_size": self.share.batch}
        else:
            how = {"batch_sampler": _Positions(self.share, begun, max(0, total - begun))}
        return DataLoader(job.data, num_workers=self.settings.dataloader_num_workers, collate_fn=job.collate, **how)

    def _gradients(self, number: int, step: torch.nn.Module, loader: Iterator[dict[str, Any]]) -> dict[str, float]:
        """The gradients of a step, in the parameters; what is logged of it, as means over all processes' batches.
        Raises NumericError where the loss is no number."""
        accelerator, settings = self.accelerator, self.settings
        torch.manual_seed(mixed(settings.seed, number, accelerator.process_index))  # of layers that drop values
        step.train()
        sums: dict[str, torch.Tensor] = {}
        for _ in range(self.share.micro):
            batch = {
                name: value.to(accelerator.device) if isinstance(value, torch.Tensor) else value
                for name, value in next(loader).items()
            }
            with accelerator.accumulate(step):
                found = step(batch)
                accelerator.backward(found["loss"])
            for name, value in found.items():
                sums[name] = sums.get(name, torch.zeros_like(value.detach())) + value.detach() / self.share.micro
        means = {name: float(accelerator.gather(value.reshape(1)).mean()) for name, value in sums.items()}
        if not math.isfinite(means["loss"]):
            what = f"the loss of step {number + 1} is no number (got {means['loss']})."
            raise NumericError(what, where="train", fix="lower --learning_rate, or train with --mixed_precision no")
        return means

    def _update(self, optimiser: Any, trained: Sequence[torch.nn.Parameter]) -> None:
        """What the gradients do to the weights. Nothing here waits for another process."""
        if self.settings.max_grad_norm:
            self.accelerator.clip_grad_norm_(trained, self.settings.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()

    def _rates(self, optimiser: torch.optim.Optimizer, total: int) -> list[Callable[[int], float]]:
        """For each group, what its rate is multiplied by at a step."""
        settings = self.settings
        found = get_scheduler(
            settings.lr_scheduler,
            optimizer=optimiser,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=total,
            num_cycles=settings.lr_num_cycles,
            power=settings.lr_power,
        )
        return list(found.lr_lambdas)

    def _keep(
        self, done: int, job: Job, trained: dict[str, torch.nn.Parameter], average: Average | None, optimiser: Any
    ) -> None:
        self.accelerator.wait_for_everyone()
        if self.is_main:
            self._write(done, job, trained, average, optimiser)
        self.accelerator.wait_for_everyone()

    def _write(
        self, done: int, job: Job, trained: dict[str, torch.nn.Parameter], average: Average | None, optimiser: Any
    ) -> None:
        """A checkpoint, by the process that writes."""
        state = {"recipe": self.recipe, "step": done, "seed": self.settings.seed}
        state["settings"] = vars(self.settings) | {"resume_from_checkpoint": None}
        tensors = (trained, average, optimiser, self.accelerator.scaler)
        self.checkpoints.keep(state, *tensors, beside=self._of_average(job.beside, average))

    def _of_average(
        self, write: Callable[[Path], object] | None, average: Average | None
    ) -> Callable[[Path], object] | None:
        """The same, with the weights' average in the place of the weights."""
        if write is None or average is None:
            return write

        def written(folder: Path) -> object:
            with average.in_place():
                return write(folder)

        return written

    def _draws(self, job: Job) -> bool:
        return job.draw is not None and self.settings.validation_prompt is not None

    def _draw(self, done: int, job: Job, average: Average | None, logs: Logs | None) -> None:
        """Draw what the model gives now, in the process that writes."""
        if logs is not None and job.draw is not None:
            with average.in_place() if average is not None else nullcontext():
                logs.pictures(done, job.draw())
        self.accelerator.wait_for_everyone()

    def _exported(self, job: Job, average: Average | None) -> Path:
        self.accelerator.wait_for_everyone()
        path = self.out
        if self.is_main:
            with average.in_place() if average is not None else nullcontext():
                path = job.export(self.out)
        self.accelerator.wait_for_everyone()
        return path

    def _make_folder(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"no folder can be made there ({error.strerror})."
            raise UsageError(what, where=f"--output_dir {self.out}", fix="name one in a writable folder") from error

    def _drawn_seed(self) -> int:
        """A seed that all processes have."""
        from accelerate.utils import broadcast_object_list

        return int(broadcast_object_list([secrets.randbelow(1 << 32)])[0])

    def _say(self, text: str) -> None:
        if self.is_main:
            say(text)
