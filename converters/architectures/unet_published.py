"""The UNet with the ports of diffusers' UNet2DConditionModel, which other tools look for, and what lies between these
and a pipeline: graphs of a few ops without weights.

In our own graphs what depends on no step is apart (unet.py), and what is beside a sample comes by ports of its own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config, Graph
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.unet import UNET, denoised
from ondevice.converters.architectures.unet_config import adds_text_and_sizes, channels_beside, takes_guidance
from ondevice.converters.architectures.unet_keys_values import of_states, states
from ondevice.converters.architectures.unet_residuals import added_as_published
from ondevice.converters.architectures.unet_time import (
    embedded_guidance,
    embedded_sizes,
    guidance_waves,
    pooled_width,
    time_embedding,
)


def noise(
    b: GraphBuilder,
    config: Config,
    *,
    batch: int,
    height: int,
    width: int,
    tokens: int,
    ids: int,
    controlled: bool = False,
) -> ir.Model:
    """sample float32 [batch, in_channels, height, width], timestep float32 [1], encoder_hidden_states
    [batch, tokens, d] -> out_sample [batch, out_channels, height, width].

    Where the config has text_time there are also text_embeds [batch, p], a pooled text, and time_ids float32
    [batch, `ids`], the picture's sizes; where it has a time_cond_proj_dim c, timestep_cond [batch, c], which
    `guidance_waves` makes. With `controlled` there are additional_residual_0, ..., shaped as the skip connections and
    the middle's result, to which they are added.
    """
    sample = b.input("sample", (batch, config["in_channels"], height, width))
    timestep = b.input("timestep", (1,))
    text = of_states(b, states(b, config, batch, tokens))
    beside = None
    if takes_guidance(config):
        beside = embedded_guidance(b, config, b.input("timestep_cond", (batch, config["time_cond_proj_dim"])))
    time = time_embedding(b, config, timestep, beside)
    if adds_text_and_sizes(config):
        pooled = b.input("text_embeds", (batch, pooled_width(config, ids)))
        added = embedded_sizes(b, config, pooled, b.input("time_ids", (batch, ids)))
        time = b.binary("add_embedding", "Add", time, added)
    return denoised(b, config, time, text, sample, add=added_as_published if controlled else None)


def context(b: GraphBuilder, config: Config, *, batch: int, tokens: int, hidden: int) -> ir.Model:
    """Two text encoders' states side by side: hidden float32 [batch, tokens, `hidden`], hidden_2
    [batch, tokens, d - `hidden`] -> context [batch, tokens, d]."""
    first = b.input("hidden", (batch, tokens, hidden))
    second = b.input("hidden_2", (batch, tokens, config["cross_attention_dim"] - hidden))
    return b.finish(context=b.concat("context", 2, first, second))


def join(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int) -> ir.Model:
    """A sample and what is beside it, in the order of the first convolution's channels: sample float32
    [batch, c, height, width] and mask [batch, 1, height, width] and masked_latents, shaped as sample (inpainting), or
    image_latents, shaped as sample (InstructPix2Pix) -> joined [batch, in_channels, height, width]."""
    beside = channels_beside(config)
    parts = {"sample": config["in_channels"] - sum(beside.values()), **beside}
    given = [b.input(name, (batch, channels, height, width)) for name, channels in parts.items()]
    return b.finish(joined=b.concat("join", 1, *given))


def guidance(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """guidance_scale float32 [batch, 1] -> timestep_cond [batch, time_cond_proj_dim], as `noise` takes it."""
    return b.finish(timestep_cond=guidance_waves(b, config, b.input("guidance_scale", (batch, 1))))


_SIZES = ("batch", "height", "width", "tokens", "ids")
UNET_PUBLISHED = replace(
    UNET,
    graphs={
        "noise": Graph(noise, sizes=_SIZES),
        "context": Graph(context, sizes=("batch", "tokens", "hidden"), fits=adds_text_and_sizes),
        "join": Graph(join, fits=lambda config: bool(channels_beside(config))),
        "guidance": Graph(guidance, sizes=("batch",), fits=takes_guidance),
    },
)
CONTROLLED_PUBLISHED = replace(
    UNET_PUBLISHED, graphs=UNET_PUBLISHED.graphs | {"noise": Graph(partial(noise, controlled=True), sizes=_SIZES)}
)
