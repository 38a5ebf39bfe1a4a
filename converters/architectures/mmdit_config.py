"""Keys of a MM-DiT's config (diffusers' SD3Transformer2DModel), what they say of each block, and checks."""

from __future__ import annotations

from typing import Any

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.keys import ITS_CONFIG, Key, count, only
from ondevice.errors import CheckpointError

CLASS = "SD3Transformer2DModel"
_CHANNELS, _PATCH, _TABLE = 64, 8, 1024  # of latents; latents a side of a patch; patches a side of the largest picture
MOST_BLOCKS = 60  # each has a port of the graph


def _as_list(value: Any) -> Any:
    return [] if value is None else value


KEYS = {
    "sample_size": count(128, 1 << 14),
    "patch_size": count(2, _PATCH),
    "in_channels": count(16, _CHANNELS),
    "out_channels": count(16, _CHANNELS),
    "num_layers": count(18, MOST_BLOCKS),
    "attention_head_dim": count(64, 1024),
    "num_attention_heads": count(18),
    "joint_attention_dim": count(4096),
    "caption_projection_dim": count(1152),
    "pooled_projection_dim": count(2048),
    "pos_embed_max_size": count(96, _TABLE),
    "dual_attention_layers": Key(
        [],
        lambda v: isinstance(v, list) and len(set(map(str, v))) == len(v) and all(type(x) is int for x in v),
        "a list of different whole numbers",
        _as_list,
        ITS_CONFIG,
    ),
    "qk_norm": only(None, "rms_norm"),
}


def inner(config: Config) -> int:
    """Channels of a token."""
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def is_last(config: Config, block: int) -> bool:
    """Whether it is the last block, from which the text's tokens do not go on."""
    return block == int(config["num_layers"]) - 1


def is_dual(config: Config, block: int) -> bool:
    """Whether a block also attends from the picture to the picture alone."""
    return block in config["dual_attention_layers"]


def modulations(config: Config, block: int) -> tuple[int, int]:
    """How many rows of `inner` numbers a block is modulated by: the picture's and the text's tokens."""
    return 9 if is_dual(config, block) else 6, 2 if is_last(config, block) else 6


def check(config: dict[str, Any], where: str) -> None:
    """Raises CheckpointError where keys do not fit each other."""
    width, layers = inner(config), config["num_layers"]

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(what, where=where, fix=ITS_CONFIG)

    if config["caption_projection_dim"] != width:
        raise refuse(
            f"caption_projection_dim {config['caption_projection_dim']} is not num_attention_heads times "
            f"attention_head_dim ({width})."
        )
    if width % 4:
        raise refuse(f"num_attention_heads times attention_head_dim is {width}, no multiple of 4.")
    if beyond := [layer for layer in config["dual_attention_layers"] if not 0 <= layer < layers]:
        raise refuse(f"dual_attention_layers names layer {beyond[0]}, and there are {layers}.")
    if config["sample_size"] < config["patch_size"]:
        raise refuse(f"sample_size {config['sample_size']} is less than patch_size {config['patch_size']}.")
