"""Train the demo's video model: a small Stable Video Diffusion that moves a picture's shape as its motion number says.

    python -m benchmarks.demo_model.train_video --run DIR --minutes 60 --export ondevice/models/demo-video
    python -m benchmarks.demo_model.train_video --run DIR --score 25 --split test --sheet sheet.png

The networks are those of Stable Video Diffusion, only narrower: CLIP's image encoder and the spatio-temporal UNet,
trained together. The autoencoder is the demo's own, which decodes each frame by itself: Stable Video Diffusion's has
norms of 32 groups, which the demo's 16 channels do not have. Preconditioning and noise levels are EDM's
(arXiv 2206.00364) with the published model's logarithms of noise, N(0.7, 1.6) (arXiv 2311.15127, appendix D).

Writes DIR/films.pt (frames as latents, made once), DIR/video_log.jsonl, and at every checkpoint the averaged weights
into DIR/video in half precision.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.demo_model.sibling import DEMO
from benchmarks.demo_model.train_unet import descend
from benchmarks.demo_model.train_vae import SCALING, to_tensor
from benchmarks.shapes.films import FRAMES, HEIGHT, WIDTH, judge, random_film, tally, tasks

FPS, AUGMENTATION, DROPPED = 7, 0.02, 0.1  # rows without a picture are for guidance
STEPS, GUIDANCE = 20, (1.0, 1.5)  # of the first frame and the last
CONTEXT = 32  # width of an encoded picture
LOG_SIGMA = (0.7, 1.6)  # mean and deviation
EVENLY = (-4.0, 6.6)  # of a fifth of the rows, so that the first step's 700 is no stranger
NOISE = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
Net = torch.nn.ModuleDict


def build() -> Net:
    """Both networks that are trained."""
    unet = UNetSpatioTemporalConditionModel(
        sample_size=HEIGHT // 8,
        block_out_channels=(64, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        layers_per_block=1,
        cross_attention_dim=CONTEXT,
        num_attention_heads=2,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        num_frames=FRAMES,
    )
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        patch_size=16,
        projection_dim=CONTEXT,
        hidden_act="gelu",
    )
    return Net({"unet": unet, "image_encoder": CLIPVisionModelWithProjection(vision)})


@torch.no_grad()
def cache_films(run: Path, vae: AutoencoderKL, count: int, seed: int) -> dict[str, torch.Tensor]:
    """`count` films as latents at unit scale, their first frames as pixels and, with noise, as latents as the encoder
    gives them; and their motion numbers. Kept in RUN/films.pt."""
    file = run / "films.pt"
    if file.exists():
        return torch.load(file)
    rng, found = random.Random(seed), {"latents": [], "first": [], "pixels": [], "motion": []}
    for number in range(count):
        film = random_film(rng)
        frames = film.frames()
        pixels = to_tensor(frames)
        noised = pixels[:1] + AUGMENTATION * torch.randn_like(pixels[:1])
        encoded = vae.encode(torch.cat([noised, pixels])).latent_dist.mode()
        for key, value in {"latents": encoded[1:] * SCALING, "first": encoded[0], "pixels": frames[0]}.items():
            found[key].append(torch.as_tensor(value))
        found["motion"].append(torch.tensor(film.motion))
        if number % 100 == 99:
            print(f"{number + 1} films", flush=True)
    data = {key: torch.stack(values) for key, values in found.items()}
    torch.save(data, file)
    return data


def looked_at(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [n, h, w, 3] as CLIP's image encoder is given it, by diffusers' own preparation."""
    signed = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    unit = (_resize_with_antialiasing(signed, (224, 224)) + 1) / 2
    processor = CLIPImageProcessor()
    mean, deviation = (torch.tensor(row)[None, :, None, None] for row in (processor.image_mean, processor.image_std))
    return (unit - mean) / deviation


def loss_of(nets: Net, data: dict[str, torch.Tensor], chosen: torch.Tensor) -> torch.Tensor:
    """The mean squared error of what the UNet gives for the films `chosen`, at noises drawn here."""
    clean, count = data["latents"][chosen], len(chosen)
    spread = torch.randn(count) * LOG_SIGMA[1] + LOG_SIGMA[0]
    evenly = torch.empty(count).uniform_(*EVENLY)
    sigma = torch.where(torch.rand(count) < 0.2, evenly, spread).exp()[:, None, None, None, None]
    noised = clean + sigma * torch.randn_like(clean)
    kept = (torch.rand(count) >= DROPPED).float()
    first = (data["first"][chosen] * kept[:, None, None, None])[:, None].expand(-1, FRAMES, -1, -1, -1)
    context = nets["image_encoder"](looked_at(data["pixels"][chosen])).image_embeds * kept[:, None]
    ids = torch.stack([torch.full((count,), float(FPS - 1)), data["motion"][chosen].float()], 1)
    ids = torch.cat([ids, torch.full((count, 1), AUGMENTATION)], 1)
    scaled = noised / (sigma**2 + 1).sqrt()
    timestep = sigma.flatten().log() / 4
    given = nets["unet"](torch.cat([scaled, first], 2), timestep, context[:, None], ids).sample.float()
    wanted = (noised / (sigma**2 + 1) - clean) * (sigma**2 + 1).sqrt() / sigma
    return (given - wanted).pow(2).mean()


