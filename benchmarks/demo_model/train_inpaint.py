"""Train the demo model's inpainting sibling: a UNet that also reads the mask and the latents of what stays.

    python -m benchmarks.demo_model.train_inpaint --run DIR --minutes 25 --export ondevice/models/demo-inpaint
    python -m benchmarks.demo_model.train_inpaint --run DIR --score 100 --split test

As for Stable Diffusion's inpainting checkpoints: five more input channels, whose weights begin at zero; the mask is the
pixel at every eighth place, and the masked picture is grey where it is to be drawn. The UNet begins as the demo's
without its middle block; the loss and the noise are those of train_unet.py, the text encoder stays as it is.

Writes DIR/inpaint_log.jsonl and DIR/inpaint/unet (averaged weights, half precision) at every checkpoint.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from benchmarks.demo_model.evaluate import BATCH, contact_sheet
from benchmarks.demo_model.export import load, pipeline, scheduler
from benchmarks.demo_model.sibling import DEMO, averaged, text_states, thin, write_unet
from benchmarks.demo_model.train_unet import DROP_CAPTION, OFFSET_NOISE, cache_latents, descend, learning_rate
from benchmarks.demo_model.train_vae import SCALING, to_tensor
from benchmarks.shapes.masks import judge, random_mask, tasks
from benchmarks.shapes.pictures import render, sample
from benchmarks.shapes.score import tally

FACTOR = 8  # pixels per latent
GUIDANCE, STEPS = 2.0, 20


@torch.no_grad()
def cache_masks(run: Path, vae: AutoencoderKL, count: int, seed: int) -> dict[str, torch.Tensor]:
    """A mask for each of `cache_latents`' pictures [N, 1, 16, 16], and the latents of what stays; kept in
    RUN/masks.pt. `seed` is the pictures' own."""
    file = run / "masks.pt"
    if file.exists():
        return torch.load(file)
    rng, mask_rng = random.Random(seed), random.Random(f"masks-{seed}")
    specs = [sample(rng) for _ in range(count)]
    masks, means, spreads = [], [], []
    for first in range(0, count, 64):
        part = specs[first : first + 64]
        full = np.stack([random_mask(mask_rng, spec) for spec in part])
        kept = to_tensor(np.stack([render(spec) for spec in part])) * torch.from_numpy(~full[:, None])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(kept.contiguous(memory_format=torch.channels_last)).latent_dist
        masks.append(torch.from_numpy(full[:, None, ::FACTOR, ::FACTOR]).float())
        means.append(posterior.mean.float().contiguous() * SCALING)
        spreads.append(posterior.std.float().contiguous() * SCALING)
    data = {"mask": torch.cat(masks), "mean": torch.cat(means), "spread": torch.cat(spreads)}
    torch.save(data, file)
    return data


def inpainting(demo: StableDiffusionPipeline, unet: UNet2DConditionModel) -> StableDiffusionInpaintPipeline:
    """The demo's parts around an inpainting UNet."""
    return pipeline(demo.vae, demo.text_encoder, demo.tokenizer, unet, StableDiffusionInpaintPipeline)


