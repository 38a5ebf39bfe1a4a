"""The decoder in stages, each of which can work on a band of rows:
for pictures whose activations do not fit into memory at once.

A GroupNorm needs the whole picture, so a stage ends where the next norm begins; the statistics of what it made are its
successor's inputs. What a stage reads and makes are pictures [1, rows, width, channels] by name:

    1         latent_sample (whole) -> the picture before the first upsampler
    then      a resnet is two stages: norm - SiLU - conv1, and norm - SiLU - conv2 + shortcut; an upsampler is one
    largest   what its upsampler makes is never kept: four times the channels of all else at that size. One stage makes
              it for its statistics alone, and each of the two stages of the first resnet makes it again, band by band
    last      norm - SiLU - conv_out -> sample [1, rows, width, 3]

Every convolution reads one row beyond its own; so of a band, one row of its smallest picture at each inner edge comes
out wrong, and bands overlap by two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import resnet
from ondevice.converters.architectures.vae_layers import VAE_EPS, middle, normal, upsampled
from ondevice.errors import UsageError

STATISTICS_OF = "statistics_of"  # in a graph's metadata: the picture whose statistics its norms need
LEAST = 8  # rows: two of the smaller picture are work done twice


@dataclass(frozen=True, slots=True)
class Picture:
    """What is held between stages: [1, height, width, channels]."""

    name: str
    height: int
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage reads (the smallest first), the picture whose statistics its norm needs, and how it makes what."""

    reads: tuple[Picture, ...]
    norm: str | None
    makes: Picture
    build: Callable[[GraphBuilder, Mapping[str, ir.Value]], ir.Value]


def decoder_stages(config: Config, height: int, width: int, scale: float = 1.0) -> list[Stage]:
    """All after the first, in order, for latents of `height` by `width`."""
    return list(_stages(config, height, width, scale))


def decoder_stage(
    b: GraphBuilder, config: Config, *, height: int, width: int, stage: int, rows: int, scale: float = 1.0
) -> ir.Model:
    """The graph of one stage; bands of at most `rows` rows of the largest picture that it reads or makes.

    Raises:
        UsageError: there is no such stage, or a band would be too low.
    """
    stages = decoder_stages(config, height, width, scale)
    if not 1 <= stage <= len(stages) + 1 or rows < LEAST:
        raise UsageError(
            f"stage {stage}, {rows} rows (expected 1..{len(stages) + 1}, at least {LEAST}).",
            where="vae_decoder in bands",
        )
    if stage == 1:
        x = middle(b, config, b.input("latent_sample", (1, config["latent_channels"], height, width)), scale)
        out = config["block_out_channels"][-1]
        for layer in range(config["layers_per_block"] + 1):
            x = resnet(
                b, f"decoder.up_blocks.0.resnets.{layer}", x, out, config["norm_num_groups"], VAE_EPS, scale=scale
            )
        return b.finish(**{_last(config, 0): b.transpose("out", x, 0, 2, 3, 1)})
    now = stages[stage - 2]
    small = now.reads[0]
    high = band_rows(small.height, rows * small.height // now.makes.height)  # no stage makes less than it reads
    values = {}
    for picture in now.reads:
        part = (1, high * picture.height // small.height, picture.width, picture.channels)
        values[picture.name] = b.transpose("in", b.input(picture.name, part), 0, 3, 1, 2)
    model = b.finish(**{now.makes.name: b.transpose("out", now.build(b, values), 0, 2, 3, 1)})
    if now.norm is not None:
        model.metadata_props[STATISTICS_OF] = now.norm
    return model


def band_rows(height: int, most: int) -> int:
    """Rows of each of the fewest equal bands of at most `most` rows; neighbours overlap by two."""
    if height <= most:
        return height
    bands = -(-(height - 2) // (most - 2))
    return -(-(height - 2) // bands) + 2


def _last(config: Config, level: int) -> str:
    return f"decoder.up_blocks.{level}.resnets.{config['layers_per_block']}"


def _stages(config: Config, height: int, width: int, scale: float) -> Iterator[Stage]:
    widths, groups = list(reversed(config["block_out_channels"])), config["norm_num_groups"]
    x = Picture(_last(config, 0), height, width, widths[0])
    for level in range(1, len(widths)):
        up = f"decoder.up_blocks.{level - 1}.upsamplers.0"
        large = Picture(up, 2 * x.height, 2 * x.width, x.channels)

        def enlarge(b: GraphBuilder, v: Mapping[str, ir.Value], x: Picture = x, up: str = up) -> ir.Value:
            return upsampled(b, up, v[x.name], scale)

        yield Stage((x,), None, large, enlarge)
        again = level == len(widths) - 1
        x = x if again else large
        for layer in range(config["layers_per_block"] + 1):
            scope = f"decoder.up_blocks.{level}.resnets.{layer}"
            inside = Picture(f"{scope}.conv1", large.height, large.width, widths[level])
            out = Picture(scope, large.height, large.width, widths[level])
            yield from _resnet(x, inside, out, up if again and layer == 0 else None, groups, scale)
            x = out

    def last(b: GraphBuilder, v: Mapping[str, ir.Value]) -> ir.Value:
        return b.conv(
            "decoder.conv_out", normal(b, "decoder.conv_norm_out", v[x.name], groups, scale), config["out_channels"]
        )

    yield Stage((x,), x.name, Picture("sample", x.height, x.width, config["out_channels"]), last)


def _resnet(x: Picture, inside: Picture, out: Picture, up: str | None, groups: int, scale: float) -> Iterator[Stage]:
    """The two stages of a resnet that makes `out` of `x`, which the upsampler `up` enlarges first, if any."""
    scope = out.name

    def picture(b: GraphBuilder, v: Mapping[str, ir.Value]) -> ir.Value:
        return v[x.name] if up is None else upsampled(b, up, v[x.name], scale)

    def first(b: GraphBuilder, v: Mapping[str, ir.Value]) -> ir.Value:
        y = normal(b, f"{scope}.norm1", picture(b, v), groups, scale)
        return b.conv(f"{scope}.conv1", y, inside.channels)

    def second(b: GraphBuilder, v: Mapping[str, ir.Value]) -> ir.Value:
        shortcut = picture(b, v)
        y = normal(b, f"{scope}.norm2", v[inside.name], groups)
        y = b.conv(f"{scope}.conv2", y, inside.channels, scales=(scale, scale))
        if shape_of(shortcut)[1] != inside.channels:
            shortcut = b.conv(f"{scope}.conv_shortcut", shortcut, inside.channels, 1, scales=(1.0, scale))
        return b.binary(scope, "Add", shortcut, y)

    yield Stage((x,), up or x.name, inside, first)
    yield Stage((x, inside), inside.name, out, second)
