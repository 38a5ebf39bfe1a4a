"""Train the demo model's image autoencoder: 128 px pictures to 16 x 16 x 4 latents and back.

    python -m benchmarks.demo_model.train_vae --out DIR --minutes 18
    python -m benchmarks.demo_model.train_vae --out DIR2 --minutes 7 --resume DIR/vae --lr 1e-3 --seed 1

The first run learns from crops, which are cheap. The second refines on whole pictures, with more weight on edges, and
with a little noise on the latents so that the decoder forgives small errors of the UNet.

Writes DIR/vae (diffusers layout, float32) and DIR/vae_log.jsonl at every checkpoint. One CPU core is enough.
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
from diffusers import AutoencoderKL

from benchmarks.shapes.pictures import held_out_prompts, render, sample
from benchmarks.shapes.score import score, tally

PIXELS, CROP = 128, 64
SCALING = 0.18215  # as in Stable Diffusion 1.x, so that latents * SCALING have unit spread


def build() -> AutoencoderKL:
    """Same classes and block order as Stable Diffusion's, fewer channels.

    Four norm groups, never as many as channels: that would be instance norm, which erases flat colour.
    """
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=PIXELS,
        scaling_factor=SCALING,
    )


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] to float [N, 3, H, W] in -1..1, stored channels last."""
    return (torch.from_numpy(np.ascontiguousarray(pictures)).float() / 127.5 - 1).permute(0, 3, 1, 2)


def to_pictures(images: torch.Tensor) -> np.ndarray:
    """The inverse of `to_tensor`, with clipping."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def batch(pool: np.ndarray, rng: np.random.Generator, count: int, crop: bool) -> torch.Tensor:
    """Random whole pictures, or random crops (at multiples of 8) that cost a quarter as much."""
    chosen = rng.integers(0, len(pool), count)
    if not crop:
        return to_tensor(pool[chosen])
    corners = rng.integers(0, (PIXELS - CROP) // 8 + 1, (count, 2)) * 8
    return to_tensor(np.stack([pool[i, y : y + CROP, x : x + CROP] for i, (y, x) in zip(chosen, corners, strict=True)]))


def edge_weight(x: torch.Tensor, reach: int = 9, extra: float = 3.0) -> torch.Tensor:
    """1 on flat areas and 1 + extra near edges, scaled to mean 1: [N, 1, H, W]."""
    high = torch.nn.functional.max_pool2d(x, reach, 1, reach // 2)
    low = -torch.nn.functional.max_pool2d(-x, reach, 1, reach // 2)
    weight = 1 + extra * ((high - low).amax(1, keepdim=True) > 0.1)
    return weight / weight.mean()


@torch.no_grad()
def folded(vae: AutoencoderKL, images: torch.Tensor) -> AutoencoderKL:
    """A copy whose latents have mean 0 and spread 1 / SCALING in each channel.

    The shift and scale go into the 1x1 convolutions around the latent, so readers need only the usual scaling factor.
    """
    vae = copy.deepcopy(vae).eval()
    posterior = vae.encode(images).latent_dist
    mean, scale = posterior.mean.mean((0, 2, 3)), posterior.sample().std((0, 2, 3)) * SCALING
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:4] /= scale[:, None, None, None]
    before.bias[:4] = (before.bias[:4] - mean) / scale
    before.bias[4:] -= 2 * scale.log()  # the second half holds log variances
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= scale[None, :, None, None]
    return vae


@torch.no_grad()
def round_trip(vae: AutoencoderKL, count: int = 60, noise: float = 0.0) -> tuple[dict[str, int], float, np.ndarray]:
    """Score decode(encode(x)) on held-out pictures. Returns the tally, the PSNR in dB and the decoded pictures."""
    specs = held_out_prompts(count, split="validation")
    images = to_tensor(np.stack([render(spec, PIXELS) for spec in specs]))
    decoded = []
    for part in images.split(20):
        z = vae.encode(part).latent_dist.mode()
        decoded.append(vae.decode(z + noise / SCALING * torch.randn_like(z)).sample)
    decoded = torch.cat(decoded).clamp(-1, 1)
    psnr = 10 * math.log10(4 / (decoded - images).pow(2).mean().item())
    pictures = to_pictures(decoded)
    return tally([score(picture, spec) for picture, spec in zip(pictures, specs, strict=True)]), psnr, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=18)
    parser.add_argument("--resume", type=Path, help="refine this autoencoder instead of starting anew")
    parser.add_argument("--pictures", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--kl", type=float, default=3e-4, help="weight of the KL term; small keeps pictures sharp")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng, numbers = random.Random(args.seed), np.random.default_rng(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    pool = np.stack([render(sample(rng), PIXELS) for _ in range(args.pictures)])
    vae = AutoencoderKL.from_pretrained(args.resume).train() if args.resume else build()
    unit = SCALING if args.resume else 1.0  # a saved model's latents have spread 1 / SCALING, a new one's about 1
    vae = vae.to(memory_format=torch.channels_last)
    average = copy.deepcopy(vae).requires_grad_(False).eval()
    optimiser = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.98), weight_decay=1e-4)
    log = (args.out / "vae_log.jsonl").open("w")
    print(f"{sum(p.numel() for p in vae.parameters())} parameters, {len(pool)} pictures", flush=True)

    start, paused, step, checks, recent = time.time(), 0.0, 0, 0, []
    while True:
        done = (time.time() - start - paused) / (args.minutes * 60)
        if done >= (checks + 1) / 6 or done >= 1:
            checks, pause = checks + 1, time.time()
            final = folded(average, to_tensor(pool[:256]))
            counts, psnr, _ = round_trip(final)
            noisy, _, _ = round_trip(final, noise=0.2)
            final.save_pretrained(args.out / "vae")
            row = {
                "stage": "vae refine" if args.resume else "vae",
                "minutes": round(done * args.minutes, 1),
                "step": step,
            }
            row |= {"l1_l2_kl": np.mean(recent, 0).round(5).tolist(), "psnr": round(psnr, 2)}
            row |= {"round_trip": counts, "round_trip_latent_noise_0.2": noisy}
            print(row, flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
            recent, paused = [], paused + time.time() - pause
            if done >= 1:
                break
        rate = args.lr * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1))))
        for group in optimiser.param_groups:
            group["lr"] = rate
        # Mostly crops at first; whole pictures from 65 % on, because norms and attention see the whole picture in use.
        whole = bool(args.resume) or done > 0.65 or step % 4 == 3
        x = batch(pool, numbers, 3 if whole else 10, crop=not whole)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            mean, spread = posterior.mean.float(), posterior.std.float()
            noise = 0.1 / SCALING * torch.randn(len(x), 1, 1, 1).abs() if args.resume else 0.0
            y = vae.decode(mean + (spread + noise) * torch.randn_like(mean)).sample.float()
        weight = edge_weight(x) if args.resume else 1.0
        l1, l2 = (weight * (y - x).abs()).mean(), (weight * (y - x).pow(2)).mean()
        kl = 0.5 * ((unit * mean).pow(2) + (unit * spread).pow(2) - 1 - 2 * (unit * spread).log()).mean()
        optimiser.zero_grad()
        (l1 + 2 * l2 + args.kl * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.parameters()), list(vae.parameters()), 1 - min(0.997, (step + 1) / (step + 10))
            )
        recent.append((l1.item(), l2.item(), kl.item()))
        if step % 100 == 0:
            minutes = (time.time() - start - paused) / 60
            print(f"{minutes:.1f} min step {step}", np.mean(recent[-100:], 0).round(5), flush=True)


if __name__ == "__main__":
    main()
