"""Distil the demo model's autoencoder into a tiny one (diffusers' AutoencoderTiny, as TAESD is for Stable Diffusion).

    python -m benchmarks.demo_model.distill_taesd --out DIR --export ondevice/models/demo/taesd

Both halves are learned apart, from pairs that the whole autoencoder made once: pictures with the means of their
latents, and latents with what its decoder makes of them. Latents are of three kinds: as the encoder gives them, with a
little noise, as a UNet's are, and on the way there, as previews show them (one in four).

Writes DIR/taesd (float32) and DIR/taesd_log.jsonl at every checkpoint; PSNR is between the two decoders' pictures of
the same latents of validation pictures. Seeds and numbers of steps are fixed, so that one machine gives the same
weights again. One CPU core is enough.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from benchmarks.demo_model.export import NOISE, scheduler
from benchmarks.demo_model.sibling import DEMO
from benchmarks.demo_model.train_unet import descend
from benchmarks.demo_model.train_vae import SCALING, edge_weight, to_pictures, to_tensor
from benchmarks.shapes.pictures import held_out_prompts, render, sample
from benchmarks.shapes.score import score, tally

WIDTH = 16
ENCODER, DECODER = (1, 2, 2, 2), (3, 3, 3, 1)  # blocks, from pixels down and from latents up
NOISY, ON_THE_WAY = 0.15, 4  # the noise's spread at most; of so many latents one is on the way
PART = 32  # pictures at a time where nothing is learned


def build() -> AutoencoderTiny:
    """TAESD's layers, 16 channels instead of 64. Its latents are as samplers have them: of unit spread."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=ENCODER,
        num_decoder_blocks=DECODER,
    )


