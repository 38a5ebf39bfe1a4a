"""The config of a UNet2DConditionModel: its keys, and what must hold between them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.keys import (
    ITS_CONFIG,
    SILU,
    WIDEST,
    Key,
    count,
    count_or_counts,
    counts,
    divides,
    each,
    is_count,
    is_size,
    number,
    one_of_equals,
    only,
    per_level,
    refused,
    same_length,
    switch,
)
from ondevice.errors import CheckpointError

_TIME_IDS = 6  # numbers that say a picture's sizes
_TEXT_TIME = "text_time"  # SDXL: the pooled text and the picture's sizes are added to the time embedding


def _optional_count() -> Key:
    return Key(None, lambda v: v is None or is_count(v), f"null, or a whole number from 1 to {WIDEST}", fix=ITS_CONFIG)


def _block_types(default: list[str], *values: str) -> Key:
    """Types of blocks, which diffusers takes under the names of its first versions, too (UNetResDownBlock2D)."""

    def plain(value: Any) -> Any:
        return (
            [x.removeprefix("UNetRes") if isinstance(x, str) else x for x in value]
            if isinstance(value, list)
            else value
        )

    return replace(each(default, *values), plain=plain)


KEYS = {
    "sample_size": Key(
        None,
        is_size,
        "null, a whole number from 1, or two: [height, width]",
        fix="write the latents' height and width there, such as 64 for pictures of 512 pixels",
    ),
    "in_channels": count(4),
    "out_channels": count(4),
    "block_out_channels": counts([320, 640, 1280, 1280]),
    "down_block_types": _block_types(
        ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "CrossAttnDownBlock2D", "DownBlock2D"
    ),
    "mid_block_type": only("UNetMidBlock2DCrossAttn"),
    "up_block_types": _block_types(["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": per_level(count(2, 32)),
    "cross_attention_dim": per_level(count(1280)),
    "attention_head_dim": count_or_counts(8),
    "num_attention_heads": only(None),
    "transformer_layers_per_block": replace(count_or_counts(1, 32), plain=one_of_equals),
    "reverse_transformer_layers_per_block": only(None),
    "use_linear_projection": switch(False, True),
    "norm_num_groups": count(32),
    "norm_eps": number(1e-5),
    "act_fn": SILU,
    "flip_sin_to_cos": only(True, False),
    "freq_shift": Key(
        0,
        lambda v: type(v) is int and v in (0, 1),
        "0 or 1",
        lambda v: int(v) if type(v) is float and v in (0, 1) else v,
    ),
    "center_input_sample": switch(False),
    "only_cross_attention": per_level(only(False)),
    "dual_cross_attention": switch(False),
    "downsample_padding": only(1),
    "mid_block_scale_factor": only(1, 1.0),
    "encoder_hid_dim": only(None),
    "encoder_hid_dim_type": only(None),
    "class_embed_type": only(None),
    "num_class_embeds": only(None),
    "projection_class_embeddings_input_dim": _optional_count(),
    "addition_embed_type": only(None, _TEXT_TIME),
    "addition_time_embed_dim": _optional_count(),
    "resnet_time_scale_shift": only("default"),
    "time_embedding_type": only("positional"),
    "time_embedding_dim": Key(
        None, lambda v: v is None or is_count(v), "null, or 4 times the first of block_out_channels", fix=ITS_CONFIG
    ),
    "time_embedding_act_fn": only(None),
    "timestep_post_act": only(None),
    "time_cond_proj_dim": only(None),
    "conv_in_kernel": only(3),
    "conv_out_kernel": only(3),
    "attention_type": only("default"),
}


def adds_text_and_sizes(config: Config) -> bool:
    return bool(config["addition_embed_type"] == _TEXT_TIME)


def _is_before(version: object, minor: int) -> bool:
    """Whether a version of diffusers is older than 0.`minor`."""
    parts = re.match(r"0\.(\d{1,6})(?!\d)", version) if isinstance(version, str) else None
    return parts is not None and int(parts[1]) < minor


def check(config: dict[str, Any], where: str) -> None:
    heads, size, time = config["attention_head_dim"], config.get("sample_size"), config["time_embedding_dim"]
    if type(size) is int and size < 64 and _is_before(config.get("_diffusers_version"), 9):
        # as diffusers' pipeline does: version 0.8 and older saved their default of 32 with models of 64
        config["sample_size"] = 64
    if time not in (None, 4 * config["block_out_channels"][0]):
        raise refused("time_embedding_dim", time, KEYS["time_embedding_dim"], where)
    lists = [name for name in ("attention_head_dim", "transformer_layers_per_block") if isinstance(config[name], list)]
    same_length(config, where, "down_block_types", "up_block_types", *lists)
    each, added = config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
    if adds_text_and_sizes(config) and (
        each is None or added is None or added <= _TIME_IDS * each or each // 2 <= config["freq_shift"]
    ):
        what = (
            f"addition_time_embed_dim {each} and projection_class_embeddings_input_dim {added} "
            "leave no room for a text."
        )
        raise CheckpointError(what, where=where, fix=ITS_CONFIG)
    # half of the first width is the number of time frequencies
    if config["block_out_channels"][0] // 2 <= config["freq_shift"]:
        raise CheckpointError(
            "block_out_channels begins too narrow for the time embedding.", where=where, fix=ITS_CONFIG
        )
    for level, channels in enumerate(config["block_out_channels"]):
        divides("norm_num_groups", config["norm_num_groups"], "block_out_channels", channels, where)
        # attention_head_dim is the number of heads: a misnomer that diffusers keeps for old checkpoints.
        divides(
            "attention_head_dim",
            heads[level] if isinstance(heads, list) else heads,
            "block_out_channels",
            channels,
            where,
        )
