"""The tiny autoencoder (diffusers' AutoencoderTiny: TAESD, TAESDXL, TAESD3): its config and its graphs.

Convolutions of 3x3 and ReLUs alone. A decoder works on latents as the sampler has them. Reference: diffusers'
EncoderTiny, DecoderTiny and AutoencoderTinyBlock; github.com/madebyollin/taesd, whose own names
converters/read/tiny_names.py brings to these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Architecture, Config, Graph, Layout, Stored
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.keys import ITS_CONFIG, Key, count, counts, number, only
from ondevice.converters.architectures.layers import gelu, silu
from ondevice.errors import CheckpointError

CLASS = "AutoencoderTiny"
SCALING, SHIFT = "latents_scaling", "latents_shift"
"""Ours, not diffusers': what a model's own autoencoder is given is latents / scaling + shift."""
_LATENTS, _LEVELS, _BLOCKS = 64, 7, 32
_FACTOR = 8  # the most that one level of a decoder may repeat pixels by
_BOUND = 3.0  # latents are squashed to +-3
_POINT = -30.0  # the logarithm of a variance that is none


def relu(b: GraphBuilder, scope: str, x: ir.Value) -> ir.Value:
    return b.unary(scope, "Relu", x)


ACTIVATIONS: dict[str, Callable[[GraphBuilder, str, ir.Value], ir.Value]] = {
    "relu": relu,
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
}
_KEYS = {
    "in_channels": count(3),
    "out_channels": count(3),
    "latent_channels": count(4, _LATENTS),
    "encoder_block_out_channels": counts([64] * 4, _LEVELS),
    "decoder_block_out_channels": counts([64] * 4, _LEVELS),
    "num_encoder_blocks": counts([1, 3, 3, 3], _LEVELS, _BLOCKS),
    "num_decoder_blocks": counts([3, 3, 3, 1], _LEVELS, _BLOCKS),
    "act_fn": Key(
        "relu",
        lambda v: v in ACTIVATIONS,
        " or ".join(map(repr, ACTIVATIONS)),
        lambda v: v.lower() if isinstance(v, str) else v,
    ),
    "upsample_fn": only("nearest"),
    "upsampling_scaling_factor": count(2, _FACTOR),
    "scaling_factor": number(1.0, 1e-9),
    "shift_factor": only(0.0, 0, None),
}


def decoder(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int) -> ir.Model:
    """latent_sample float32 [batch, c, height, width], latents / scaling_factor -> sample float32
    [batch, 3, scale*height, scale*width]."""
    x = b.input("latent_sample", (batch, config["latent_channels"], height, width))
    return b.finish(sample=_decoded(b, config, x))


def fast_decoder(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int) -> ir.Model:
    """The same beside another autoencoder: latent_sample is what that one's decoder is given."""
    x = b.input("latent_sample", (batch, config["latent_channels"], height, width))
    if config[SHIFT]:
        x = b.binary("decoder.shift", "Sub", x, b.full(config[SHIFT]))
    # whatever config["scaling_factor"] says of a sampler's latents, these are the other's
    return b.finish(sample=_decoded(b, config, x, config[SCALING] / config["scaling_factor"]))


def _decoded(b: GraphBuilder, config: Config, x: ir.Value, scale: float = 1.0) -> ir.Value:
    """Pixels of -1..1 of `scale` times x."""
    activate, widths = ACTIVATIONS[config["act_fn"]], config["decoder_block_out_channels"]
    squashed = b.unary("decoder", "Tanh", b.binary("decoder", "Div", x, b.full(_BOUND / scale)))
    x = b.binary("decoder", "Mul", squashed, b.full(_BOUND))
    x = activate(b, "decoder.layers.1", b.conv("decoder.layers.0", x, widths[0]))
    layer, factor = 2, config["upsampling_scaling_factor"]
    for level, blocks in enumerate(config["num_decoder_blocks"]):
        for _ in range(blocks):
            x, layer = _block(b, f"decoder.layers.{layer}", x, activate), layer + 1
        if level < len(widths) - 1:
            _, channels, height, width = shape_of(x)
            x = b.resize(f"decoder.layers.{layer}", x, factor * height, factor * width)
            x, layer = b.conv(f"decoder.layers.{layer + 1}", x, channels, scales=(1.0, None)), layer + 2
    # 2y - 1, of which the product has the two
    x = b.conv(f"decoder.layers.{layer}", x, config["out_channels"], scales=(2.0, 2.0))
    return b.binary("decoder", "Sub", x, b.full(1.0))