def pipeline(vae: AutoencoderKL, nets: Net) -> StableVideoDiffusionPipeline:
    """The parts as diffusers' own pipeline, whose decoder may be one that knows no frames."""
    parts = {"unet": nets["unet"].eval(), "image_encoder": nets["image_encoder"].eval()}
    pipe = StableVideoDiffusionPipeline(
        vae=vae, scheduler=EulerDiscreteScheduler(**NOISE), feature_extractor=CLIPImageProcessor(), **parts
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def evaluate(pipe: StableVideoDiffusionPipeline, count: int, split: str) -> tuple[dict[str, int], Image.Image]:
    """Counts of what came out right of held-out films, and a sheet with a film in each row."""
    scores, sheet = [], []
    for number, film in enumerate(tasks(count, split)):
        drawn = pipe(
            Image.fromarray(film.frames()[0]),
            height=HEIGHT,
            width=WIDTH,
            num_frames=FRAMES,
            num_inference_steps=STEPS,
            min_guidance_scale=GUIDANCE[0],
            max_guidance_scale=GUIDANCE[1],
            fps=FPS,
            motion_bucket_id=film.motion,
            noise_aug_strength=AUGMENTATION,
            generator=torch.Generator().manual_seed(1000 + number),
            output_type="np",
        ).frames[0]
        frames = (drawn * 255).round().astype(np.uint8)
        scores.append(judge(frames, film))
        sheet.append(np.concatenate(list(frames), 1))
    return tally(scores), Image.fromarray(np.concatenate(sheet))


def write(nets: Net, folder: Path) -> int:
    """Write FOLDER/unet, FOLDER/image_encoder and FOLDER/scheduler in half precision, each replacing what is there.
    Returns the bytes of the weights."""
    parts = {name: copy.deepcopy(net).to(torch.float16) for name, net in nets.items()}
    for name, part in {**parts, "scheduler": EulerDiscreteScheduler(**NOISE)}.items():
        fresh, old = (folder / f".{name}.{word}" for word in ("new", "old"))
        shutil.rmtree(fresh, ignore_errors=True)
        part.save_pretrained(fresh)
        config = next(fresh.glob("*config.json"))
        values = json.loads(config.read_text("utf-8"))
        values.pop("_name_or_path", None)  # where the weights came from is nobody's business
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")
        for path in fresh.iterdir():
            path.chmod(0o644)
        shutil.rmtree(old, ignore_errors=True)
        if (folder / name).exists():
            (folder / name).rename(old)
        fresh.rename(folder / name)
        shutil.rmtree(old, ignore_errors=True)
    return sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))


def load(folder: Path) -> Net:
    """What `write` wrote, in float32."""
    unet = UNetSpatioTemporalConditionModel.from_pretrained(folder / "unet").float()
    vision = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").float()
    return Net({"unet": unet, "image_encoder": vision}).eval()


def train(args: argparse.Namespace, vae: AutoencoderKL) -> None:
    """Train until the time is over."""
    nets = load(args.resume) if args.resume else build()
    nets.train()
    averaged = copy.deepcopy(nets).requires_grad_(False).eval()
    data = cache_films(args.run, vae, args.films, args.seed + 1)
    optimiser = torch.optim.AdamW(nets.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
    live, followed = [*nets.parameters()], [*averaged.parameters()]
    log = (args.run / "video_log.jsonl").open("a")
    start, paused, step, saved, recent = time.time(), 0.0, 0, 0, []
    while True:
        done = (time.time() - start - paused) / (args.minutes * 60)
        if done >= (saved + 1) / args.checkpoints:
            pause, saved = time.time(), saved + 1
            row = {"stage": "video", "minutes": round(done * args.minutes, 1), "step": step}
            row |= {"loss": round(float(np.mean(recent)), 4), "bytes": write(averaged, args.run / "video")}
            right, sheet = evaluate(pipeline(vae, averaged), args.checked, "validation")
            sheet.save(args.run / "video_sheet.png")
            row |= {"validation": right}
            print(row, flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
            recent, paused = [], paused + time.time() - pause
            if saved == args.checkpoints:
                break
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(nets, data, torch.randint(0, len(data["motion"]), (args.batch,)))
        step += 1
        descend(loss, optimiser, live, followed, min(args.ema, (step + 1) / (step + 20)))
        recent.append(loss.item())
        if step % 50 == 0:
            minutes = (time.time() - start - paused) / 60
            print(f"{minutes:.1f} min step {step} loss {np.mean(recent[-50:]):.4f}", flush=True)
    if args.export:
        print(f"{write(load(args.run / 'video'), args.export) / 1e6:.2f} MB of weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=DEMO)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--export", type=Path, help="also write the networks into this folder, in the end")
    parser.add_argument("--resume", type=Path, help="begin with the networks of this folder")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--films", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.98)
    parser.add_argument("--checkpoints", type=int, default=6)
    parser.add_argument("--checked", type=int, default=10, help="films that a checkpoint is judged by")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--score", type=int, help="train nothing: judge RUN/video by so many films")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--sheet", type=Path, help="where --score writes what was drawn")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(args.demo / "vae").float().eval()
    if args.score is None:
        train(args, vae)
        return
    right, sheet = evaluate(pipeline(vae, load(args.run / "video")), args.score, args.split)
    print(json.dumps(right))
    if args.sheet:
        sheet.save(args.sheet)


if __name__ == "__main__":
    main()
