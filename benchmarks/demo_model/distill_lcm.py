"""Distil the demo model into a latent consistency model that draws in 1 to 8 steps (arXiv 2310.04378).

    python -m benchmarks.demo_model.distill_lcm --run DIR --minutes 35 --export ondevice/models/demo-lcm

The teacher is the demo's UNet with classifier-free guidance, the student the same without its middle block. The
student learns to jump from any point of the teacher's path (DDIM, guidance drawn anew for each picture and told to the
student by an embedding) straight to the path's end:

1. For the first third of the time it learns the teacher's own guess of the end, which makes up for the missing block.
2. Then its guess must agree with its own averaged guess one teacher step further down the path.

Writes DIR/lcm_log.jsonl, DIR/lcm/unet (averaged weights, half precision) and a sheet at every checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import LCMScheduler

from benchmarks.demo_model.evaluate import contact_sheet, generate
from benchmarks.demo_model.export import NOISE, load, pipeline
from benchmarks.demo_model.sibling import DEMO, averaged, full_precision_output, text_states, thin, write_unet
from benchmarks.demo_model.train_unet import cache_latents, descend
from benchmarks.shapes.pictures import held_out_prompts
from benchmarks.shapes.score import score, tally

GRID = 20  # LCM's timesteps are 19, 39, ... 999
SKIP = 40  # timesteps between the two points that must agree
EMBEDDED = 256  # width of the guidance embedding, as in published LCMs
SETTLE = 0.35  # part of the time for the teacher's own guesses
HUBER = 1e-2
SCORED_STEPS, SCORED_GUIDANCE = (2, 4), 1.5


def embedding(w: torch.Tensor) -> torch.Tensor:
    """Sines then cosines of 1000 w [N, 256], w = guidance - 1, as diffusers' LCM pipelines compute it."""
    half = EMBEDDED // 2
    angles = 1000 * w[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
    return torch.cat([angles.sin(), angles.cos()], 1)


class Consistency:
    """The path's noise levels, and the student's jump to its end."""

    def __init__(self) -> None:
        self.scheduler = LCMScheduler(**NOISE, clip_sample=False)
        self.signal = self.scheduler.alphas_cumprod.sqrt()
        self.noise = (1 - self.scheduler.alphas_cumprod).sqrt()

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Signal and noise factors [N, 1, 1, 1] of timesteps."""
        return self.signal[t][:, None, None, None], self.noise[t][:, None, None, None]

    def jump(
        self, unet: torch.nn.Module, x: torch.Tensor, t: torch.Tensor, states: torch.Tensor, w: torch.Tensor
    ) -> torch.Tensor:
        """f(x, t): c_skip x + c_out x0, with the scalings of LCMScheduler (which is the identity at t = 0)."""
        with torch.autocast("cpu", torch.bfloat16):
            guess = unet(x.contiguous(memory_format=torch.channels_last), t, states, timestep_cond=w).sample.float()
        signal, noise = self.at(t)
        skip, out = self.scheduler.get_scalings_for_boundary_condition_discrete(t[:, None, None, None].float())
        return skip * x + out * (x - noise * guess) / signal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, default=DEMO)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--export", type=Path, help="also write unet/ into this folder at every checkpoint")
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--guidance", type=float, nargs=2, default=[1.0, 3.0], help="drawn between these")
    parser.add_argument("--ema", type=float, default=0.98)
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)

    demo = load(args.teacher)
    teacher = demo.unet.requires_grad_(False).to(memory_format=torch.channels_last)
    student = thin(teacher, time_cond_proj_dim=EMBEDDED)
    target = averaged(student)
    for unet in (teacher, student, target):
        full_precision_output(unet)
    data = cache_latents(args.run, demo.vae, demo.tokenizer, args.pictures, args.seed + 1)
    states = text_states(demo.text_encoder, demo.tokenizer, data["captions"])
    empty = text_states(demo.text_encoder, demo.tokenizer, [""])
    path = Consistency()
    checks = held_out_prompts(30, split="validation")
    drawn = pipeline(demo.vae, demo.text_encoder, demo.tokenizer, target)
    drawn.scheduler = path.scheduler
    optimiser = torch.optim.AdamW(student.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    live, followed = [*student.parameters()], [*target.parameters()]
    log = (args.run / "lcm_log.jsonl").open("w")

    def checkpoint(row: dict) -> None:
        """Save the averaged weights and score a few validation prompts."""
        for folder in [args.run / "lcm", *([args.export] if args.export else [])]:
            folder.mkdir(parents=True, exist_ok=True)
            row["bytes"] = write_unet(target, folder)
        row["validation_guidance"] = SCORED_GUIDANCE
        for steps in SCORED_STEPS:
            pictures = generate(drawn, checks, SCORED_GUIDANCE, steps)
            scores = [score(picture, spec) for picture, spec in zip(pictures, checks, strict=True)]
            row[f"validation_{steps}_steps"] = tally(scores)
        contact_sheet(pictures).save(args.run / "lcm_sheet.png")
        print(row, flush=True)
        log.write(json.dumps(row) + "\n")
        log.flush()

    start, paused, step, saved, recent, size = time.time(), 0.0, 0, 0, [], args.batch
    while True:
        done = (time.time() - start - paused) / (args.minutes * 60)
        if done >= (saved + 1) / args.checkpoints:
            pause, saved = time.time(), saved + 1
            row = {"stage": "lcm", "minutes": round(done * args.minutes, 1)}
            checkpoint(row | {"step": step, "loss": round(float(np.mean(recent)), 4)})
            recent, paused = [], paused + time.time() - pause
            if saved == args.checkpoints:
                break
        settling = done < SETTLE
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        chosen = torch.randint(0, len(states), (size,))
        z = data["mean"][chosen] + data["spread"][chosen] * torch.randn(size, 4, 16, 16)
        # Evenly spread over the grid: steadier gradients than independent draws.
        t = GRID * (1 + ((torch.rand(1) + torch.arange(size) / size) % 1 * (1000 // GRID)).long()) - 1
        signal, noise = path.at(t)
        drawn_noise = torch.randn_like(z)
        # At the first timestep a picture begins from noise alone.
        x = torch.where((t == 999)[:, None, None, None], drawn_noise, signal * z + noise * drawn_noise)
        guidance = torch.empty(size).uniform_(*args.guidance)
        words, w = states[chosen].float(), embedding(guidance - 1)
        with torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16):
                both = teacher(
                    torch.cat([x, x]).contiguous(memory_format=torch.channels_last),
                    torch.cat([t, t]),
                    torch.cat([words, empty.float().expand_as(words)]),
                ).sample.float()
            with_text, without = both.chunk(2)
            guided = without + guidance[:, None, None, None] * (with_text - without)
            end = (x - noise * guided) / signal
            if settling:
                wanted = end
            else:
                before = (t - SKIP).clamp(min=0)
                signal_before, noise_before = path.at(before)
                wanted = path.jump(target, signal_before * end + noise_before * guided, before, words, w)
                # The path ends at t = 0.
                wanted = torch.where((t <= SKIP)[:, None, None, None], end, wanted)
        guess = path.jump(student, x, t, words, w)
        loss = ((guess - wanted).pow(2) + HUBER**2).sqrt().mean() - HUBER
        step += 1
        descend(loss, optimiser, live, followed, min(args.ema, (step + 1) / (step + 20)))
        recent.append(loss.item())
        if step % 50 == 0:
            minutes = (time.time() - start - paused) / 60
            print(f"{minutes:.1f} min step {step} loss {np.mean(recent[-50:]):.4f}", flush=True)


if __name__ == "__main__":
    main()
