"""ControlNet with the ports of diffusers' ControlNetModel, under the names that Apple's converter gives them, and what
lies between it and a UNet: a graph of a few ops without weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config, Graph
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.controlnet import CONTROLNET, factors, residuals
from ondevice.converters.architectures.controlnet_config import picture_scale
from ondevice.converters.architectures.unet_config import adds_text_and_sizes
from ondevice.converters.architectures.unet_keys_values import of_states, states
from ondevice.converters.architectures.unet_residuals import PUBLISHED, RESIDUAL, SUM, shapes
from ondevice.converters.architectures.unet_time import embedded_sizes, pooled_width, time_embedding


def control(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int, tokens: int, ids: int) -> ir.Model:
    """sample float32 [batch, c, height, width], timestep float32 [1], encoder_hidden_states [batch, tokens, d],
    controlnet_cond [batch, 3, s * height, s * width] of 0..1 -> additional_residual_0, ... [batch, c, h, w], without
    any scale.

    Where the config has text_time there are also text_embeds [batch, p] and time_ids float32 [batch, `ids`].
    """
    sample = b.input("sample", (batch, config["in_channels"], height, width))
    timestep = b.input("timestep", (1,))
    text = of_states(b, states(b, config, batch, tokens))
    time = time_embedding(b, config, timestep)
    if adds_text_and_sizes(config):
        pooled = b.input("text_embeds", (batch, pooled_width(config, ids)))
        added = embedded_sizes(b, config, pooled, b.input("time_ids", (batch, ids)))
        time = b.binary("add_embedding", "Add", time, added)
    pixels = picture_scale(config)
    picture = b.input("controlnet_cond", (batch, config["conditioning_channels"], pixels * height, pixels * width))
    found = residuals(b, config, time, text, sample, picture)
    return b.finish(**{f"{PUBLISHED}{number}": value for number, value in enumerate(found)})


def scaled(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int, sums: bool = False) -> ir.Model:
    """additional_residual_0, ... of `control` and scales float32 [batch, 2], as in controlnet.py -> residual_0, ...;
    with `sums` there are also sum_0, ..., to which they are added. All [batch, c, h, w]."""
    given = shapes(config, batch, height, width)
    found = [b.input(f"{PUBLISHED}{number}", shape) for number, shape in enumerate(given)]
    each = factors(b, b.input("scales", (batch, 2)), len(given))
    made = {}
    for number, (value, factor) in enumerate(zip(found, each, strict=True)):
        y = b.binary(f"residual.{number}", "Mul", value, factor)
        if sums:
            y = b.binary(f"residual.{number}", "Add", y, b.input(f"{SUM}{number}", given[number]))
        made[f"{RESIDUAL}{number}"] = y
    return b.finish(**made)


CONTROLNET_PUBLISHED = replace(
    CONTROLNET,
    graphs={
        "control": Graph(control, sizes=("batch", "height", "width", "tokens", "ids")),
        "scaled": Graph(scaled),
    },
)
CONTROLNET_SUMS_PUBLISHED = replace(
    CONTROLNET_PUBLISHED, graphs=CONTROLNET_PUBLISHED.graphs | {"scaled": Graph(partial(scaled, sums=True))}
)