@torch.no_grad()
def evaluate(
    pipe: StableDiffusionInpaintPipeline, count: int, split: str, guidance: float = GUIDANCE
) -> tuple[dict[str, int], Image.Image]:
    """Counts of what came out right, and a sheet: pictures with their masks in grey above what was drawn."""
    scores, sheet, found = [], [], tasks(count, split)
    for first in range(0, count, BATCH):
        pictures, masks, wanted = zip(*found[first : first + BATCH], strict=True)
        images = pipe(
            [spec.caption for spec in wanted],
            image=[Image.fromarray(picture) for picture in pictures],
            mask_image=[Image.fromarray(mask.astype(np.uint8) * 255) for mask in masks],
            height=128,
            width=128,
            strength=1.0,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="np",
            generator=[torch.Generator().manual_seed(1000 + first + i) for i in range(len(wanted))],
        ).images
        drawn = (images * 255).round().astype(np.uint8)
        scores += [judge(*one) for one in zip(drawn, pictures, masks, wanted, strict=True)]
        shown = [np.where(mask[..., None], 128, picture) for picture, mask in zip(pictures, masks, strict=True)]
        for row in range(0, len(drawn) // 10 * 10, 10):
            sheet += [*shown[row : row + 10], *drawn[row : row + 10]]
    right = tally(scores) | {"outside": sum(one["outside"] for one in scores)}
    return right, contact_sheet(np.stack(sheet).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=DEMO)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--export", type=Path, help="also write unet/ into this folder at every checkpoint")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.99)
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--score", type=int, help="train nothing: score RUN/inpaint/unet by this many tasks")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--guidance", type=float, nargs="+", default=[GUIDANCE])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    demo = load(args.demo)
    if args.score:
        unet = UNet2DConditionModel.from_pretrained(args.run / "inpaint" / "unet").float().eval()
        for guidance in args.guidance:
            right, sheet = evaluate(inpainting(demo, unet), args.score, args.split, guidance)
            sheet.save(args.run / f"inpaint_{args.split}.png")
            print(json.dumps({"split": args.split, "steps": STEPS, "guidance": guidance, "right": right}), flush=True)
        return

    unet = thin(demo.unet, in_channels=9)
    average = averaged(unet)
    data = cache_latents(args.run, demo.vae, demo.tokenizer, args.pictures, args.seed + 1)
    kept = cache_masks(args.run, demo.vae, args.pictures, args.seed + 1)
    states = text_states(demo.text_encoder, demo.tokenizer, data["captions"])
    empty = text_states(demo.text_encoder, demo.tokenizer, [""])
    pipe = inpainting(demo, average)
    abar = scheduler().alphas_cumprod
    snr = abar / (1 - abar)
    importance = snr.clamp(0.05, 5.0) / snr
    optimiser = torch.optim.AdamW(unet.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    live, followed = [*unet.parameters()], [*average.parameters()]
    log = (args.run / "inpaint_log.jsonl").open("w")

    def checkpoint(row: dict) -> None:
        """Save the averaged weights and score a few validation tasks."""
        for folder in [args.run / "inpaint", *([args.export] if args.export else [])]:
            folder.mkdir(parents=True, exist_ok=True)
            row["bytes"] = write_unet(average, folder)
        row["validation"], sheet = evaluate(pipe, 30, "validation")
        row["validation_guidance"] = GUIDANCE
        sheet.save(args.run / "inpaint_sheet.png")
        print(row, flush=True)
        log.write(json.dumps(row) + "\n")
        log.flush()

    start, paused, step, saved, recent, size = time.time(), 0.0, 0, 0, [], args.batch
    while True:
        done = (time.time() - start - paused) / (args.minutes * 60)
        if done >= (saved + 1) / args.checkpoints:
            pause, saved = time.time(), saved + 1
            loss_now = round(float(np.mean(recent)), 4)
            checkpoint({"stage": "inpaint", "minutes": round(done * args.minutes, 1), "step": step, "loss": loss_now})
            recent, paused = [], paused + time.time() - pause
            if saved == args.checkpoints:
                break
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(done, step, args.lr)
        chosen = torch.randint(0, len(states), (size,))
        words = torch.where(torch.rand(size, 1, 1) < DROP_CAPTION, empty, states[chosen]).float()
        z, stays = (
            part["mean"][chosen] + part["spread"][chosen] * torch.randn(size, 4, 16, 16) for part in (data, kept)
        )
        noise = torch.randn_like(z) + OFFSET_NOISE * torch.randn(size, 4, 1, 1)
        u = (torch.rand(1) + torch.arange(size) / size) % 1  # evenly spread: steadier gradients than independent draws
        t = torch.where(u < 0.5, u * 2000, 500 + (u - 0.5) * 1000).long().clamp(max=999)
        signal = abar[t][:, None, None, None]
        noisy = torch.cat([signal.sqrt() * z + (1 - signal).sqrt() * noise, kept["mask"][chosen], stays], 1)
        with torch.autocast("cpu", torch.bfloat16):
            guess = unet(noisy.contiguous(memory_format=torch.channels_last), t, words).sample
        errors = (guess.float() - noise).pow(2).mean((1, 2, 3))
        loss = (errors * importance[t]).mean()
        step += 1
        descend(loss, optimiser, live, followed, min(args.ema, (step + 1) / (step + 20)))
        recent.append(loss.item())
        if step % 50 == 0:
            minutes = (time.time() - start - paused) / 60
            print(f"{minutes:.1f} min step {step} loss {np.mean(recent[-50:]):.4f}", flush=True)


if __name__ == "__main__":
    main()
