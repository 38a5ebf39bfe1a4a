"""Train the demo model's UNet (and go on training its text encoder) on cached latents.

    python -m benchmarks.demo_model.train_unet --run DIR --minutes 55 --export ondevice/models/demo

DIR must hold vae/, tokenizer/ and text_encoder/. Writes DIR/unet and DIR/text_encoder (averaged weights, float32),
DIR/unet_log.jsonl, and the half-precision model folder at every checkpoint.

Plain epsilon training lets a small UNet read the colours from the mean of the noisy latents and ignore the text. Four
things prevent that: noise with an offset per channel, half of the timesteps drawn from the noisier half, more weight on
steps where hardly any signal is left, and twice the learning rate on everything that touches text.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.demo_model.evaluate import contact_sheet, generate
from benchmarks.demo_model.export import export, pipeline, scheduler
from benchmarks.demo_model.train_text import WIDTH, encode
from benchmarks.demo_model.train_vae import SCALING, to_tensor
from benchmarks.shapes.pictures import held_out_prompts, render, sample
from benchmarks.shapes.score import score, tally

OFFSET_NOISE = 0.15
DROP_CAPTION = 0.1  # for classifier-free guidance


def build() -> UNet2DConditionModel:
    """Stable Diffusion 1.x's block types, three levels instead of four and far fewer channels."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 64, 96),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,  # the number of heads, as in SD 1.x configurations
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
    )


@torch.no_grad()
def cache_latents(run: Path, vae: AutoencoderKL, tokens: CLIPTokenizer, count: int, seed: int) -> dict:
    """Posterior means and spreads of `count` pictures at unit scale, with captions and token ids;
    kept in RUN/latents.pt."""
    file = run / "latents.pt"
    if file.exists():
        return torch.load(file)
    rng = random.Random(seed)
    vae = copy.deepcopy(vae).to(memory_format=torch.channels_last)
    specs = [sample(rng) for _ in range(count)]
    means, spreads = [], []
    for first in range(0, count, 64):
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(
                to_tensor(np.stack([render(spec) for spec in specs[first : first + 64]]))
            ).latent_dist
        means.append(posterior.mean.float().contiguous() * SCALING)
        spreads.append(posterior.std.float().contiguous() * SCALING)
    captions = [spec.caption for spec in specs]
    data = {
        "mean": torch.cat(means),
        "spread": torch.cat(spreads),
        "captions": captions,
        "ids": encode(tokens, captions),
    }
    torch.save(data, file)
    return data


def descend(
    loss: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    live: list[torch.Tensor],
    averaged: list[torch.Tensor],
    kept: float,
) -> None:
    """One step of the optimiser, with gradients of length 1 at most; of their average the part `kept` stays."""
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(live, 1.0)
    optimiser.step()
    with torch.no_grad():
        torch._foreach_lerp_(averaged, live, 1 - kept)


