"""Pre-train the two text encoders of `demo-sd3`: read the attributes off the caption.

    python -m benchmarks.demo_model.train_sd3_text --out DIR --steps 1500

As train_text.py, but from what Stable Diffusion 3 takes of its encoders: the states before the last layer, at every
position from the end token on, and the pooled text, both encoders' beside each other. The heads are then dropped, and
the encoders stay as they are, so that the MM-DiT's training reads their states from a table. Writes DIR/tokenizer,
DIR/text_encoder and DIR/text_encoder_2. Only training combinations are used.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.demo_model.train_text import ATTRIBUTES
from benchmarks.shapes.pictures import sample
from benchmarks.shapes.tokenizer import write

LENGTH = 16
"""Tokens of a text: a caption has 14 at most, and every token takes its time in the MM-DiT."""


class Size(NamedTuple):
    """Of a text encoder, whose projection is as wide as its states."""

    width: int
    layers: int


SIZES = {"text_encoder": Size(64, 3), "text_encoder_2": Size(32, 2)}
WIDTH = sum(size.width for size in SIZES.values())


def build(tokens: CLIPTokenizer, size: Size, act: str) -> CLIPTextModelWithProjection:
    """A CLIP text model with a projection."""
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        projection_dim=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 16,
        max_position_embeddings=LENGTH,
        hidden_act=act,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.eos_token_id,
    )
    model = CLIPTextModelWithProjection(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=0.1 if module.num_embeddings == LENGTH else 0.3)
    torch.nn.init.normal_(model.text_projection.weight, std=size.width**-0.5)
    return model


def load(run: Path) -> dict[str, CLIPTextModelWithProjection]:
    """The encoders in DIR."""
    return {name: CLIPTextModelWithProjection.from_pretrained(run / name).eval() for name in SIZES}


def encode(tokens: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids [N, LENGTH], filled up with the end token."""
    return torch.tensor(tokens(captions, padding="max_length", max_length=LENGTH, truncation=True).input_ids)


def read(models: dict[str, CLIPTextModelWithProjection], ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States before the last layer [N, LENGTH, WIDTH] and pooled texts [N, WIDTH], the encoders' beside each other."""
    given = [model(input_ids=ids, output_hidden_states=True) for model in models.values()]
    return torch.cat([g.hidden_states[-2] for g in given], -1), torch.cat([g.text_embeds for g in given], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    write(args.out / "tokenizer", LENGTH)
    tokens = CLIPTokenizer.from_pretrained(args.out / "tokenizer")
    acts = ("quick_gelu", "gelu")  # as CLIP-L and OpenCLIP have them
    models = {name: build(tokens, size, act).train() for (name, size), act in zip(SIZES.items(), acts, strict=True)}
    heads = torch.nn.ModuleDict(
        {
            f"{place}_{name}": torch.nn.Linear(WIDTH, len(v))
            for place in ("states", "pooled")
            for name, v in ATTRIBUTES.items()
        }
    )
    weights = [*heads.parameters(), *(p for model in models.values() for p in model.parameters())]
    optimiser = torch.optim.AdamW(weights, lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=args.steps, pct_start=0.1)
    for step in range(1, args.steps + 1):
        specs = [sample(rng) for _ in range(48)]
        ids = encode(tokens, [spec.caption for spec in specs])
        states, pooled = read(models, ids)
        after = ids == tokens.eos_token_id
        loss, right = 0.0, {}
        for name, values in ATTRIBUTES.items():
            wanted = torch.tensor([values.index(getattr(spec, name)) for spec in specs])
            everywhere = wanted[:, None].expand_as(ids)[after]
            guess, of_pooled = heads[f"states_{name}"](states[after]), heads[f"pooled_{name}"](pooled)
            loss = loss + torch.nn.functional.cross_entropy(guess, everywhere)
            loss = loss + torch.nn.functional.cross_entropy(of_pooled, wanted)
            right[name] = round((of_pooled.argmax(-1) == wanted).float().mean().item(), 3)
        # about as large as what the MM-DiT's layers begin with, whatever the heads would like
        loss = loss + 0.01 * (pooled.pow(2).mean() - 1).pow(2) + 0.01 * (states.pow(2).mean() - 1).pow(2)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        plan.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} right {right}", flush=True)
    for name, model in models.items():
        model.save_pretrained(args.out / name)
    row = {"stage": "sd3_text", "steps": args.steps, "loss": round(loss.item(), 4), "right": right}
    (args.out / "sd3_text_log.jsonl").write_text(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
