"""The denoiser of Stable Video Diffusion (diffusers' UNetSpatioTemporalConditionModel): all frames of a clip at once.

What it sees of the picture's content is one token, so that attention to it is that token's value, whatever the queries
are: to_out(to_v(context)), one vector for all tokens of a clip, and the layer's norm, queries and keys do nothing. The
vectors of all layers depend on the picture alone (`looks`).

Reference: "Stable Video Diffusion" (arXiv 2311.15127).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Apart, Architecture, Config, Graph
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import gemm, group_norm, linear, repeated, silu
from ondevice.converters.architectures.unet import canonical
from ondevice.converters.architectures.unet_levels import transformers
from ondevice.converters.architectures.unet_temporal_blocks import Blocks, Look
from ondevice.converters.architectures.unet_temporal_config import (
    CLASS,
    GROUPS,
    IDS,
    KEYS,
    check,
    flat,
    latents_of,
)
from ondevice.converters.architectures.unet_temporal_names import looks_at_one
from ondevice.converters.architectures.unet_time import waves

CONTEXT, LOOKS = "encoder_hidden_states", "looks"
_WAVES = {"flip_sin_to_cos": True, "freq_shift": 0}
_EPS = 1e-5  # of the last norm
_BLOCKS = ("transformer_blocks", "temporal_transformer_blocks")


def noise(
    b: GraphBuilder, config: Config, *, batch: int, frames: int, height: int, width: int, given: bool = False
) -> ir.Model:
    """sample float32 [batch * frames, c, height, width], a clip's frames one after another, timestep float32 [1],
    encoder_hidden_states [batch, 1, d], what CLIP sees in the picture, added [batch, time width] of `condition`,
    image_latents [batch, c', height, width] -> out_sample, shaped as sample.

    With `given` there is looks [batch, 1, all] in the place of encoder_hidden_states.
    """
    rows, first = batch * frames, config["block_out_channels"][0]
    sample = b.input("sample", (rows, config["out_channels"], height, width))
    timestep = b.input("timestep", (1,))
    all_looks = _given(b, config, batch) if given else made_looks(b, config, _context(b, config, batch))
    added = b.input("added", (batch, 4 * first))
    beside = b.input("image_latents", (batch, latents_of(config), height, width))
    x = b.concat("conv_in", 1, sample, repeated(b, "image_latents", beside, rows))
    return denoised(b, config, timestep, added, all_looks, x)


def denoised(
    b: GraphBuilder, config: Config, timestep: ir.Value, added: ir.Value, all_looks: ir.Value, x: ir.Value
) -> ir.Model:
    """The network for x [batch * frames, in_channels, height, width], the sample's latents and the picture's."""
    (clips, wide), first = shape_of(added), config["block_out_channels"][0]
    angles = b.op("time_proj", "Unsqueeze", [timestep, b.ints(1)], (1, 1))
    time = _embedded(b, "time_embedding", waves(b, _WAVES, "time_proj", angles, first), wide)
    time = silu(b, "time_embedding", b.binary("time_embedding", "Add", added, time))
    net = Blocks(b, config, clips, time, _parted(b, config, all_looks))
    x = b.conv("conv_in", x, first)
    skips = [x]
    x = net.up(net.mid(net.down(x, skips)), skips)
    x = silu(b, "conv_norm_out", group_norm(b, "conv_norm_out", x, GROUPS, _EPS))
    return b.finish(out_sample=b.conv("conv_out", x, config["out_channels"]))


def looks(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """encoder_hidden_states float32 [batch, 1, d] -> looks [batch, 1, all]: of each transformer what its block over
    pixels and its block over frames add to every token, without their biases: zeros give zeros."""
    return b.finish(looks=made_looks(b, config, _context(b, config, batch)))


def condition(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """time_ids float32 [batch, 3]: frames per second, how much there is to move, and what the picture's noise was
    multiplied by -> added [batch, time width]. The network was trained with one frame per second less."""
    each, out = config["addition_time_embed_dim"], 4 * config["block_out_channels"][0]
    ids = b.input("time_ids", (batch, IDS))
    ids = b.binary("time_ids", "Add", ids, b.constant("less_one", np.array([[-1, 0, 0]], np.float32)))
    numbers = waves(b, _WAVES, "add_time_proj", b.reshape("add_time_proj", ids, batch * IDS, 1), each)
    y = b.reshape("add_time_proj", numbers, batch, IDS * each)
    return b.finish(added=_embedded(b, "add_embedding", y, out))


def _embedded(b: GraphBuilder, scope: str, x: ir.Value, out: int) -> ir.Value:
    return gemm(b, f"{scope}.linear_2", silu(b, scope, gemm(b, f"{scope}.linear_1", x, out)), out)


def _context(b: GraphBuilder, config: Config, batch: int) -> ir.Value:
    return b.input(CONTEXT, (batch, 1, config["cross_attention_dim"]))


def _places(config: Config) -> Iterator[tuple[str, int]]:
    """(scope, channels) of every attention to the picture."""
    for scope, channels, _ in transformers(flat(config)):
        for block in _BLOCKS:
            yield f"{scope}.{block}.0.attn2", channels


def made_looks(b: GraphBuilder, config: Config, context: ir.Value) -> ir.Value:
    """[batch, 1, all]: values of the picture's token, through the last layers without biases."""
    parts = []
    for scope, channels in _places(config):
        value = linear(b, f"{scope}.to_v", context, channels, bias=False)
        parts.append(b.matmul(scope, value, b.transposed(f"{scope}.to_out.0.weight", channels, channels)))
    return b.concat(LOOKS, 2, *parts)


def _given(b: GraphBuilder, config: Config, batch: int) -> ir.Value:
    return b.input(LOOKS, (batch, 1, sum(channels for _, channels in _places(config))))


def _parted(b: GraphBuilder, config: Config, all_looks: ir.Value) -> Look:
    """What each attention adds: its part of `looks`, and its bias."""
    places = list(_places(config))
    bias = b.concat(LOOKS, 0, *(b.weight(f"{scope}.to_out.0.bias", channels) for scope, channels in places))
    whole, batch = b.binary(LOOKS, "Add", all_looks, bias), shape_of(all_looks)[0]
    sizes = b.ints(*(channels for _, channels in places))
    parts = b.op(LOOKS, "Split", [whole, sizes], *[(batch, 1, channels) for _, channels in places], axis=-1)
    found = {scope: part for (scope, _), part in zip(places, parts, strict=True)}
    return lambda scope, channels: found[scope]


_SIZES = ("batch", "frames", "height", "width")
UNET_TEMPORAL = Architecture(
    name="unet_temporal",
    word="UNet",
    keys=KEYS,
    graphs={
        "noise": Graph(noise, _SIZES, apart=Apart(LOOKS, "step", (CONTEXT,), linear=True)),
        LOOKS: Graph(looks, ("batch",)),
        "step": Graph(partial(noise, given=True), _SIZES),
        "condition": Graph(condition, ("batch",)),
    },
    check=check,
    classes=(CLASS,),
    canonical=canonical,
    first="conv_in.weight",
    vain=looks_at_one,
)
