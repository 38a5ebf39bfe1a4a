"""What the levels of a UNet hold, as its config says it: one entry per block where the config may have one number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ondevice.converters.architectures.architecture import Config


class Level(NamedTuple):
    """One level, down or up, or the middle.

    Args:
        width: channels.
        depths: one per resnet: blocks of the transformer after it, None where none is.
        heads: of each attention.
        only_cross: whether the first attention of each block looks at the text, too.
    """

    width: int
    depths: tuple[int | None, ...]
    heads: int
    only_cross: bool


class Levels(NamedTuple):
    """All levels, as a picture goes through them; `mid` is None where there is no middle, and `up` is empty where the
    network ends with it (a ControlNet)."""

    down: tuple[Level, ...]
    mid: Level | None
    up: tuple[Level, ...]


class Transformer(NamedTuple):
    """One transformer: its place ("mid_block.attentions.0"), channels, and the attentions to the text in its blocks, by
    their places in it, in order."""

    scope: str
    channels: int
    looks: tuple[str, ...]


def transformers(config: Config) -> Iterator[Transformer]:
    """Every transformer that has a block, as a picture goes through them."""
    down, mid, up = levels(config)
    places = [(f"down_blocks.{number}", level) for number, level in enumerate(down)]
    places += [] if mid is None else [("mid_block", mid)]
    places += [(f"up_blocks.{number}", level) for number, level in enumerate(up)]
    for place, level in places:
        names = ("attn1", "attn2") if level.only_cross else ("attn2",)
        for layer, depth in enumerate(level.depths):
            if depth:
                looks = tuple(f"transformer_blocks.{block}.{name}" for block in range(depth) for name in names)
                yield Transformer(f"{place}.attentions.{layer}", level.width, looks)


def levels(config: Config) -> Levels:
    """The levels of a config that has all keys. Reference: diffusers' UNet2DConditionModel."""
    widths = config["block_out_channels"]
    layers, heads, depths, crossed = (
        listed(config, name)
        for name in (
            "layers_per_block",
            # the number of heads: a misnomer that diffusers keeps for old checkpoints
            "attention_head_dim",
            "transformer_layers_per_block",
            "only_cross_attention",
        )
    )

    def level(at: int, attends: bool, resnets: int, depth: int | list[int]) -> Level:
        """`at`: of the lists, which go down."""
        each = _per_block(depth, resnets) if attends else (None,) * resnets
        return Level(widths[at], each, heads[at], crossed[at])

    down = tuple(
        level(at, kind == "CrossAttnDownBlock2D", layers[at], depths[at])
        for at, kind in enumerate(config["down_block_types"])
    )
    back = list(reversed(range(len(widths))))
    upward = config.get("reverse_transformer_layers_per_block") or [depths[at] for at in back]
    up = tuple(
        level(at, kind == "CrossAttnUpBlock2D", layers[at] + 1, depth)
        for at, kind, depth in zip(back, config.get("up_block_types", ()), upward, strict=False)
    )
    return Levels(down, _mid(config["mid_block_type"], down[-1], depths[-1]), up)


def listed(config: Config, name: str) -> list[Any]:
    """One entry per level of a key that may be one for all of them."""
    value = config[name]
    return value if isinstance(value, list) else [value] * len(config["block_out_channels"])


def _per_block(depth: int | list[int], resnets: int) -> tuple[int, ...]:
    return tuple(depth) if isinstance(depth, list) else (depth,) * resnets


def _mid(kind: str | None, last: Level, depth: int | list[int]) -> Level | None:
    """One resnet, and where it attends a transformer, as deep as the last level's first, and a second resnet."""
    if kind is None:
        return None
    depths = (_per_block(depth, 1)[0], None) if kind == "UNetMidBlock2DCrossAttn" else (None,)
    return Level(last.width, depths, last.heads, False)
