"""The blocks of a MM-DiT: a picture's tokens and a text's, each with weights of their own, attend to all of both.

Reference: "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (arXiv 2403.03206), figure 2;
diffusers' JointTransformerBlock and JointAttnProcessor2_0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import COLUMNS, ROWS, GraphBuilder, shape_of
from ondevice.converters.architectures.layers import attention, gelu_tanh, linear, rms_norm
from ondevice.converters.architectures.mmdit_config import is_dual, is_last

EPSILON = 1e-6  # of all norms
_WIDER = 4  # times the tokens' channels, within a feed-forward


def modulated(b: GraphBuilder, scope: str, x: ir.Value, shift: ir.Value, scale: ir.Value) -> ir.Value:
    """The layer norm of x [n, tokens, c] without weights, times 1 + scale, plus shift [n, 1, c]."""
    width = shape_of(x)[-1]
    inputs = [x, b.full(1.0, width), b.full(0.0, width)]
    normal = b.op(scope, "LayerNormalization", inputs, shape_of(x), axis=-1, epsilon=EPSILON)
    return b.binary(scope, "Add", b.binary(scope, "Mul", normal, b.binary(scope, "Add", scale, b.full(1.0))), shift)


def added(b: GraphBuilder, scope: str, x: ir.Value | None, gate: ir.Value, y: ir.Value) -> ir.Value:
    """x + gate * y, with a gate [n, 1, c]; without x the rest."""
    part = b.binary(scope, "Mul", gate, y)
    return part if x is None else b.binary(scope, "Add", x, part)


def gated(b: GraphBuilder, scope: str, x: ir.Value, gate: ir.Value, y: ir.Value) -> ir.Value:
    """x + gate * y; of several ranks each has a part of y, and the first adds x."""
    return b.summed(scope, added(b, scope, x if b.first else None, gate, y))


@dataclass(frozen=True, slots=True)
class Blocks:
    """All of them. `mask` is added to the scores of joint attention."""

    b: GraphBuilder
    config: Config
    mask: ir.Value | None

    def __call__(
        self, block: int, x: ir.Value, e: ir.Value, of_x: Sequence[ir.Value], of_e: Sequence[ir.Value]
    ) -> tuple[ir.Value, ir.Value]:
        """The picture's tokens x and the text's e after a block.

        Args:
            of_x, of_e: what modulates them, [n, 1, c] each, in the order of the weights' rows.
        """
        b, scope, last = self.b, f"transformer_blocks.{block}", is_last(self.config, block)
        shift, scale, gate, shift2, scale2, gate2, *dual = of_x
        before = modulated(b, f"{scope}.norm1", x, shift, scale)
        shift_e, scale_e = of_e[::-1] if last else of_e[:2]  # the last block's has the scale first
        mixed = self._joint(f"{scope}.attn", before, modulated(b, f"{scope}.norm1_context", e, shift_e, scale_e))
        to_x, to_e = self._parts(scope, mixed, shape_of(x)[1])
        y = linear(b, f"{scope}.attn.to_out.0", to_x, shape_of(x)[-1], cut=ROWS)
        y = added(b, scope, x if b.first else None, gate, y)
        if is_dual(self.config, block):
            own = self._alone(f"{scope}.attn2", modulated(b, f"{scope}.norm1", x, dual[0], dual[1]))
            y = added(b, scope, y, dual[2], own)  # one sum for both
        y = b.summed(scope, y)
        x = gated(b, scope, y, gate2, self._feed(f"{scope}.ff", modulated(b, f"{scope}.norm2", y, shift2, scale2)))
        if last:
            return x, e
        _, _, gate, shift2, scale2, gate2 = of_e
        e = gated(b, scope, e, gate, linear(b, f"{scope}.attn.to_add_out", to_e, shape_of(e)[-1], cut=ROWS))
        y = self._feed(f"{scope}.ff_context", modulated(b, f"{scope}.norm2_context", e, shift2, scale2))
        return x, gated(b, scope, e, gate2, y)

    def _joint(self, scope: str, x: ir.Value, e: ir.Value) -> ir.Value:
        """Attention over all tokens, the picture's first."""
        b, width = self.b, shape_of(x)[-1]
        rows = []
        for part in "qkv":
            of_x = self._normed(f"{scope}.norm_{part}", self._heads(f"{scope}.to_{part}", x, width))
            of_e = self._normed(f"{scope}.norm_added_{part}", self._heads(f"{scope}.add_{part}_proj", e, width))
            rows.append(b.concat(scope, 1, of_x, of_e))
        return attention(b, scope, rows[0], rows[1], rows[2], self._own, self.mask)

    @property
    def _own(self) -> int:
        """How many heads there are; of several ranks, how many each has."""
        return int(self.config["num_attention_heads"]) // self.b.rank.of

    def _heads(self, scope: str, x: ir.Value, width: int) -> ir.Value:
        return linear(self.b, scope, x, width, cut=COLUMNS)

    def _alone(self, scope: str, x: ir.Value) -> ir.Value:
        """Attention of a picture to itself."""
        b, width = self.b, shape_of(x)[-1]
        q, k, v = (self._normed(f"{scope}.norm_{p}", self._heads(f"{scope}.to_{p}", x, width)) for p in "qkv")
        mixed = attention(b, scope, q, k, v, self._own)
        return linear(b, f"{scope}.to_out.0", mixed, width, cut=ROWS)

    def _normed(self, scope: str, x: ir.Value) -> ir.Value:
        """Queries or keys, each head's by itself, where the model has such norms."""
        if self.config["qk_norm"] is None or scope.endswith("_v"):
            return x
        heads, width = self._own, self.config["attention_head_dim"]
        apart = self.b.reshape(scope, x, 0, -1, heads, width)
        return self.b.reshape(scope, rms_norm(self.b, scope, apart, EPSILON), *shape_of(x))

    def _parts(self, scope: str, x: ir.Value, first: int) -> tuple[ir.Value, ir.Value]:
        """The first tokens, and the rest."""
        n, tokens, width = shape_of(x)
        cut = [
            self.b.op(
                f"{scope}.attn",
                "Slice",
                [x, self.b.ints(start), self.b.ints(end), self.b.ints(1)],
                (n, end - start, width),
            )
            for start, end in ((0, first), (first, tokens))
        ]
        return cut[0], cut[1]

    def _feed(self, scope: str, x: ir.Value) -> ir.Value:
        width = shape_of(x)[-1]
        wide = linear(self.b, f"{scope}.net.0.proj", x, _WIDER * width, cut=COLUMNS)
        return linear(self.b, f"{scope}.net.2", gelu_tanh(self.b, f"{scope}.net.0", wide), width, cut=ROWS)
