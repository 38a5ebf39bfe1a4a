"""Blocks of a spatio-temporal UNet: each of those of a UNet of pictures, and after it one of the same kind over time;
a blender that was trained keeps a part of both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.frames import attention_over_time, blended, temporal_resnet
from ondevice.converters.architectures.layers import attention, geglu, group_norm, layer_norm, linear, resnet
from ondevice.converters.architectures.unet_blocks import LAYER_NORM_EPS, TRANSFORMER_EPS
from ondevice.converters.architectures.unet_levels import Level
from ondevice.converters.architectures.unet_temporal_config import GROUPS, levels_of
from ondevice.converters.architectures.unet_time import frequencies

_DOWN_EPS, _EPS = 1e-6, 1e-5  # of norms in resnets before transformers and on the way up; of all others
Look = Callable[[str, int], ir.Value]
"""What the attention to the picture at a place with so many channels adds to every token: [clips, 1, channels]."""


class Blocks:
    """Blocks of one graph. `time` is [clips, time width], SiLU applied."""

    def __init__(self, b: GraphBuilder, config: Config, clips: int, time: ir.Value, look: Look) -> None:
        self.b, self.config, self.clips, self.time, self.look = b, config, clips, time, look
        self.levels = levels_of(config)

    def down(self, x: ir.Value, skips: list[ir.Value]) -> ir.Value:
        """All levels down; `skips` gets what each of their blocks and downsamplers gives."""
        for number, level in enumerate(self.levels.down):
            scope = f"down_blocks.{number}"
            for layer, depth in enumerate(level.depths):
                x = self._block(scope, layer, x, level, _EPS if depth is None else _DOWN_EPS)
                skips.append(x)
            if number < len(self.levels.down) - 1:
                x = self.b.conv(f"{scope}.downsamplers.0.conv", x, level.width, stride=2)
                skips.append(x)
        return x

    def mid(self, x: ir.Value) -> ir.Value:
        level = self.levels.mid
        assert level is not None, "every config has a middle"
        for layer in range(len(level.depths)):
            x = self._block("mid_block", layer, x, level, _EPS)
        return x

    def up(self, x: ir.Value, skips: list[ir.Value]) -> ir.Value:
        """All levels up, each block with the last of `skips`, which is taken from them."""
        for number, level in enumerate(self.levels.up):
            scope = f"up_blocks.{number}"
            for layer in range(len(level.depths)):
                x = self.b.concat(f"{scope}.resnets.{layer}", 1, x, skips.pop())
                x = self._block(scope, layer, x, level, _DOWN_EPS)
            if number < len(self.levels.up) - 1:
                _, _, height, width = shape_of(skips[-1])  # the skip's size: an odd one was rounded up on the way down
                x = self.b.resize(f"{scope}.upsamplers.0", x, height, width)
                x = self.b.conv(f"{scope}.upsamplers.0.conv", x, level.width)
        return x

    def _block(self, scope: str, layer: int, x: ir.Value, level: Level, epsilon: float) -> ir.Value:
        b, place = self.b, f"{scope}.resnets.{layer}"
        x = resnet(b, f"{place}.spatial_res_block", x, level.width, GROUPS, epsilon, self.time)
        temporal, kept = f"{place}.temporal_res_block", blended(b, f"{place}.time_mixer")
        x = temporal_resnet(b, temporal, x, self.clips, GROUPS, epsilon, 1 - kept, self.time)
        return x if level.depths[layer] is None else self._transformer(f"{scope}.attentions.{layer}", x, level.heads)

    def _transformer(self, scope: str, x: ir.Value, heads: int) -> ir.Value:
        """A block over each frame's pixels, one over each pixel's frames, and their blend; a norm and a projection
        before, a projection after, and a residual."""
        b, (rows, channels, height, width) = self.b, shape_of(x)
        y = group_norm(b, f"{scope}.norm", x, GROUPS, TRANSFORMER_EPS)
        y = b.reshape(scope, b.transpose(scope, y, 0, 2, 3, 1), rows, height * width, channels)
        y = self._spatial(f"{scope}.transformer_blocks.0", linear(b, f"{scope}.proj_in", y, channels), heads)
        z = self._temporal(f"{scope}.temporal_transformer_blocks.0", self._placed(scope, y), heads)
        kept = blended(b, f"{scope}.time_mixer")
        # kept * y + (1 - kept) * z is the larger part times (one of them + a part, at most 1, of the other)
        more, less, large = (y, z, kept) if kept > 0.5 else (z, y, 1 - kept)
        clips, tokens = self.clips, rows // self.clips * height * width
        more, less = (b.reshape(scope, value, clips, tokens, channels) for value in (more, less))
        gate = b.full((1 - large) / large, clips, 1, channels)
        mixed = b.reshape(scope, b.binary(scope, "Add", more, b.binary(scope, "Mul", gate, less)), *shape_of(y))
        y = linear(b, f"{scope}.proj_out", mixed, channels, scales=(large, 1.0))
        return b.binary(
            scope, "Add", b.transpose(scope, b.reshape(scope, y, rows, height, width, channels), 0, 3, 1, 2), x
        )

    def _spatial(self, scope: str, y: ir.Value, heads: int) -> ir.Value:
        """Self-attention, the picture's part, feed-forward: [rows, pixels, channels]."""
        b, channels = self.b, shape_of(y)[-1]
        normal = layer_norm(b, f"{scope}.norm1", y, LAYER_NORM_EPS)
        q, k, v = (linear(b, f"{scope}.attn1.to_{part}", normal, channels, bias=False) for part in "qkv")
        mixed = attention(b, f"{scope}.attn1", q, k, v, heads)
        y = b.binary(scope, "Add", linear(b, f"{scope}.attn1.to_out.0", mixed, channels), y)
        y = self._looked(f"{scope}.attn2", y)
        return self._feed(f"{scope}.ff", f"{scope}.norm3", y)

    def _temporal(self, scope: str, z: ir.Value, heads: int) -> ir.Value:
        """Feed-forward, self-attention over time, the picture's part, feed-forward."""
        b = self.b
        z = self._feed(f"{scope}.ff_in", f"{scope}.norm_in", z)
        normal = layer_norm(b, f"{scope}.norm1", z, LAYER_NORM_EPS)
        z = b.binary(scope, "Add", attention_over_time(b, f"{scope}.attn1", normal, self.clips, heads), z)
        return self._feed(f"{scope}.ff", f"{scope}.norm3", self._looked(f"{scope}.attn2", z))

    def _looked(self, scope: str, y: ir.Value) -> ir.Value:
        """Attention to the picture, which is one token: every query gives it all its weight."""
        b, (rows, pixels, channels) = self.b, shape_of(y)
        wide = b.reshape(scope, y, self.clips, rows // self.clips * pixels, channels)
        return b.reshape(scope, b.binary(scope, "Add", wide, self.look(scope, channels)), rows, pixels, channels)

    def _placed(self, scope: str, y: ir.Value) -> ir.Value:
        """Tokens that know which frame they are of. The codes of frames are constants."""
        b, (rows, pixels, channels) = self.b, shape_of(y)
        frames, inner = rows // self.clips, f"{scope}.time_pos_embed"
        sources = {
            f"{inner}.linear_1.weight": (4 * channels, channels),
            f"{inner}.linear_1.bias": (4 * channels,),
            f"{inner}.linear_2.weight": (channels, 4 * channels),
            f"{inner}.linear_2.bias": (channels,),
        }
        shape = 1, frames, 1, channels
        codes = b.computed(f"{inner}.{frames}", shape, sources, lambda *w: frame_codes(frames, *w).reshape(shape))
        apart = b.binary(scope, "Add", b.reshape(scope, y, self.clips, frames, pixels, channels), codes)
        return b.reshape(scope, apart, rows, pixels, channels)

    def _feed(self, scope: str, norm: str, y: ir.Value) -> ir.Value:
        """GEGLU feed-forward after a norm, with a residual."""
        b, channels = self.b, shape_of(y)[-1]
        wide = geglu(b, f"{scope}.net.0", layer_norm(b, norm, y, LAYER_NORM_EPS))
        return b.binary(scope, "Add", linear(b, f"{scope}.net.2", wide, channels), y)


def frame_codes(
    frames: int, first: np.ndarray, first_bias: np.ndarray, second: np.ndarray, second_bias: np.ndarray
) -> np.ndarray:
    """float64 [frames, c]: cosines and sines of a frame's number, through two linear layers [4c, c] and [c, 4c]."""
    width = first.shape[1]
    angles = np.arange(frames, dtype=np.float32)[:, np.newaxis] * frequencies(width // 2)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    x = waves.astype(np.float64) @ first.T.astype(np.float64) + first_bias
    return np.asarray(x / (1 + np.exp(-x)) @ second.T.astype(np.float64) + second_bias)
