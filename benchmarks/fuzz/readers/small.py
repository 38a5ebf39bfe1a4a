"""A Stable Diffusion of as few weights as there can be, for readers that look at all of them."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from checkpoint_files import tiny_family, write_folder, write_json

from ondevice.converters.component import Checkpoint
from ondevice.converters.families import Family
from ondevice.converters.random_weights import random_checkpoint_from_configs

_NARROW = {"block_out_channels": [4], "norm_num_groups": 2, "layers_per_block": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "text_encoder": {
        "vocab_size": 9,
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
    },
    "unet": _NARROW
    | {
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "attention_head_dim": 2,
        "cross_attention_dim": 4,
    },
    "vae": _NARROW,
}
TOKENIZER = {
    "vocab.json": b'{"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}',
    "merges.txt": b"#version: 0.2\n",
}


@functools.cache
def checkpoint() -> Checkpoint:
    """Its weights are made up."""
    return random_checkpoint_from_configs(**CONFIGS, seed=1)


def write_small(folder: Path) -> Path:
    """The checkpoint in diffusers' layout."""
    write_folder(folder, checkpoint())
    for name, config in CONFIGS.items():
        write_json(folder / name / "config.json", config)
    for name, data in TOKENIZER.items():
        (folder / "tokenizer" / name).write_bytes(data)
    return folder


@functools.cache
def family() -> Family:
    """A family of that size, for single files. Its folder goes when the process ends."""
    folder = tempfile.TemporaryDirectory()
    _kept.append(folder)
    found = tiny_family(Path(folder.name))
    for name, config in CONFIGS.items():
        write_json(Path(folder.name) / name / "config.json", config)
    return found


_kept: list[tempfile.TemporaryDirectory[str]] = []
