"""Train the MM-DiT of `demo-sd3`, a small Stable Diffusion 3, by rectified flow on cached latents of the demo's VAE.

    python -m benchmarks.demo_model.train_sd3 --run DIR --minutes 30 --export ondevice/models/demo-sd3

DIR holds what train_sd3_text.py leaves there. A picture's latents and noise lie on a straight line; the model says in
which direction it goes at a point of it. Points are drawn by a logit-normal distribution that is shifted towards the
noise (arXiv 2403.03206), where a picture's colours and outline are decided. The autoencoder is the demo's, frozen, and
so are the two text encoders: their states are read from a table with a row per caption.

Without T5, Stable Diffusion 3 has 256 rows of zeros in the place of its states. Equal rows stay equal, so training has
one whose score gets the logarithm of 256, as the converter has it.

Writes DIR/transformer (averaged weights), DIR/sd3_log.jsonl, a sheet, and the folder of the model at every checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch.nn.functional import softmax
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.demo_model.evaluate import contact_sheet
from benchmarks.demo_model.sd3_folder import write_folder
from benchmarks.demo_model.sibling import DEMO
from benchmarks.demo_model.train_sd3_text import WIDTH, encode, load, read
from benchmarks.demo_model.train_unet import DROP_CAPTION, cache_latents
from benchmarks.demo_model.train_vae import SCALING
from benchmarks.shapes.pictures import Spec, held_out_prompts
from benchmarks.shapes.score import score, tally

HEADS, HEAD, BLOCKS = 4, 32, 3
PATCH = 4  # latents a side: 16 tokens of a picture, where 2 would be four times as many
ZEROS = 256  # rows in T5's place
SHIFT = 3.0  # of the scheduler, as Stable Diffusion 3's
TRAINED_SHIFT = 2.0
STEPS, GUIDANCE = 20, 2.0  # of the validation prompts


def build() -> SD3Transformer2DModel:
    """Stable Diffusion 3's blocks, with 3.5's norms of queries and keys. Modulations and the last layer begin at zero,
    so that every block changes nothing at first."""
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=PATCH,
        in_channels=4,
        out_channels=4,
        num_layers=BLOCKS,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        caption_projection_dim=HEADS * HEAD,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    for name, module in model.named_modules():
        if name.endswith(("norm1.linear", "norm1_context.linear", "norm_out.linear")) or name == "proj_out":
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    model.set_attn_processor(OneOfMany())
    return model


class OneOfMany:
    """Joint attention, written out (in bfloat16 on a CPU the fused one is slower backward), in which the last token of
    the text counts as ZEROS of them."""

    def __call__(
        self, attn: torch.nn.Module, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **more: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x, e = hidden_states, encoder_hidden_states
        q = self._joined(attn, attn.norm_q(self._apart(attn, attn.to_q(x))), attn.norm_added_q, attn.add_q_proj(e))
        k = self._joined(attn, attn.norm_k(self._apart(attn, attn.to_k(x))), attn.norm_added_k, attn.add_k_proj(e))
        v = self._joined(attn, self._apart(attn, attn.to_v(x)), None, attn.add_v_proj(e))
        scores = (q * HEAD**-0.5) @ k.transpose(-1, -2)
        several = scores.new_zeros(scores.shape[-1])
        several[-1] = math.log(ZEROS)
        mixed = (softmax(scores + several, -1).to(v.dtype) @ v).transpose(1, 2).flatten(2)
        to_x, to_e = mixed[:, : x.shape[1]], mixed[:, x.shape[1] :]
        return attn.to_out[0](to_x), to_e if attn.context_pre_only else attn.to_add_out(to_e)

    @staticmethod
    def _apart(attn: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

    def _joined(
        self, attn: torch.nn.Module, of_x: torch.Tensor, norm: torch.nn.Module | None, e: torch.Tensor
    ) -> torch.Tensor:
        of_e = self._apart(attn, e)
        return torch.cat([of_x, norm(of_e) if norm else of_e], 2)


class Texts:
    """States [N, LENGTH + 1, WIDTH], the last row zeros, and pooled texts [N, WIDTH] of captions, by their number."""

    def __init__(self, models: dict[str, CLIPTextModelWithProjection], tokens: CLIPTokenizer) -> None:
        self.models, self.tokens = models, tokens
        self.number: dict[str, int] = {}
        self.states, self.pooled = torch.empty(0), torch.empty(0)

    @torch.no_grad()
    def add(self, captions: list[str]) -> torch.Tensor:
        """The numbers of captions, in the table from now on."""
        new = sorted({caption for caption in captions if caption not in self.number})
        for first in range(0, len(new), 64):
            part = new[first : first + 64]
            states, pooled = read(self.models, encode(self.tokens, part))
            states = torch.cat([states, torch.zeros(len(part), 1, WIDTH)], 1)
            self.states, self.pooled = torch.cat([self.states, states]), torch.cat([self.pooled, pooled])
            self.number |= {caption: len(self.number) + i for i, caption in enumerate(part)}
        return torch.tensor([self.number[caption] for caption in captions])


class Halves:
    """A model in bfloat16 and its weights in single precision, which the optimiser changes: with autocast three fifths
    of a step were casts and products element by element."""

    def __init__(self, model: SD3Transformer2DModel) -> None:
        self.weights = [p.detach().float().clone().requires_grad_() for p in model.parameters()]
        self.model = model.to(torch.bfloat16).train()
        self.rounded = [*self.model.parameters()]

    def __call__(self, x: torch.Tensor, states: torch.Tensor, pooled: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x, states, pooled = (one.to(torch.bfloat16) for one in (x, states, pooled))
        return self.model(x, states, pooled, 1000 * t).sample.float()

    def descend(
        self, loss: torch.Tensor, optimiser: torch.optim.Optimizer, averaged: list[torch.Tensor], kept: float
    ) -> None:
        """One step of the optimiser, with gradients of length 1 at most; of their average the part `kept` stays."""
        loss.backward()
        with torch.no_grad():
            for weight, half in zip(self.weights, self.rounded, strict=True):
                weight.grad = half.grad.float()
                half.grad = None
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(self.rounded, self.weights)
            torch._foreach_lerp_(averaged, self.weights, 1 - kept)


def points(size: int) -> torch.Tensor:
    """How much noise [N] there is at points of the line, evenly spread over the distribution: steadier gradients than
    independent draws."""
    u = ((torch.rand(1) + torch.arange(size) / size) % 1).clamp(1e-4, 1 - 1e-4)
    t = torch.special.ndtri(u).sigmoid()
    return TRAINED_SHIFT * t / (1 + (TRAINED_SHIFT - 1) * t)


@torch.no_grad()
def generate(
    model: SD3Transformer2DModel, vae: AutoencoderKL, texts: Texts, specs: list[Spec], guidance: float, steps: int
) -> np.ndarray:
    """One picture for each description, uint8 [N, 128, 128, 3]. Picture i starts from noise of seed 1000 + i."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    scheduler.set_timesteps(steps)
    chosen = torch.cat([texts.add([""] * len(specs)), texts.add([spec.caption for spec in specs])])
    states, pooled = texts.states[chosen], texts.pooled[chosen]
    z = torch.stack(
        [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1000 + i)) for i in range(len(specs))]
    )
    for t in scheduler.timesteps:
        both = model(torch.cat([z, z]), states, pooled, t.expand(2 * len(z))).sample
        without, with_text = both.chunk(2)
        z = scheduler.step(without + guidance * (with_text - without), t, z).prev_sample
    pictures = [vae.decode(part / SCALING).sample for part in z.split(10)]
    pixels = (torch.cat(pictures) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (pixels * 255).round().byte().numpy()


def rate(done: float, step: int, peak: float) -> float:
    """Short warm-up, flat for a quarter of the time, then a cosine down to 1 %."""
    fall = max(0.0, done - 0.25) / 0.75
    return peak * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(fall, 1))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--export", type=Path, help="also write the model's folder here at every checkpoint")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--checkpoints", type=int, default=6)
    parser.add_argument("--resume", action="store_true", help="start from RUN/transformer instead of random weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    tokens = CLIPTokenizer.from_pretrained(args.run / "tokenizer")
    texts = Texts(load(args.run), tokens)
    vae = AutoencoderKL.from_pretrained(DEMO / "vae").float().eval()
    data = cache_latents(args.run, vae, tokens, args.pictures, args.seed + 1)
    which, empty = texts.add(data["captions"]), texts.add([""])
    model = build()
    if args.resume:
        model = SD3Transformer2DModel.from_pretrained(args.run / "transformer")
        model.set_attn_processor(OneOfMany())
    average = copy.deepcopy(model).requires_grad_(False).eval()
    halves = Halves(model)
    checks = held_out_prompts(30, split="validation")
    optimiser = torch.optim.AdamW(halves.weights, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    followed = [*average.parameters()]
    log = (args.run / "sd3_log.jsonl").open("a" if args.resume else "w")
    print(f"{sum(p.numel() for p in followed):,} parameters, {len(texts.states)} captions", flush=True)

    def checkpoint(row: dict) -> None:
        """Save the averaged weights, write the model's folder, and score a few validation prompts."""
        average.save_pretrained(args.run / "transformer")
        if args.export:
            row["bytes"] = write_folder(average, texts.models, args.run / "tokenizer", args.export, SHIFT)
        pictures = generate(average, vae, texts, checks, GUIDANCE, STEPS)
        row["validation"] = tally([score(picture, spec) for picture, spec in zip(pictures, checks, strict=True)])
        contact_sheet(pictures).save(args.run / "sd3_sheet.png")
        print(row, flush=True)
        log.write(json.dumps(row) + "\n")
        log.flush()

    start, paused, step, saved, recent, size = time.time(), 0.0, 0, 0, [], args.batch
    while True:
        done = (time.time() - start - paused) / (args.minutes * 60)
        if done >= (saved + 1) / args.checkpoints:
            pause, saved = time.time(), saved + 1
            row = {"stage": "sd3", "minutes": round(done * args.minutes, 1), "processor": round(time.process_time())}
            checkpoint(row | {"step": step, "loss": round(float(np.mean(recent)), 4)})
            recent, paused = [], paused + time.time() - pause
            if saved == args.checkpoints:
                break
        for group in optimiser.param_groups:
            group["lr"] = rate(done, step, args.lr)
        chosen = torch.randint(0, len(which), (size,))
        text = torch.where(torch.rand(size) < DROP_CAPTION, empty, which[chosen])
        z = data["mean"][chosen] + data["spread"][chosen] * torch.randn(size, 4, 16, 16)
        noise, t = torch.randn_like(z), points(size)
        part = t[:, None, None, None]
        guess = halves((1 - part) * z + part * noise, texts.states[text], texts.pooled[text], t)
        loss = (guess - (noise - z)).pow(2).mean()
        step += 1
        halves.descend(loss, optimiser, followed, min(args.ema, (step + 1) / (step + 20)))
        recent.append(loss.item())
        if step % 100 == 0:
            minutes = (time.time() - start - paused) / 60
            print(f"{minutes:.1f} min step {step} loss {np.mean(recent[-100:]):.4f}", flush=True)


if __name__ == "__main__":
    main()
