"""ControlNet (diffusers' ControlNetModel): a UNet's way down and middle, begun from a sample and a picture, whose
results are added to the UNet's own.

Reference: "Adding Conditional Control to Text-to-Image Diffusion Models" (arXiv 2302.05543), section 3.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Architecture, Config, Graph, Layout, Stored
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.controlnet_config import (
    KEYS,
    check,
    kind_of_config,
    kind_of_shapes,
    picture_scale,
)
from ondevice.converters.architectures.controlnet_names import EMBEDDING, HINT, original_name
from ondevice.converters.architectures.layers import silu
from ondevice.converters.architectures.unet import canonical, sizes
from ondevice.converters.architectures.unet_blocks import Blocks
from ondevice.converters.architectures.unet_config import adds_text_and_sizes
from ondevice.converters.architectures.unet_keys_values import Looks, of_states, states
from ondevice.converters.architectures.unet_residuals import RESIDUAL, SUM, channels_first, channels_last, port
from ondevice.converters.architectures.unet_time import time_embedding


def control(
    b: GraphBuilder, config: Config, *, batch: int, height: int, width: int, tokens: int, sums: bool = False
) -> ir.Model:
    """sample float32 [batch, c, height, width], timestep float32 [1], encoder_hidden_states [batch, tokens, d],
    control [batch, 3, s * height, s * width] of 0..1, scales [batch, 2] -> residual_0, residual_1, ...
    [batch, h, w, c]: what the UNet adds to its skip connections, in their order, and last to its middle.

    Each is times the first of `scales`; where the second, guess mode, is 1, also times 0.1 to 1, evenly in the
    exponent. Where the config has text_time there is added [batch, time width], which `sizes` makes of this net's own
    weights. With `sums` there are also inputs sum_0, sum_1, ..., to which these are added.
    """
    sample = b.input("sample", (batch, config["in_channels"], height, width))
    timestep = b.input("timestep", (1,))
    text = of_states(b, states(b, config, batch, tokens))
    time = time_embedding(b, config, timestep)
    if adds_text_and_sizes(config):
        time = b.binary("add_embedding", "Add", time, b.input("added", (batch, shape_of(time)[1])))
    pixels = picture_scale(config)
    picture = b.input("control", (batch, config["conditioning_channels"], pixels * height, pixels * width))
    scales = b.input("scales", (batch, 2))
    found = residuals(b, config, time, text, sample, picture)
    made = {}
    for number, (residual, factor) in enumerate(zip(found, factors(b, scales, len(found)), strict=True)):
        scope = f"residual.{number}"
        y = b.binary(scope, "Mul", residual, factor)
        if sums:
            y = b.binary(scope, "Add", y, channels_first(b, scope, b.input(f"{SUM}{number}", port(y))))
        made[f"{RESIDUAL}{number}"] = channels_last(b, scope, y)
    return b.finish(**made)


def residuals(
    b: GraphBuilder, config: Config, time: ir.Value, text: Looks, sample: ir.Value, picture: ir.Value
) -> list[ir.Value]:
    """[batch, c, h, w] for each skip connection of the UNet, and for its middle; without any scale."""
    net = Blocks(b, config, silu(b, "time_embedding", time), text)
    x = b.conv("conv_in", sample, config["block_out_channels"][0])
    x = b.binary("conv_in", "Add", x, _embedded(b, config, picture))
    skips = [x]
    x = net.mid(net.down(x, skips))
    scopes = [f"controlnet_down_blocks.{number}" for number in range(len(skips))]
    return [
        b.conv(scope, value, shape_of(value)[1], 1)
        for scope, value in zip([*scopes, "controlnet_mid_block"], [*skips, x], strict=True)
    ]


def factors(b: GraphBuilder, scales: ir.Value, count: int) -> list[ir.Value]:
    """[batch, 2], a scale and guess mode (0 or 1) -> [batch, 1, 1, 1] for each of `count` residuals.

    In guess mode a residual's factor is that of diffusers' torch.logspace(-1, 0, count).
    """
    batch, _ = shape_of(scales)
    scale, guess = b.op("scales", "Split", [scales], (batch, 1), (batch, 1), axis=1, num_outputs=2)
    logarithms = np.linspace(-np.log(10), 0, count).astype(np.float32)[np.newaxis]
    powers = b.unary("scales", "Exp", b.binary("scales", "Mul", guess, b.constant("guess.logarithms", logarithms)))
    whole = b.binary("scales", "Mul", powers, scale)
    parts = b.op("scales.each", "Split", [whole], *[(batch, 1)] * count, axis=1, num_outputs=count)
    return [b.reshape(f"residual.{number}", part, batch, 1, 1, 1) for number, part in enumerate(parts)]


def _embedded(b: GraphBuilder, config: Config, picture: ir.Value) -> ir.Value:
    """[batch, 3, s * h, s * w] -> [batch, first width, h, w]: convolutions with activations between them."""
    first, *others = config[HINT]
    x = b.conv(f"{EMBEDDING}.conv_in", picture, first)
    for number, width in enumerate(others):
        for block, out, stride in ((2 * number, shape_of(x)[1], 1), (2 * number + 1, width, 2)):
            x = b.conv(f"{EMBEDDING}.blocks.{block}", silu(b, EMBEDDING, x), out, stride=stride)
    return b.conv(f"{EMBEDDING}.conv_out", silu(b, EMBEDDING, x), config["block_out_channels"][0])


_SIZES = ("batch", "height", "width", "tokens")
CONTROLNET = Architecture(
    name="controlnet",
    word="ControlNet",
    keys=KEYS,
    graphs={
        "control": Graph(control, sizes=_SIZES),
        "sizes": Graph(sizes, sizes=("batch", "ids"), fits=adds_text_and_sizes),
    },
    check=check,
    classes=("ControlNetModel", "FlaxControlNetModel"),
    canonical=canonical,
    kind=kind_of_config,
    kind_of_shapes=kind_of_shapes,
    first="conv_in.weight",
)
CONTROLNET_SUMS = replace(
    CONTROLNET, graphs=CONTROLNET.graphs | {"control": Graph(partial(control, sums=True), sizes=_SIZES)}
)
"""One that adds to what another gives."""
LDM = Layout(lambda name, config: Stored(original_name(name, config)))
