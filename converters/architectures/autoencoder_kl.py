"""The autoencoder (diffusers' AutoencoderKL): latents -> picture, and picture -> moments of the latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import VAE_EPS, attention, group_norm, linear, resnet, silu


def vae_decoder(config: Mapping[str, Any], weights: Mapping[str, ir.TensorProtocol], *, batch: int, height: int, width: int) -> ir.Model:
    """latent_sample float32 [batch, c, height, width], already divided by scaling_factor -> sample float32
    [batch, 3, scale*height, scale*width]."""
    b = GraphBuilder("vae_decoder", weights)
    widths, groups = config["block_out_channels"], config["norm_num_groups"]
    x = middle(b, config, b.input("latent_sample", (batch, config["latent_channels"], height, width)))
    for level, out in enumerate(reversed(widths)):
        scope = f"decoder.up_blocks.{level}"
        for layer in range(config["layers_per_block"] + 1):
            x = resnet(b, f"{scope}.resnets.{layer}", x, out, groups, VAE_EPS)
        if level < len(widths) - 1:
            _, _, rows, columns = shape_of(x)
            x = b.conv(f"{scope}.upsamplers.0.conv", b.resize(f"{scope}.upsamplers.0", x, 2 * rows, 2 * columns))
    return b.finish(sample=_out(b, "decoder", x, groups))


def middle(b: GraphBuilder, config: Mapping[str, Any], latents: ir.Value) -> ir.Value:
    """The decoder before its first up block: all of it that looks at the whole picture at once."""
    x = b.conv("decoder.conv_in", b.conv("post_quant_conv", latents))
    return _mid(b, "decoder.mid_block", x, config["norm_num_groups"])


def vae_encoder(config: Mapping[str, Any], weights: Mapping[str, ir.TensorProtocol], *, batch: int, height: int, width: int) -> ir.Model:
    """sample float32 [batch, 3, scale*height, scale*width] in -1..1 -> latent_parameters [batch, 2c, height, width]: means, then
    log-variances."""
    b = GraphBuilder("vae_encoder", weights)
    widths, groups = config["block_out_channels"], config["norm_num_groups"]
    scale = 2 ** (len(widths) - 1)
    x = b.input("sample", (batch, config["in_channels"], scale * height, scale * width))
    x = b.conv("encoder.conv_in", x)
    for level, out in enumerate(widths):
        scope = f"encoder.down_blocks.{level}"
        for layer in range(config["layers_per_block"]):
            x = resnet(b, f"{scope}.resnets.{layer}", x, out, groups, VAE_EPS)
        if level < len(widths) - 1:
            x = b.conv(f"{scope}.downsamplers.0.conv", x, stride=2, pads=(0, 0, 1, 1))  # diffusers pads below and right only
    x = _out(b, "encoder", _mid(b, "encoder.mid_block", x, groups), groups)
    return b.finish(latent_parameters=b.conv("quant_conv", x))


def _mid(b: GraphBuilder, scope: str, x: ir.Value, groups: int) -> ir.Value:
    """Resnet, single-head attention over pixels, resnet."""
    n, channels, height, width = shape_of(x)
    x = resnet(b, f"{scope}.resnets.0", x, channels, groups, VAE_EPS)
    inner = f"{scope}.attentions.0"
    pixels = b.reshape(inner, x, 0, channels, height * width)
    pixels = b.transpose(inner, group_norm(b, f"{inner}.group_norm", pixels, groups, VAE_EPS), 0, 2, 1)
    q, k, v = (linear(b, f"{inner}.to_{part}", pixels) for part in "qkv")
    y = linear(b, f"{inner}.to_out.0", attention(b, inner, q, k, v, heads=1))
    y = b.reshape(inner, b.transpose(inner, y, 0, 2, 1), n, channels, height, width)
    return resnet(b, f"{scope}.resnets.1", b.binary(inner, "Add", x, y), channels, groups, VAE_EPS)


def _out(b: GraphBuilder, half: str, x: ir.Value, groups: int) -> ir.Value:
    y = group_norm(b, f"{half}.conv_norm_out", x, groups, VAE_EPS)
    return b.conv(f"{half}.conv_out", silu(b, f"{half}.conv_norm_out", y))
