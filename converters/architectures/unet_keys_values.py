"""What a UNet's attentions take of the text: its keys and values. They depend on no step, so that they can be computed
once per text, by a graph of their own, and not in each step; then they come by ports, one per transformer."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import COLUMNS, GraphBuilder, shape_of
from ondevice.converters.architectures.layers import linear
from ondevice.converters.architectures.unet_levels import transformers

STATES = "encoder_hidden_states"  # of a text: the port of a graph that makes keys and values itself
PORT = "keys_values_"  # and the number of its transformer, in the order of a picture's way
Looks = Callable[[str, int], tuple[ir.Value, ir.Value]]
"""Keys and values of the attention at a place with so many channels: each [n, tokens, channels]."""


def states(b: GraphBuilder, config: Config, batch: int, tokens: int) -> ir.Value:
    """The input [batch, tokens, d]: a text's states."""
    return b.input(STATES, (batch, tokens, config["cross_attention_dim"]))


def of_states(b: GraphBuilder, text: ir.Value) -> Looks:
    """Keys and values that are computed where they are read, of a text's states [n, tokens, d]."""

    def looks(scope: str, channels: int) -> tuple[ir.Value, ir.Value]:
        k, v = (linear(b, f"{scope}.to_{part}", text, channels, False, cut=COLUMNS) for part in "kv")
        return k, v

    return looks


def of_ports(b: GraphBuilder, config: Config, batch: int, tokens: int) -> Looks:
    """Keys and values that `keys_values` made: parts of inputs, where attention reads them. Of several ranks each reads
    those of its heads."""
    own, ranks = b.rank
    found: dict[str, tuple[ir.Value, ir.Value]] = {}
    for number, (scope, channels, looks) in enumerate(transformers(config)):
        count, part = 2 * len(looks) * ranks, (batch, tokens, channels // ranks)
        port = b.input(f"{PORT}{number}", (batch, tokens, 2 * len(looks) * channels))
        parts = b.op(scope, "Split", [port], *[part] * count, axis=-1, num_outputs=count)[own::ranks]
        found |= {f"{scope}.{look}": parts[2 * i : 2 * i + 2] for i, look in enumerate(looks)}
    return lambda scope, channels: found[scope]


def keys_values(b: GraphBuilder, config: Config, *, batch: int, tokens: int) -> ir.Model:
    """encoder_hidden_states float32 [batch, tokens, d] -> keys_values_0, keys_values_1, ... [batch, tokens, c]: of each
    transformer the keys and the values of its first attention to the text, those of its second, ..., side by side.

    A transformer's are one product, whose weights are joined when they are written.
    """
    text = states(b, config, batch, tokens)
    made = {}
    for number, (scope, channels, looks) in enumerate(transformers(config)):
        weights = [
            b.transposed(f"{scope}.{look}.to_{which}.weight", channels, shape_of(text)[-1])
            for look in looks
            for which in "kv"
        ]
        made[f"{PORT}{number}"] = b.matmul(scope, text, b.concat(scope, 1, *weights))
    return b.finish(**made)
