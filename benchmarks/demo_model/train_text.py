"""Pre-train the demo model's text encoder: read the attributes off the caption.

    python -m benchmarks.demo_model.train_text --out DIR --steps 1200

Stable Diffusion starts from a text encoder that already separates meanings. Ours gets its start in a minute or two from
a stand-in task: linear heads must name shape, colour, background, size and place from the hidden state at every
position from the end token on. The heads are then dropped; the UNet's training goes on with the encoder. Writes
DIR/tokenizer and DIR/text_encoder. Only training combinations are used.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.shapes.pictures import COLOURS, PLACES, SHAPES, SIZES, sample
from benchmarks.shapes.tokenizer import LENGTH, write

ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "background": COLOURS, "size": tuple(SIZES), "place": tuple(PLACES)}
WIDTH = 64


def build(tokens: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of 2 layers x 64."""
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.eos_token_id,
    )
    model = CLIPTextModel(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=0.1 if module.num_embeddings == LENGTH else 0.3)
    return model


def encode(tokens: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids [N, 77], filled up with the end token."""
    return torch.tensor(tokens(captions, padding="max_length", max_length=LENGTH, truncation=True).input_ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    write(args.out / "tokenizer")
    tokens = CLIPTokenizer.from_pretrained(args.out / "tokenizer")
    model = build(tokens).train()
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, len(values)) for name, values in ATTRIBUTES.items()})
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *heads.parameters()], lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-3
    )
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=args.steps, pct_start=0.1)
    for step in range(1, args.steps + 1):
        specs = [sample(rng) for _ in range(48)]
        ids = encode(tokens, [spec.caption for spec in specs])
        hidden = model(input_ids=ids)[0]
        after = ids == tokens.eos_token_id
        loss, right = 0.0, {}
        for name, values in ATTRIBUTES.items():
            wanted = torch.tensor([values.index(getattr(spec, name)) for spec in specs])
            wanted = wanted[:, None].expand_as(ids)[after]
            guess = heads[name](hidden[after])
            loss = loss + torch.nn.functional.cross_entropy(guess, wanted)
            right[name] = round((guess.argmax(-1) == wanted).float().mean().item(), 3)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        plan.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} right {right}", flush=True)
    model.save_pretrained(args.out / "text_encoder")
    row = {"stage": "text", "steps": args.steps, "loss": round(loss.item(), 4), "right": right}
    (args.out / "text_log.jsonl").write_text(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