@torch.no_grad()
def pairs(vae: AutoencoderKL, pictures: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """(means [N, 4, 16, 16], latents that a sampler may have [N, 4, 16, 16], the decoder's pictures of these as uint8
    [N, 128, 128, 3]), of pictures [N, 128, 128, 3]; latents at unit spread."""
    alphas = scheduler().alphas_cumprod
    means, given, seen = [], [], []
    for first in range(0, len(pictures), PART):
        posterior = vae.encode(to_tensor(pictures[first : first + PART])).latent_dist
        z = posterior.sample() * SCALING
        count = len(z)
        near = z + NOISY * torch.rand(count, 1, 1, 1) * torch.randn_like(z)
        signal = alphas[torch.randint(0, NOISE["num_train_timesteps"], (count,))][:, None, None, None]
        far = signal.sqrt() * z + (1 - signal).sqrt() * torch.randn_like(z)
        z = torch.where((torch.arange(count) % ON_THE_WAY == 0)[:, None, None, None], far, near)
        means.append(posterior.mean * SCALING)
        given.append(z)
        seen.append(to_pictures(vae.decode(z / SCALING).sample))
    return torch.cat(means), torch.cat(given), np.concatenate(seen)


def decibels(one: torch.Tensor, other: torch.Tensor) -> float:
    """PSNR of pictures in -1..1, which are clipped to that."""
    return 10 * math.log10(4 / (one.clamp(-1, 1) - other.clamp(-1, 1)).pow(2).mean().item())


@torch.no_grad()
def held_out(tiny: AutoencoderTiny, vae: AutoencoderKL, count: int) -> dict[str, object]:
    """How alike the two are on pictures whose combinations were never trained on."""
    specs = held_out_prompts(count, split="validation")
    numbers = torch.Generator().manual_seed(5)
    decoded, noisy, encoded, pictures = [], [], [], []
    for first in range(0, count, PART):
        x = to_tensor(np.stack([render(spec) for spec in specs[first : first + PART]]))
        z = vae.encode(x).latent_dist.mean * SCALING
        moved = z + 0.1 * torch.randn(z.shape, generator=numbers)
        whole = vae.decode(z / SCALING).sample
        decoded.append((tiny.decode(z).sample, whole))
        noisy.append((tiny.decode(moved).sample, vae.decode(moved / SCALING).sample))
        encoded.append((vae.decode(tiny.encode(x).latents / SCALING).sample, whole))
        pictures.append(to_pictures(decoded[-1][0]))
    names = ("decoder_db", "decoder_db_noise_0.1", "encoder_db")
    found: dict[str, object] = {
        name: round(decibels(*(torch.cat(side) for side in zip(*both, strict=True))), 2)
        for name, both in zip(names, (decoded, noisy, encoded), strict=True)
    }
    scores = [score(one, spec) for one, spec in zip(np.concatenate(pictures), specs, strict=True)]
    return found | {"decoded": tally(scores)}


def write(tiny: AutoencoderTiny, folder: Path) -> int:
    """The folder in half precision, in place of what is there. Returns the weights' bytes."""
    fresh, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    copy.deepcopy(tiny).to(torch.float16).save_pretrained(fresh)
    config = fresh / "config.json"
    values = json.loads(config.read_text("utf-8"))
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    for path in fresh.iterdir():
        path.chmod(0o644)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def losses(
    half: torch.nn.Module, name: str, pool: np.ndarray, data: tuple[torch.Tensor, torch.Tensor, np.ndarray], size: int
) -> Iterator[torch.Tensor]:
    """The loss of one batch after the other of a half's pairs, drawn at random."""
    means, given, seen = data
    while True:
        chosen = torch.randint(0, len(pool), (size,))
        if name == "encoder":
            x = to_tensor(pool[chosen.numpy()]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                found = half(x).float()
            yield (found - means[chosen]).pow(2).mean()
        else:
            wanted = to_tensor(seen[chosen.numpy()])
            weight = edge_weight(wanted)
            with torch.autocast("cpu", torch.bfloat16):
                made = half(given[chosen].contiguous(memory_format=torch.channels_last)).float()
            yield (weight * (made - wanted).abs()).mean() + 2 * (weight * (made - wanted).pow(2)).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO, help="the folder whose vae/ is the teacher")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--export", type=Path, help="write it here, too, in half precision")
    parser.add_argument("--pictures", type=int, default=640)
    parser.add_argument("--steps", type=int, nargs=2, default=[300, 1300], help="of the encoder; of the decoder")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--checkpoints", type=int, default=2, help="of each half")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    vae = AutoencoderKL.from_pretrained(args.model / "vae").float().eval().requires_grad_(False)
    vae = vae.to(memory_format=torch.channels_last)
    rng = random.Random(args.seed)
    pool = np.stack([render(sample(rng)) for _ in range(args.pictures)])
    data = pairs(vae, pool)
    print(f"{len(pool)} pairs", flush=True)
    live = build().train().to(memory_format=torch.channels_last)
    average = copy.deepcopy(live).requires_grad_(False).eval()
    with (args.out / "taesd_log.jsonl").open("w") as log:
        for name, steps in zip(("encoder", "decoder"), args.steps, strict=True):
            half, followed = getattr(live, name), [*getattr(average, name).parameters()]
            weights, recent = [*half.parameters()], []
            optimiser = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
            start = time.process_time()
            every = math.ceil(steps / args.checkpoints)
            for step, loss in zip(range(1, steps + 1), losses(half, name, pool, data, args.batch), strict=False):
                rate = min(1, step / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
                for group in optimiser.param_groups:
                    group["lr"] = args.lr * rate
                descend(loss, optimiser, weights, followed, min(args.ema, (step + 1) / (step + 10)))
                recent.append(loss.item())
                if step % every and step < steps:
                    continue
                average.save_pretrained(args.out / "taesd")
                row: dict[str, object] = {"stage": f"taesd {name}", "step": step}
                row |= {"cpu_minutes": round((time.process_time() - start) / 60, 1)}
                row |= {"loss": round(float(np.mean(recent)), 5)} | held_out(average, vae, 40)
                if args.export:
                    row["bytes"] = write(average, args.export)
                print(row, flush=True)
                log.write(json.dumps(row) + "\n")
                log.flush()
                recent = []


if __name__ == "__main__":
    main()