def encoder(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int) -> ir.Model:
    """sample float32 [batch, 3, scale*height, scale*width] in -1..1 -> latent_parameters [batch, 2c, height, width]:
    means, and log-variances that are none, for nothing is drawn here."""
    activate, widths, c = ACTIVATIONS[config["act_fn"]], config["encoder_block_out_channels"], config["latent_channels"]
    pixels, layer = _scale(config), 0
    x = b.input("sample", (batch, config["in_channels"], pixels * height, pixels * width))
    x = b.binary("encoder", "Add", x, b.full(1.0))  # (x + 1) / 2, of which the first product has the half
    for level, blocks in enumerate(config["num_encoder_blocks"]):
        if level:
            x = b.conv(f"encoder.layers.{layer}", x, widths[0], stride=2, pads=(1, 1, 1, 1), scales=(1.0, None))
        else:
            x = b.conv(f"encoder.layers.{layer}", x, widths[0], scales=(0.5, 1.0))
        layer += 1
        for _ in range(blocks):
            x, layer = _block(b, f"encoder.layers.{layer}", x, activate), layer + 1
    means = b.conv(f"encoder.layers.{layer}", x, c)
    shape = (batch, c, height, width)
    point = b.op("encoder", "Expand", [b.full(_POINT, 1, 1, 1, 1), b.ints(*shape)], shape)
    return b.finish(latent_parameters=b.concat("encoder", 1, means, point))


def _block(
    b: GraphBuilder, scope: str, x: ir.Value, activate: Callable[[GraphBuilder, str, ir.Value], ir.Value]
) -> ir.Value:
    """Three convolutions and what goes around them, and a ReLU whatever the activation is."""
    channels, y = shape_of(x)[1], x
    for at in (0, 2):
        y = activate(b, f"{scope}.conv.{at + 1}", b.conv(f"{scope}.conv.{at}", y, channels))
    return relu(b, f"{scope}.fuse", b.binary(scope, "Add", b.conv(f"{scope}.conv.4", y, channels), x))


def _scale(config: Config) -> int:
    return 1 << (len(config["num_encoder_blocks"]) - 1)


def _check(config: dict[str, Any], where: str) -> None:
    for half in ("encoder", "decoder"):
        widths, blocks = config[f"{half}_block_out_channels"], config[f"num_{half}_blocks"]
        if len(widths) != len(blocks):
            what = (
                f"config key {f'num_{half}_blocks'!r} has {len(blocks)} entries and {half}_block_out_channels has "
                f"{len(widths)}."
            )
            raise CheckpointError(what, where=where, fix=ITS_CONFIG)
        if len({*widths}) > 1:
            what = f"{half}_block_out_channels are not all the same (got {widths}); such a network has no such layers."
            raise CheckpointError(what, where=where, fix=ITS_CONFIG)
    grown = config["upsampling_scaling_factor"] ** (len(config["num_decoder_blocks"]) - 1)
    if grown != _scale(config):
        what = f"its encoder makes pictures {_scale(config)} times smaller, and its decoder {grown} times larger."
        raise CheckpointError(what, where=where, fix=ITS_CONFIG)
    config["block_out_channels"] = config["decoder_block_out_channels"]  # as diffusers adds it: of any autoencoder


# In a single file its names are those of diffusers, once converters/read/tiny_names.py has brought them to these.
LAYOUT = Layout(lambda name, config: Stored(name))
AUTOENCODER_TINY = Architecture(
    name="autoencoder_tiny",
    word="VAE",
    keys=_KEYS,
    graphs={"decoder": Graph(decoder), "encoder": Graph(encoder)},
    check=_check,
    classes=(CLASS,),
    scale=_scale,
)
FAST_DECODER = replace(
    AUTOENCODER_TINY,
    word="tiny autoencoder",
    keys=_KEYS | {SCALING: number(1.0, 1e-9), SHIFT: number(0.0, -1e6)},
    graphs={"fast_decoder": Graph(fast_decoder)},
    beyond=lambda name, config: name.startswith("encoder."),
)
"""Its decoder alone, beside another autoencoder whose latents it reads."""
