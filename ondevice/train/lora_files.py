"""LoRA on a network: added by peft, and written as the file that `convert --lora` and diffusers load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import PeftAdapterMixin
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save

from ondevice.base.publish import published_file, system
from ondevice.errors import OutputError, UsageError

ADAPTER = "default"
"""What peft calls the one adapter of a network."""


def add_lora(module: torch.nn.Module, rank: int, targets: Sequence[str]) -> None:
    """Put adapters of a rank on the layers whose names end so; they begin as no change, and learn in float32.
    Raises UsageError where there are no such layers."""
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets))
    net: Any = module
    try:
        if isinstance(module, PeftAdapterMixin):
            net.add_adapter(config)
        else:
            inject_adapter_in_model(config, module)
    except ValueError as error:
        what = f"the model has no such layers (got {' '.join(targets)})."
        raise UsageError(what, where="--target_modules", fix="use to_k to_q to_v to_out.0") from error
    for one in module.parameters():
        if one.requires_grad:
            one.data = one.data.float()


def _published(part: str, name: str) -> str:
    """A parameter's name in files: without the adapter's, and of a text encoder as it was called when the first such
    files were written."""
    name = name.replace(f".{ADAPTER}.", ".")
    return f"text_model.{name}" if part.startswith("text_encoder") and not name.startswith("text_model.") else name


def write_lora(parts: dict[str, torch.nn.Module], path: Path) -> Path:
    """The adapters of networks, by their names in the model's folder, in float32 in peft's names, as .safetensors.
    Raises OutputError where the system refuses."""
    tensors = {
        f"{part}.{_published(part, name)}": value.detach().cpu().float().contiguous()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
        if ".lora_" in name
    }
    with system(str(path), OutputError), published_file(path) as file:
        file.write(save(tensors, {"format": "pt"}))
    return path
