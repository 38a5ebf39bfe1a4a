"""Blocks of a UNet2DConditionModel: levels down, the middle, levels up, and the transformers in them."""

from __future__ import annotations

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import COLUMNS, ROWS, GraphBuilder, shape_of
from ondevice.converters.architectures.layers import attention, geglu, group_norm, layer_norm, linear, resnet
from ondevice.converters.architectures.unet_keys_values import Looks, of_states
from ondevice.converters.architectures.unet_levels import Level, levels

TRANSFORMER_EPS = 1e-6  # of the GroupNorm before a transformer, whatever norm_eps says
LAYER_NORM_EPS = 1e-5


class Blocks:
    """Blocks of one graph: what they share is the time embedding, the text's keys and values, and the config."""

    def __init__(self, b: GraphBuilder, config: Config, time: ir.Value, text: Looks) -> None:
        self.b, self.config, self.time, self.text = b, config, time, text
        self.levels = levels(config)

    def down(self, x: ir.Value, skips: list[ir.Value]) -> ir.Value:
        """All levels down; `skips` gets what each of their blocks and downsamplers gives."""
        for number, level in enumerate(self.levels.down):
            scope = f"down_blocks.{number}"
            for layer in range(len(level.depths)):
                x = self._resnet_and_transformer(scope, layer, x, level)
                skips.append(x)
            if number < len(self.levels.down) - 1:
                x = self.b.conv(f"{scope}.downsamplers.0.conv", x, level.width, stride=2)
                skips.append(x)
        return x

    def mid(self, x: ir.Value) -> ir.Value:
        """The middle, where there is one."""
        if (level := self.levels.mid) is not None:
            for layer in range(len(level.depths)):
                x = self._resnet_and_transformer("mid_block", layer, x, level)
        return x

    def up(self, x: ir.Value, skips: list[ir.Value]) -> ir.Value:
        """All levels up, each block with the last of `skips`, which is taken from them."""
        for number, level in enumerate(self.levels.up):
            scope = f"up_blocks.{number}"
            for layer in range(len(level.depths)):
                x = self.b.concat(f"{scope}.resnets.{layer}", 1, x, skips.pop())
                x = self._resnet_and_transformer(scope, layer, x, level)
            if number < len(self.levels.up) - 1:
                _, _, height, width = shape_of(skips[-1])  # the skip's size: an odd size was rounded up on the way down
                x = self.b.resize(f"{scope}.upsamplers.0", x, height, width)
                x = self.b.conv(f"{scope}.upsamplers.0.conv", x, level.width)
        return x

    def _resnet_and_transformer(self, scope: str, layer: int, x: ir.Value, level: Level) -> ir.Value:
        x = self._resnet(f"{scope}.resnets.{layer}", x, level.width)
        depth = level.depths[layer]
        return x if depth is None else self._transformer(f"{scope}.attentions.{layer}", x, depth, level)

    def _resnet(self, scope: str, x: ir.Value, out: int) -> ir.Value:
        return resnet(self.b, scope, x, out, self.config["norm_num_groups"], self.config["norm_eps"], self.time)

    def _transformer(self, scope: str, x: ir.Value, depth: int, level: Level) -> ir.Value:
        """GroupNorm, projection in, blocks, projection out, residual."""
        b, (n, channels, height, width) = self.b, shape_of(x)
        y = group_norm(b, f"{scope}.norm", x, self.config["norm_num_groups"], TRANSFORMER_EPS)
        as_linear = self.config["use_linear_projection"]
        if not as_linear:
            y = b.conv(f"{scope}.proj_in", y, channels, 1)
        y = b.reshape(scope, b.transpose(scope, y, 0, 2, 3, 1), n, height * width, channels)
        if as_linear:
            y = linear(b, f"{scope}.proj_in", y, channels)
        for index in range(depth):
            y = self._block(f"{scope}.transformer_blocks.{index}", y, level)
        if as_linear:
            y = linear(b, f"{scope}.proj_out", y, channels)
        y = b.transpose(scope, b.reshape(scope, y, n, height, width, channels), 0, 3, 1, 2)
        if not as_linear:
            y = b.conv(f"{scope}.proj_out", y, channels, 1)
        return b.binary(scope, "Add", y, x)

    def _block(self, scope: str, y: ir.Value, level: Level) -> ir.Value:
        """Self-attention (or a second look at the text), cross-attention, GEGLU feed-forward, each after a norm and
        with a residual: [n, pixels, channels]. Of several ranks each has its heads, and its share of what is between
        the linear layers."""
        b, channels = self.b, shape_of(y)[-1]
        for norm, name, crossed in (("norm1", "attn1", level.only_cross), ("norm2", "attn2", True)):
            normal, inner = layer_norm(b, f"{scope}.{norm}", y, LAYER_NORM_EPS), f"{scope}.{name}"
            q = linear(b, f"{inner}.to_q", normal, channels, bias=False, cut=COLUMNS)
            k, v = (self.text if crossed else of_states(b, normal))(inner, channels)
            mixed = attention(b, inner, q, k, v, level.heads // b.rank.of)
            y = self._added(scope, linear(b, f"{inner}.to_out.0", mixed, channels, cut=ROWS), y)
        normal = layer_norm(b, f"{scope}.norm3", y, LAYER_NORM_EPS)
        wide = geglu(b, f"{scope}.ff.net.0", normal)
        return self._added(scope, linear(b, f"{scope}.ff.net.2", wide, channels, cut=ROWS), y)

    def _added(self, scope: str, x: ir.Value, around: ir.Value) -> ir.Value:
        """What went through a layer and what went around it; of several ranks the first adds the latter."""
        return self.b.summed(scope, self.b.binary(scope, "Add", x, around) if self.b.first else x)