def learning_rate(done: float, step: int, peak: float) -> float:
    """Short warm-up, flat until 40 % of the time, then a cosine down to 2 %."""
    fall = max(0.0, done - 0.4) / 0.6
    return peak * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(fall, 1))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument(
        "--export", type=Path, help="also write the half-precision model folder here at every checkpoint"
    )
    parser.add_argument("--minutes", type=float, default=55)
    parser.add_argument("--pictures", type=int, default=16000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.9985)
    parser.add_argument("--checkpoints", type=int, default=7)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--resume", action="store_true", help="start from RUN/unet instead of from random weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    tokens = CLIPTokenizer.from_pretrained(args.run / "tokenizer")
    text = CLIPTextModel.from_pretrained(args.run / "text_encoder").train()
    unet = UNet2DConditionModel.from_pretrained(args.run / "unet").train() if args.resume else build()
    unet = unet.to(memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())  # on CPUs the fused one is slower in bfloat16, above all backward
    average_unet, average_text = (copy.deepcopy(model).requires_grad_(False).eval() for model in (unet, text))
    average_unet.set_attn_processor(AttnProcessor2_0())
    vae = AutoencoderKL.from_pretrained(args.run / "vae").eval()
    pipe = pipeline(vae, average_text, tokens, average_unet)
    checks = held_out_prompts(40, split="validation")

    def checkpoint(row: dict) -> None:
        """Save the averaged weights, export them, and score a few validation prompts."""
        average_unet.save_pretrained(args.run / "unet")
        average_text.save_pretrained(args.run / "text_encoder")
        if args.export:
            row["bytes"] = export(pipe, args.export)
        if row["step"]:
            pictures = generate(pipe, checks, args.guidance, 20)
            row["validation_guidance"] = args.guidance
            row["validation"] = tally([score(picture, spec) for picture, spec in zip(pictures, checks, strict=True)])
            contact_sheet(pictures).save(args.run / "sheet.png")
        print(row, flush=True)
        log.write(json.dumps(row) + "\n")
        log.flush()

    log = (args.run / "unet_log.jsonl").open("a" if args.resume else "w")
    sizes = {
        name: sum(p.numel() for p in model.parameters())
        for name, model in (("unet", unet), ("text", text), ("vae", vae))
    }
    checkpoint({"stage": "unet", "step": 0, "parameters": sizes})
    data = cache_latents(args.run, vae, tokens, args.pictures, args.seed + 1)
    print(
        "latents: mean",
        data["mean"].mean((0, 2, 3)),
        "std",
        data["mean"].std((0, 2, 3)),
        "spread",
        data["spread"].mean(),
        flush=True,
    )

    abar = scheduler().alphas_cumprod
    snr = abar / (1 - abar)
    importance = snr.clamp(0.05, 5.0) / snr
    empty = encode(tokens, [""])
    reads_text = [p for name, p in unet.named_parameters() if "attn2" in name] + list(text.parameters())
    known = {id(p) for p in reads_text}
    groups = [
        {"params": [p for p in unet.parameters() if id(p) not in known], "factor": 1.0},
        {"params": reads_text, "factor": 2.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    live, averaged = [*unet.parameters(), *text.parameters()], [*average_unet.parameters(), *average_text.parameters()]

    start, paused, step, saved, recent, size = time.time(), 0.0, 0, 0, [], args.batch
    while True:
        done = (time.time() - start - paused) / (args.minutes * 60)
        if done >= (saved + 1) / args.checkpoints:
            pause, saved = time.time(), saved + 1
            loss_and_mse = np.mean(recent, 0).round(4).tolist()
            checkpoint({"stage": "unet", "minutes": round(done * args.minutes, 1), "step": step, "loss": loss_and_mse})
            recent, paused = [], paused + time.time() - pause
            if saved == args.checkpoints:
                break
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(done, step, args.lr) * group["factor"]
        chosen = torch.randint(0, len(data["ids"]), (size,))
        ids = torch.where(torch.rand(size, 1) < DROP_CAPTION, empty, data["ids"][chosen])
        z = data["mean"][chosen] + data["spread"][chosen] * torch.randn(size, 4, 16, 16)
        noise = torch.randn_like(z) + OFFSET_NOISE * torch.randn(size, 4, 1, 1)
        u = (torch.rand(1) + torch.arange(size) / size) % 1  # evenly spread: steadier gradients than independent draws
        t = torch.where(u < 0.5, u * 2000, 500 + (u - 0.5) * 1000).long().clamp(max=999)
        signal = abar[t][:, None, None, None]
        noisy = signal.sqrt() * z + (1 - signal).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            guess = unet(noisy.contiguous(memory_format=torch.channels_last), t, text(input_ids=ids)[0]).sample
        errors = (guess.float() - noise).pow(2).mean((1, 2, 3))
        loss = (errors * importance[t]).mean()
        step += 1
        descend(loss, optimiser, live, averaged, min(args.ema, (step + 1) / (step + 20)))
        recent.append((loss.item(), errors.mean().item()))
        if step % 100 == 0:
            minutes = (time.time() - start - paused) / 60
            loss_now, mse = np.mean(recent[-100:], 0)
            print(f"{minutes:.1f} min step {step} loss {loss_now:.4f} mse {mse:.4f}", flush=True)


if __name__ == "__main__":
    main()
