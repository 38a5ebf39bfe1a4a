"""The denoising network (diffusers' UNet2DConditionModel, the configurations that converters/configs.py lets through)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import attention, gelu, gemm, group_norm, layer_norm, linear, resnet, silu

TRANSFORMER_EPS = 1e-6  # of the GroupNorm before a transformer, whatever norm_eps says
LAYER_NORM_EPS = 1e-5


def unet(
    config: Mapping[str, Any], weights: Mapping[str, ir.TensorProtocol], *, batch: int, height: int, width: int, tokens: int
) -> ir.Model:
    """sample float32 [batch, c, height, width], timestep float32 [1], encoder_hidden_states [batch, tokens, d] -> out_sample, shaped as
    sample. One timestep serves the whole batch, as in guidance."""
    b = GraphBuilder("unet", weights)
    x = b.input("sample", (batch, config["in_channels"], height, width))
    timestep = b.input("timestep", (1,))
    text = b.input("encoder_hidden_states", (batch, tokens, config["cross_attention_dim"]))
    net = _UNet(b, config, silu(b, "time_embedding", _time_embedding(b, config, timestep)), text)
    x = b.conv("conv_in", x)
    skips = [x]
    for level, kind in enumerate(config["down_block_types"]):
        x = net.down(level, kind, x, skips)
    x = net.mid(x)
    for level, kind in enumerate(config["up_block_types"]):
        x = net.up(level, kind, x, skips)
    x = group_norm(b, "conv_norm_out", x, config["norm_num_groups"], config["norm_eps"])
    return b.finish(out_sample=b.conv("conv_out", silu(b, "conv_norm_out", x)))


def _time_embedding(b: GraphBuilder, config: Mapping[str, Any], timestep: ir.Value) -> ir.Value:
    """[1] -> [1, 4 * first width]: sines and cosines of geometric frequencies, then two linear layers."""
    width = config["block_out_channels"][0]
    half = width // 2
    # The exponent in float32, as diffusers' get_timestep_embedding has it; its exp rounded once, as torch's is (NumPy's float32 exp is
    # a bit off for a third of them). One bit of a frequency turns the angle of timestep 981 by 6e-5.
    exponent = np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half - config["freq_shift"])
    frequencies = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angles = b.op("time_proj", "Unsqueeze", [timestep, b.ints(1)], (1, 1))
    angles = b.binary("time_proj", "Mul", angles, b.constant("time_proj.frequencies", frequencies[np.newaxis]))
    parts = [b.unary("time_proj", "Sin", angles), b.unary("time_proj", "Cos", angles)]
    if config["flip_sin_to_cos"]:
        parts.reverse()
    if width % 2:
        parts.append(b.full(0.0, 1, 1))
    y = gemm(b, "time_embedding.linear_1", b.concat("time_proj", 1, *parts))
    return gemm(b, "time_embedding.linear_2", silu(b, "time_embedding", y))


class _UNet:
    """Blocks of one graph: what they share is the time embedding, the text and the config."""

    def __init__(self, b: GraphBuilder, config: Mapping[str, Any], time: ir.Value, text: ir.Value) -> None:
        self.b, self.config, self.time, self.text = b, config, time, text
        self.widths, self.layers = config["block_out_channels"], config["layers_per_block"]
        # attention_head_dim is the number of heads: a misnomer that diffusers keeps for old checkpoints.
        given = config["attention_head_dim"]
        self.heads = given if isinstance(given, list) else [given] * len(self.widths)

    def down(self, level: int, kind: str, x: ir.Value, skips: list[ir.Value]) -> ir.Value:
        scope = f"down_blocks.{level}"
        for layer in range(self.layers):
            x = self._resnet(f"{scope}.resnets.{layer}", x, self.widths[level])
            if kind == "CrossAttnDownBlock2D":
                x = self._transformer(f"{scope}.attentions.{layer}", x, self.heads[level])
            skips.append(x)
        if level < len(self.widths) - 1:
            x = self.b.conv(f"{scope}.downsamplers.0.conv", x, stride=2)
            skips.append(x)
        return x

    def mid(self, x: ir.Value) -> ir.Value:
        x = self._resnet("mid_block.resnets.0", x, self.widths[-1])
        x = self._transformer("mid_block.attentions.0", x, self.heads[-1])
        return self._resnet("mid_block.resnets.1", x, self.widths[-1])

    def up(self, level: int, kind: str, x: ir.Value, skips: list[ir.Value]) -> ir.Value:
        scope, from_end = f"up_blocks.{level}", len(self.widths) - 1 - level
        for layer in range(self.layers + 1):
            x = self.b.concat(f"{scope}.resnets.{layer}", 1, x, skips.pop())
            x = self._resnet(f"{scope}.resnets.{layer}", x, self.widths[from_end])
            if kind == "CrossAttnUpBlock2D":
                x = self._transformer(f"{scope}.attentions.{layer}", x, self.heads[from_end])
        if from_end:
            _, _, height, width = shape_of(skips[-1])  # the skip's size: an odd size was rounded up on the way down
            x = self.b.resize(f"{scope}.upsamplers.0", x, height, width)
            x = self.b.conv(f"{scope}.upsamplers.0.conv", x)
        return x

    def _resnet(self, scope: str, x: ir.Value, out: int) -> ir.Value:
        return resnet(self.b, scope, x, out, self.config["norm_num_groups"], self.config["norm_eps"], self.time)

    def _transformer(self, scope: str, x: ir.Value, heads: int) -> ir.Value:
        """GroupNorm, projection in, self-attention, cross-attention, GEGLU feed-forward, projection out, residual."""
        b, (n, channels, height, width) = self.b, shape_of(x)
        y = group_norm(b, f"{scope}.norm", x, self.config["norm_num_groups"], TRANSFORMER_EPS)
        as_linear = self.config["use_linear_projection"]
        if not as_linear:
            y = b.conv(f"{scope}.proj_in", y)
        y = b.reshape(scope, b.transpose(scope, y, 0, 2, 3, 1), n, height * width, channels)
        if as_linear:
            y = linear(b, f"{scope}.proj_in", y)
        block = f"{scope}.transformer_blocks.0"
        for norm, name, context in (("norm1", "attn1", None), ("norm2", "attn2", self.text)):
            normal = layer_norm(b, f"{block}.{norm}", y, LAYER_NORM_EPS)
            source, inner = normal if context is None else context, f"{block}.{name}"
            q, k, v = (linear(b, f"{inner}.to_{p}", normal if p == "q" else source, bias=False) for p in "qkv")
            mixed = linear(b, f"{inner}.to_out.0", attention(b, inner, q, k, v, heads))
            y = b.binary(block, "Add", mixed, y)
        normal = layer_norm(b, f"{block}.norm3", y, LAYER_NORM_EPS)
        y = b.binary(block, "Add", linear(b, f"{block}.ff.net.2", self._geglu(f"{block}.ff.net.0", normal)), y)
        if as_linear:
            y = linear(b, f"{scope}.proj_out", y)
        y = b.transpose(scope, b.reshape(scope, y, n, height, width, channels), 0, 3, 1, 2)
        if not as_linear:
            y = b.conv(f"{scope}.proj_out", y)
        return b.binary(scope, "Add", y, x)

    def _geglu(self, scope: str, x: ir.Value) -> ir.Value:
        """Value times GELU(gate), both from one linear layer."""
        wide = linear(self.b, f"{scope}.proj", x)
        shape = (*shape_of(wide)[:-1], shape_of(wide)[-1] // 2)
        value, gate = self.b.op(scope, "Split", [wide], shape, shape, axis=-1, num_outputs=2)
        return self.b.binary(scope, "Mul", value, gelu(self.b, scope, gate))
