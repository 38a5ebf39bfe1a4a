"""What the autoencoder's graphs share, whole or in bands;
and how they are held smaller, so that half precision can store them.

SDXL's autoencoder makes values beyond half precision's largest, 65,504, in the sum that its resnets add to; diffusers
runs it in float32 (force_upcast). What reads that sum is a GroupNorm, which does not see the scale of its input, or
hands it on as it is. So the sum is held times s, a power of two: the weights and biases of whatever adds to it
(conv_in, conv2, to_out) times s, the biases of what it goes through (conv_shortcut, down- and upsamplers) times s, and
the epsilon of the norms that read it times s^2. All else stays, and in exact arithmetic the picture is the same.

s is 2^-6. That lets the sum go up to 4.2 million, 64 times what half precision has; how far the real weights go was not
measured. At the other end half precision has 11 bits down to 6.1e-5, so values of the sum from 0.004 up keep all of
theirs, and smaller ones are off by at most 1.9e-6: nothing beside values that go beyond 1, let alone 65,504. What conv1
makes is not scaled: it comes from a norm.
"""

from __future__ import annotations

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import attention, group_norm, linear, resnet, silu

HELD = 2.0**-6
VAE_EPS = 1e-6  # diffusers' AutoencoderKL passes it to every GroupNorm, whatever the config says


def middle(b: GraphBuilder, config: Config, latents: ir.Value, scale: float) -> ir.Value:
    """The decoder before its first up block: all of it that looks at the whole picture at once. Held times `scale`."""
    if config["use_post_quant_conv"]:
        latents = b.conv("post_quant_conv", latents, config["latent_channels"], 1)
    x = b.conv("decoder.conv_in", latents, config["block_out_channels"][-1], scales=(scale, scale))
    return mid_block(b, "decoder.mid_block", x, config["norm_num_groups"], scale)


def mid_block(b: GraphBuilder, scope: str, x: ir.Value, groups: int, scale: float) -> ir.Value:
    """Resnet, single-head attention over pixels, resnet."""
    channels = shape_of(x)[1]
    x = resnet(b, f"{scope}.resnets.0", x, channels, groups, VAE_EPS, scale=scale)
    x = mid_attention(b, f"{scope}.attentions.0", x, groups, scale)
    return resnet(b, f"{scope}.resnets.1", x, channels, groups, VAE_EPS, scale=scale)


def mid_attention(b: GraphBuilder, inner: str, x: ir.Value, groups: int, scale: float) -> ir.Value:
    """Single-head attention over pixels, with a norm before it and a residual."""
    n, channels, height, width = shape_of(x)
    pixels = b.reshape(inner, x, 0, channels, height * width)
    pixels = b.transpose(inner, group_norm(b, f"{inner}.group_norm", pixels, groups, VAE_EPS * scale**2), 0, 2, 1)
    q, k, v = (linear(b, f"{inner}.to_{part}", pixels, channels) for part in "qkv")
    y = linear(b, f"{inner}.to_out.0", attention(b, inner, q, k, v, heads=1), channels, scale=scale)
    y = b.reshape(inner, b.transpose(inner, y, 0, 2, 1), n, channels, height, width)
    return b.binary(inner, "Add", x, y)


def normal(b: GraphBuilder, scope: str, x: ir.Value, groups: int, scale: float = 1.0) -> ir.Value:
    """GroupNorm and SiLU, as before every convolution, of what is held times `scale`."""
    return silu(b, scope, group_norm(b, scope, x, groups, VAE_EPS * scale**2))


def upsampled(b: GraphBuilder, scope: str, x: ir.Value, scale: float) -> ir.Value:
    """Twice as high and wide, and a convolution; held times `scale`."""
    _, channels, rows, columns = shape_of(x)
    return b.conv(f"{scope}.conv", b.resize(scope, x, 2 * rows, 2 * columns), channels, scales=(1.0, scale))
