"""What the autoencoder's graphs share, whole or in bands."""

from __future__ import annotations

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import attention, group_norm, linear, resnet, silu

VAE_EPS = 1e-6  # diffusers' AutoencoderKL passes it to every GroupNorm, whatever the config says


def middle(b: GraphBuilder, config: Config, latents: ir.Value) -> ir.Value:
    """The decoder before its first up block: all of it that looks at the whole picture at once."""
    x = b.conv("post_quant_conv", latents, config["latent_channels"], 1)
    x = b.conv("decoder.conv_in", x, config["block_out_channels"][-1])
    return mid_block(b, "decoder.mid_block", x, config["norm_num_groups"])


def mid_block(b: GraphBuilder, scope: str, x: ir.Value, groups: int) -> ir.Value:
    """Resnet, single-head attention over pixels, resnet."""
    n, channels, height, width = shape_of(x)
    x = resnet(b, f"{scope}.resnets.0", x, channels, groups, VAE_EPS)
    inner = f"{scope}.attentions.0"
    pixels = b.reshape(inner, x, 0, channels, height * width)
    pixels = b.transpose(inner, group_norm(b, f"{inner}.group_norm", pixels, groups, VAE_EPS), 0, 2, 1)
    q, k, v = (linear(b, f"{inner}.to_{part}", pixels, channels) for part in "qkv")
    y = linear(b, f"{inner}.to_out.0", attention(b, inner, q, k, v, heads=1), channels)
    y = b.reshape(inner, b.transpose(inner, y, 0, 2, 1), n, channels, height, width)
    return resnet(b, f"{scope}.resnets.1", b.binary(inner, "Add", x, y), channels, groups, VAE_EPS)


def normal(b: GraphBuilder, scope: str, x: ir.Value, groups: int) -> ir.Value:
    """GroupNorm and SiLU, as before every convolution."""
    return silu(b, scope, group_norm(b, scope, x, groups, VAE_EPS))


def upsampled(b: GraphBuilder, scope: str, x: ir.Value) -> ir.Value:
    """Twice as high and wide, and a convolution."""
    _, channels, rows, columns = shape_of(x)
    return b.conv(f"{scope}.conv", b.resize(scope, x, 2 * rows, 2 * columns), channels)
