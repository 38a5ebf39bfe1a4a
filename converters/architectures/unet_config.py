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
    same_length,
    switch,
)
from ondevice.converters.architectures.unet_levels import listed
from ondevice.errors import CheckpointError

_LEAST_TIME_IDS = 5  # numbers that say a picture's sizes: six in SDXL's base, five in its refiner
_LEAST_GUIDANCE = 4  # frequencies of a guidance's embedding go from 1 to 1e-4, each a sine and a cosine
DEEPEST = 32  # blocks of a level, and of a transformer
_DEPTH = f"a whole number from 0 to {DEEPEST}"
_DEEP, _DEEP_UP = "transformer_layers_per_block", "reverse_transformer_layers_per_block"
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


def _is_depth(value: Any) -> bool:
    return type(value) is int and 0 <= value <= DEEPEST


def _are_depths(value: Any) -> bool:
    """Whether it is a list of depths, or of lists of them."""
    if not isinstance(value, list) or not 1 <= len(value) <= 16:
        return False
    entries = (entry if isinstance(entry, list) else [entry] for entry in value)
    return all(1 <= len(entry) <= DEEPEST + 1 and all(map(_is_depth, entry)) for entry in entries)


def _one_depth(value: Any) -> Any:
    """The entry of a list of equal numbers; a list of lists stays, whose entries are of blocks."""
    return one_of_equals(value) if isinstance(value, list) and all(map(_is_depth, value)) else value


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
    "mid_block_type": only("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
    "up_block_types": _block_types(["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": replace(count_or_counts(2, DEEPEST), plain=one_of_equals),
    "cross_attention_dim": per_level(count(1280)),
    "attention_head_dim": count_or_counts(8),
    "num_attention_heads": only(None),
    "transformer_layers_per_block": Key(
        1,
        lambda v: _is_depth(v) or _are_depths(v),
        f"{_DEPTH}, or a list of one entry per level, each such a number or a list of one per block",
        _one_depth,
        ITS_CONFIG,
    ),
    "reverse_transformer_layers_per_block": Key(
        None,
        lambda v: v is None or _are_depths(v),
        f"null, or a list of one entry per level, each {_DEPTH} or a list of one per block",
        fix=ITS_CONFIG,
    ),
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
    "only_cross_attention": Key(
        False,
        lambda v: type(v) is bool or (isinstance(v, list) and all(type(x) is bool for x in v)),
        "true, false, or a list of one of these per level",
        one_of_equals,
        ITS_CONFIG,
    ),
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
    "time_embedding_dim": _optional_count(),
    "time_embedding_act_fn": only(None),
    "timestep_post_act": only(None),
    "time_cond_proj_dim": Key(
        None,
        lambda v: v is None or (is_count(v) and v >= _LEAST_GUIDANCE),
        f"null, or a whole number from {_LEAST_GUIDANCE} to {WIDEST}",
        fix=ITS_CONFIG,
    ),
    "conv_in_kernel": only(3),
    "conv_out_kernel": only(3),
    "attention_type": only("default"),
}


def adds_text_and_sizes(config: Config) -> bool:
    return bool(config["addition_embed_type"] == _TEXT_TIME)


def takes_guidance(config: Config) -> bool:
    """Whether the guidance is a number that the network is told, as it is where it was distilled (LCM)."""
    return config["time_cond_proj_dim"] is not None


def channels_beside(config: Config) -> dict[str, int]:
    """Channels of what the network is given beside a sample, by the ports' names: a mask and the latents of the
    masked picture (inpainting), or those of a picture to change (InstructPix2Pix)."""
    latents = config["out_channels"]
    known: dict[int, dict[str, int]] = {1: {"mask": 1, "masked_latents": latents}, 0: {"image_latents": latents}}
    return known.get(config["in_channels"] - 2 * latents, {})


def _lists(config: Config) -> list[str]:
    """Keys whose value is a list of one entry per level."""
    names = ("attention_head_dim", "layers_per_block", "only_cross_attention")
    return [name for name in (*names, _DEEP, _DEEP_UP) if isinstance(config[name], list)]


def _check_depths(config: Config, where: str) -> None:
    """Refuse depths per block that are not as many as blocks. Raises CheckpointError."""
    down, up = listed(config, _DEEP), config[_DEEP_UP]
    nested = any(isinstance(depth, list) for depth in down)
    if nested and up is None:
        what = f"config key {_DEEP!r} has lists per block and {_DEEP_UP!r} is null, so that the way up is not known."
        raise CheckpointError(what, where=where, fix=ITS_CONFIG)
    layers = listed(config, "layers_per_block")
    ways = (
        (_DEEP, down, layers, config["down_block_types"]),
        (_DEEP_UP, up or [], [each + 1 for each in reversed(layers)], config["up_block_types"]),
    )
    for name, depths, blocks, kinds in ways:
        for depth, most, kind in zip(depths, blocks, kinds, strict=False):
            if kind.startswith("CrossAttn") and isinstance(depth, list) and len(depth) != most:
                what = f"config key {name!r} has {depth} for a level of {most} blocks."
                raise CheckpointError(what, where=where, fix=ITS_CONFIG)


def _is_before(version: object, minor: int) -> bool:
    """Whether a version of diffusers is older than 0.`minor`."""
    parts = re.match(r"0\.(\d{1,6})(?!\d)", version) if isinstance(version, str) else None
    return parts is not None and int(parts[1]) < minor


def check(config: dict[str, Any], where: str) -> None:
    size = config.get("sample_size")
    if type(size) is int and size < 64 and _is_before(config.get("_diffusers_version"), 9):
        # as diffusers' pipeline does: version 0.8 and older saved their default of 32 with models of 64
        config["sample_size"] = 64
    same_length(config, where, "down_block_types", "up_block_types", *_lists(config))
    _check_depths(config, where)
    check_widths(config, where)


def check_widths(config: Config, where: str) -> None:
    """Refuse embeddings that leave no room for a text or a timestep, and channels that groups or heads do not divide.
    Raises CheckpointError."""
    heads = listed(config, "attention_head_dim")
    each, added = config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
    if adds_text_and_sizes(config) and (
        each is None or added is None or added <= _LEAST_TIME_IDS * each or each // 2 <= config["freq_shift"]
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
        divides(
            "attention_head_dim",
            heads[level],
            "block_out_channels",
            channels,
            where,
        )
