"""Write the trained parts as a Stable Diffusion 1.x folder in half precision.

    python -m benchmarks.demo_model.export --run DIR --out ondevice/models/demo

DIR holds vae/, tokenizer/, text_encoder/ and unet/ as the training scripts leave them. The folder is written beside its
place and then renamed, so readers never see half of it.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.shapes.tokenizer import LENGTH, write

Pipe = TypeVar("Pipe", bound=DiffusionPipeline)
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

TEXT_CONFIG = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_factor",
    "initializer_range",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "projection_dim",
    "vocab_size",
)


def scheduler() -> DDIMScheduler:
    """The noise levels of Stable Diffusion 1.x, sampled by DDIM:
    this model's PNDM pictures fall apart from guidance 2.5 on."""
    return DDIMScheduler(**NOISE, clip_sample=False)


def pipeline(
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokens: CLIPTokenizer,
    unet: UNet2DConditionModel,
    kind: type[Pipe] = StableDiffusionPipeline,
) -> Pipe:
    """The parts as one diffusers pipeline, of text alone or of another kind."""
    pipe = kind(
        vae=vae,
        text_encoder=text,
        tokenizer=tokens,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_text_encoder(text: CLIPTextModel, folder: Path) -> None:
    """Weights and configuration as real SD 1.x disks have them.

    Newer transformers drop the `text_model.` prefix, the position ids and every configuration value equal
    to its default.
    """
    weights = {}
    for name, value in text.state_dict().items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        weights[name] = value.to(torch.float16).contiguous()
    weights["text_model.embeddings.position_ids"] = torch.arange(LENGTH).unsqueeze(0)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    values = {name: getattr(text.config, name) for name in TEXT_CONFIG}
    values |= {
        "architectures": ["CLIPTextModel"],
        "dropout": 0.0,
        "model_type": "clip_text_model",
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(dict(sorted(values.items())), indent=2) + "\n", "utf-8")


def export(pipe: StableDiffusionPipeline, out: Path) -> int:
    """Write `pipe` to `out` in half precision, replacing what is there. Returns the size of the weights in bytes."""
    fresh, old = (out.with_name(f".{out.name}.{word}") for word in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    half = {name: copy.deepcopy(getattr(pipe, name)).to(torch.float16) for name in ("vae", "unet", "text_encoder")}
    pipeline(half["vae"], half["text_encoder"], pipe.tokenizer, half["unet"]).save_pretrained(fresh)
    for name in ("text_encoder", "tokenizer"):
        shutil.rmtree(fresh / name)
    write_text_encoder(half["text_encoder"], fresh / "text_encoder")
    write(fresh / "tokenizer")
    noise = fresh / "scheduler" / "scheduler_config.json"
    # Stable Diffusion's own config names these two as well; a user who switches to PNDM then gets the
    # variant that SD uses.
    values = json.loads(noise.read_text("utf-8")) | {"clip_sample": False, "skip_prk_steps": True}
    noise.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")
    for path in fresh.rglob("*.*"):
        path.chmod(0o644)
    for path in fresh.glob("*/config.json"):  # where the weights came from is nobody's business
        values = json.loads(path.read_text("utf-8"))
        values.pop("_name_or_path", None)
        path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    if (out / "README.md").exists():
        shutil.copy(out / "README.md", fresh / "README.md")
    if (out / "taesd").exists():  # of the autoencoder before: distill_taesd.py makes it anew
        shutil.copytree(out / "taesd", fresh / "taesd")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return sum(path.stat().st_size for path in out.glob("*/*.safetensors"))


def load(run: Path) -> StableDiffusionPipeline:
    """A training folder, or an exported one, as a float32 pipeline."""
    return pipeline(
        AutoencoderKL.from_pretrained(run / "vae").float().eval(),
        CLIPTextModel.from_pretrained(run / "text_encoder").float().eval(),
        CLIPTokenizer.from_pretrained(run / "tokenizer"),
        UNet2DConditionModel.from_pretrained(run / "unet").float().eval(),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(f"{export(load(args.run), args.out) / 1e6:.2f} MB of weights")
