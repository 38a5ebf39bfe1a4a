"""Layers over the frames of a clip. A row of a batch is a frame, clips one after another: [clips * frames, c, h, w].

Along time a frame's pixels are a row of a picture that is as high as there are frames, [clips, c, frames, h * w]: a
convolution over time is one of 3 by 1 there, and a norm sees all frames of a clip. With channels last both are the same
bytes, so that nothing is moved (ondevice/rewrite/channels_last.py). Attention over time takes the frames of a pixel for
tokens; the pixels' heads are then the heads of one row of [clips, frames, h * w * c], which are the same bytes, too.

Reference: "Stable Video Diffusion" (arXiv 2311.15127); diffusers' TemporalResnetBlock, SpatioTemporalResBlock.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import attention, gemm, group_norm, linear, silu

REACH = 3  # frames that a convolution over time sees


def along_time(b: GraphBuilder, scope: str, x: ir.Value, clips: int) -> ir.Value:
    """[clips * frames, c, h, w] -> [clips, c, frames, h * w]."""
    rows, channels, height, width = shape_of(x)
    return b.transpose(scope, b.reshape(scope, x, clips, rows // clips, channels, height * width), 0, 2, 1, 3)


def as_pictures(b: GraphBuilder, scope: str, x: ir.Value, height: int, width: int) -> ir.Value:
    """[clips, c, frames, h * w] -> [clips * frames, c, h, w]."""
    clips, channels, frames, _ = shape_of(x)
    return b.reshape(scope, b.transpose(scope, x, 0, 2, 1, 3), clips * frames, channels, height, width)


def conv_over_time(b: GraphBuilder, scope: str, x: ir.Value, out: int, scale: float = 1.0) -> ir.Value:
    """The convolution of [clips, c, frames, pixels] over three frames, zeros before the first and after the last;
    weight and bias times `scale`."""
    clips, channels, frames, pixels = shape_of(x)
    view = out, channels, REACH, 1
    weight = b.weight(f"{scope}.weight", out, channels, REACH, 1, 1, view=view, scale=scale)
    inputs = [x, weight, b.weight(f"{scope}.bias", out, scale=scale)]
    settings = {"pads": (1, 0, 1, 0), "strides": (1, 1), "kernel_shape": view[2:]}
    return b.op(scope, "Conv", inputs, (clips, out, frames, pixels), dilations=(1, 1), group=1, **settings)


def temporal_resnet(
    b: GraphBuilder,
    scope: str,
    x: ir.Value,
    clips: int,
    groups: int,
    epsilon: float,
    share: float,
    time: ir.Value | None = None,
) -> ir.Value:
    """What a resnet over time adds to x [clips * frames, c, h, w] that is already there, of which a blender keeps a
    `share`: the blend of x and x + y is x + share * y, so the last convolution's weights are that much smaller.

    Args:
        time: [clips, time width], SiLU applied, added between the convolutions.
    """
    _, channels, height, width = shape_of(x)
    v = along_time(b, scope, x, clips)
    y = silu(b, f"{scope}.norm1", group_norm(b, f"{scope}.norm1", v, groups, epsilon))
    y = conv_over_time(b, f"{scope}.conv1", y, channels)
    if time is not None:
        shift = gemm(b, f"{scope}.time_emb_proj", time, channels)
        shift = b.op(f"{scope}.time_emb_proj", "Unsqueeze", [shift, b.ints(2, 3)], (*shape_of(shift), 1, 1))
        y = b.binary(scope, "Add", y, shift)
    y = silu(b, f"{scope}.norm2", group_norm(b, f"{scope}.norm2", y, groups, epsilon))
    y = conv_over_time(b, f"{scope}.conv2", y, channels, share)
    return as_pictures(b, scope, b.binary(scope, "Add", v, y), height, width)


def attention_over_time(b: GraphBuilder, scope: str, x: ir.Value, clips: int, heads: int) -> ir.Value:
    """Each pixel's frames attend to each other: [clips * frames, pixels, c] -> the same, through the last layer."""
    rows, pixels, channels = shape_of(x)

    def projected(part: str) -> ir.Value:
        y = linear(b, f"{scope}.to_{part}", x, channels, bias=False)
        return b.reshape(scope, y, clips, rows // clips, pixels * channels)

    q, k, v = (projected(part) for part in "qkv")
    mixed = attention(b, scope, q, k, v, pixels * heads)
    return linear(b, f"{scope}.to_out.0", b.reshape(scope, mixed, rows, pixels, channels), channels)


def blended(b: GraphBuilder, scope: str) -> float:
    """The part that a learned blender gives to what it is named for: the sigmoid of its one weight."""
    return 1 / (1 + math.exp(-b.number(f"{scope}.mix_factor")))
