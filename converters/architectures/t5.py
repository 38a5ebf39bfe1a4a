"""T5's encoder (transformers' T5EncoderModel with gated GELU, T5 1.1): token ids -> hidden states. No bias anywhere, no
mask: what pads a text is attended to, as Stable Diffusion 3 calls it.

Its residuals and what its gates let through go beyond half precision's largest number (transformers keeps `wo` in
float32 for it). So both are held smaller by a power of two, HELD: the table, `o` and `wi_1` times it, and the norms'
epsilon times its square; `wo` would be divided by it and multiplied by it. In exact arithmetic the states are the same,
as norms do not see the scale of what they read (vae_layers.py has the same of autoencoders).

Reference: "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (arXiv 1910.10683);
transformers' models/t5/modeling_t5.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Architecture, Config, Graph, Layout, Stored
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.keys import DEEPEST, ITS_CONFIG, REQUIRED, Key, count, number, only
from ondevice.converters.architectures.layers import attention, gelu_tanh, linear, rms_norm
from ondevice.errors import CheckpointError

HELD = 2.0**-6
TOKENS = "max_position_embeddings"
"""Ours, not transformers': of how many tokens a text is. T5 itself takes any."""
_LONGEST = 512  # tokens; the bias is [heads, tokens, tokens]
_KEYS = {
    "vocab_size": count(32128),
    "d_model": count(REQUIRED),
    "d_kv": count(64),
    "d_ff": count(REQUIRED),
    "num_layers": count(REQUIRED, DEEPEST),
    "num_heads": count(REQUIRED),
    "relative_attention_num_buckets": Key(
        32, lambda v: type(v) is int and 4 <= v <= 1024 and not v % 4, "a multiple of 4 from 4 to 1024", fix=ITS_CONFIG
    ),
    "relative_attention_max_distance": count(128),
    "layer_norm_epsilon": number(1e-6),
    "feed_forward_proj": only("gated-gelu"),
    TOKENS: count(256, _LONGEST),
}


def states(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """input_ids int32 [batch, tokens] -> last_hidden_state float32 [batch, tokens, width], after the final norm."""
    width, inner, heads = config["d_model"], config["num_heads"] * config["d_kv"], config["num_heads"]
    epsilon = config["layer_norm_epsilon"] * HELD**2
    ids = b.input("input_ids", (batch, config[TOKENS]), ir.DataType.INT32)
    table = b.weight("shared.weight", config["vocab_size"], width, scale=HELD)
    x = b.op("shared", "Gather", [table, ids], (*shape_of(ids), width), axis=0)
    bias = _bias(b, config)
    for layer in range(config["num_layers"]):
        scope = f"encoder.block.{layer}.layer"
        attends = f"{scope}.0.SelfAttention"
        y = rms_norm(b, f"{scope}.0.layer_norm", x, epsilon)
        q, k, v = (linear(b, f"{attends}.{part}", y, inner, bias=False) for part in "qkv")
        y = attention(b, attends, q, k, v, heads, bias, scaling=1.0)
        x = b.binary(f"{scope}.0", "Add", x, linear(b, f"{attends}.o", y, width, bias=False, scale=HELD))
        feeds = f"{scope}.1.DenseReluDense"
        y = rms_norm(b, f"{scope}.1.layer_norm", x, epsilon)
        gate = gelu_tanh(b, f"{feeds}.wi_0", linear(b, f"{feeds}.wi_0", y, config["d_ff"], bias=False))
        y = b.binary(feeds, "Mul", gate, linear(b, f"{feeds}.wi_1", y, config["d_ff"], bias=False, scale=HELD))
        x = b.binary(f"{scope}.1", "Add", x, linear(b, f"{feeds}.wo", y, width, bias=False))
    return b.finish(last_hidden_state=rms_norm(b, "encoder.final_layer_norm", x, epsilon))


def buckets(config: Config, distance: np.ndarray) -> np.ndarray:
    """int64: which row of the table of biases a key has that is so many places after the query (before it: negative).
    Near ones have one each, others one for a range that grows; transformers takes the logarithm in float32."""
    half = config["relative_attention_num_buckets"] // 2
    near = half // 2
    far = np.abs(distance)
    with np.errstate(divide="ignore"):
        logs = np.log(far.astype(np.float32) / np.float32(near), dtype=np.float32)
    scale = np.float32(np.log(config["relative_attention_max_distance"] / near))
    grown = near + (np.maximum(logs, 0) / scale * np.float32(half - near)).astype(np.int64)
    return np.where(distance > 0, half, 0) + np.where(far < near, far, np.minimum(grown, half - 1))


def _bias(b: GraphBuilder, config: Config) -> ir.Value:
    """[1, heads, tokens, tokens]: what every layer adds to its scores, by how far a key is from a query."""
    tokens, heads, scope = config[TOKENS], config["num_heads"], "relative_attention_bias"
    place = np.arange(tokens)
    rows = buckets(config, place[np.newaxis] - place[:, np.newaxis]).astype(np.int32)
    table = b.weight(
        f"encoder.block.0.layer.0.SelfAttention.{scope}.weight", config["relative_attention_num_buckets"], heads
    )
    chosen = b.op(scope, "Gather", [table, b.constant(f"{scope}.{tokens}", rows)], (tokens, tokens, heads), axis=0)
    return b.reshape(scope, b.transpose(scope, chosen, 2, 0, 1), 1, heads, tokens, tokens)


def _check(config: dict[str, Any], where: str) -> None:
    if config["relative_attention_max_distance"] <= config["relative_attention_num_buckets"] // 4:
        what = (
            f"relative_attention_max_distance {config['relative_attention_max_distance']} is within the buckets of one "
            f"place each ({config['relative_attention_num_buckets'] // 4})."
        )
        raise CheckpointError(what, where=where, fix=ITS_CONFIG)


T5 = Architecture(
    name="t5",
    word="T5 text encoder",
    keys=_KEYS,
    graphs={"states": Graph(states, sizes=("batch",))},
    check=_check,
    stems=("model", "pytorch_model"),
    tokenizer="t5_tokenizer",
)
PLAIN = Layout(lambda name, config: Stored(name))
