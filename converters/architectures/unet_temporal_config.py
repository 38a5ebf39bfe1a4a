"""Keys of a spatio-temporal UNet's config (diffusers' UNetSpatioTemporalConditionModel), and what its levels hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.keys import (
    ITS_CONFIG,
    Key,
    count,
    count_or_counts,
    counts,
    divides,
    each,
    is_size,
    one_of_equals,
    only,
    per_level,
    same_length,
)
from ondevice.converters.architectures.unet_config import DEEPEST
from ondevice.converters.architectures.unet_levels import Levels, levels, listed
from ondevice.errors import CheckpointError

CLASS = "UNetSpatioTemporalConditionModel"
GROUPS = 32  # of every GroupNorm
IDS = 3  # numbers that a clip is made with: frames per second, how much it moves, and the picture's noise
MOST_FRAMES = 1024
_PLAIN, _CROSS, _END = "DownBlock", "CrossAttnDownBlock", "SpatioTemporal"

KEYS = {
    "sample_size": Key(
        None,
        is_size,
        "null, a whole number from 1, or two: [height, width]",
        fix="write the latents' height and width there, such as [72, 128] for pictures of 1024x576",
    ),
    "in_channels": count(8),
    "out_channels": count(4),
    "block_out_channels": counts([320, 640, 1280, 1280]),
    "down_block_types": each([_CROSS + _END] * 3 + [_PLAIN + _END], _CROSS + _END, _PLAIN + _END),
    "up_block_types": each(
        [f"UpBlock{_END}"] + [f"CrossAttnUpBlock{_END}"] * 3, f"CrossAttnUpBlock{_END}", f"UpBlock{_END}"
    ),
    "addition_time_embed_dim": count(256),
    "projection_class_embeddings_input_dim": count(768),
    "layers_per_block": replace(count_or_counts(2, DEEPEST), plain=one_of_equals),
    "cross_attention_dim": per_level(count(1024)),
    "transformer_layers_per_block": replace(only(1), plain=one_of_equals),
    "num_attention_heads": count_or_counts([5, 10, 20, 20]),
    "num_frames": count(25, MOST_FRAMES),
}


def flat(config: Config) -> dict[str, Any]:
    """The config of the UNet of single pictures whose blocks have the same places."""
    return {
        "block_out_channels": config["block_out_channels"],
        "down_block_types": [kind.replace(_END, "2D") for kind in config["down_block_types"]],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": [kind.replace(_END, "2D") for kind in config["up_block_types"]],
        "layers_per_block": config["layers_per_block"],
        "attention_head_dim": config["num_attention_heads"],
        "transformer_layers_per_block": 1,
        "only_cross_attention": False,
    }


def levels_of(config: Config) -> Levels:
    """Levels down, the middle, and levels up; a depth is 1 where a transformer follows a resnet."""
    return levels(flat(config))


def latents_of(config: Config) -> int:
    """Channels of the picture's latents that are beside the sample's."""
    return int(config["in_channels"] - config["out_channels"])


def check(config: dict[str, Any], where: str) -> None:
    """Raises CheckpointError where keys do not fit each other."""
    lists = [name for name in ("layers_per_block", "num_attention_heads") if isinstance(config[name], list)]
    same_length(config, where, "down_block_types", "up_block_types", *lists)
    if latents_of(config) < 1:
        what = f"in_channels {config['in_channels']} leaves no channels for a picture beside out_channels "
        what += f"{config['out_channels']}."
        raise CheckpointError(what, where=where, fix=ITS_CONFIG)
    each_id, added = config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
    if added != IDS * each_id:
        what = (
            f"projection_class_embeddings_input_dim {added} is not {IDS} times addition_time_embed_dim ({each_id}): "
            "frames per second, motion and noise."
        )
        raise CheckpointError(what, where=where, fix=ITS_CONFIG)
    heads = listed(flat(config), "attention_head_dim")
    for channels, count_of in zip(config["block_out_channels"], heads, strict=True):
        divides("the groups of its norms,", GROUPS, "block_out_channels", channels, where)
        divides("num_attention_heads", count_of, "block_out_channels", channels, where)
