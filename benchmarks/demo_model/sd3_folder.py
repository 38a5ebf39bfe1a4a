"""Write `demo-sd3` as a folder in Stable Diffusion 3's layout, in half precision, without T5 and without the
autoencoder, which is the demo's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection

from benchmarks.demo_model.export import TEXT_CONFIG

LIBRARIES = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_3": (None, None),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
    "tokenizer_3": (None, None),
    "transformer": ("diffusers", "SD3Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def write_folder(
    model: SD3Transformer2DModel,
    texts: dict[str, CLIPTextModelWithProjection],
    tokenizer: Path,
    out: Path,
    shift: float,
) -> int:
    """Write the folder `out`, replacing what is there but its README.md. Returns the bytes of its weights."""
    fresh, old = (out.with_name(f".{out.name}.{word}") for word in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    half = SD3Transformer2DModel.from_config(model.config).to(torch.float16)
    half.load_state_dict({name: value.to(torch.float16) for name, value in model.state_dict().items()})
    half.save_pretrained(fresh / "transformer")
    config = fresh / "transformer" / "config.json"
    values = json.loads(config.read_text("utf-8"))
    values.pop("_name_or_path", None)  # where the weights came from is nobody's business
    _write(config, values)
    for name, text in texts.items():
        _write_text_encoder(text, fresh / name)
        shutil.copytree(tokenizer, fresh / name.replace("text_encoder", "tokenizer"))
    about = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": shift}
    _write(fresh / "scheduler" / "scheduler_config.json", about)
    _write(fresh / "model_index.json", {"_class_name": "StableDiffusion3Pipeline"} | LIBRARIES)
    for path in fresh.rglob("*.*"):
        path.chmod(0o644)
    if (out / "README.md").exists():
        shutil.copy(out / "README.md", fresh / "README.md")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return sum(path.stat().st_size for path in out.glob("*/*.safetensors"))


def _write_text_encoder(text: CLIPTextModelWithProjection, folder: Path) -> None:
    """Weights and configuration as published ones are (export.py says why by hand)."""
    weights = {}
    for name, value in text.state_dict().items():
        name = name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"
        if not name.endswith("position_ids"):
            weights[name] = value.to(torch.float16).contiguous()
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    values = {name: getattr(text.config, name) for name in TEXT_CONFIG}
    values |= {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "torch_dtype": "float16",
    }
    _write(folder / "config.json", dict(sorted(values.items())))


def _write(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
