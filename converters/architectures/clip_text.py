"""CLIP's text encoder (transformers' CLIPTextModel): token ids -> hidden states after the final layer norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.layers import attention, gelu, layer_norm, linear, quick_gelu

ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}


def text_encoder(config: Mapping[str, Any], weights: Mapping[str, ir.TensorProtocol], *, batch: int) -> ir.Model:
    """input_ids int32 [batch, tokens] -> last_hidden_state float32 [batch, tokens, width]; tokens = max_position_embeddings.

    The mask is causal and has no padding part, as Stable Diffusion calls it.
    """
    b = GraphBuilder("text_encoder", weights)
    tokens, width, eps = config["max_position_embeddings"], config["hidden_size"], config["layer_norm_eps"]
    top = "text_model.embeddings"
    ids = b.input("input_ids", (batch, tokens), ir.DataType.INT32)
    table = b.weight(f"{top}.token_embedding.weight")
    x = b.op(f"{top}.token_embedding", "Gather", [table, ids], (batch, tokens, width), axis=0)
    x = b.binary(top, "Add", x, b.weight(f"{top}.position_embedding.weight", (1, tokens, width)))
    mask = b.constant(f"causal_mask.{tokens}", np.triu(np.full((1, 1, tokens, tokens), -np.inf, np.float32), 1))
    for layer in range(config["num_hidden_layers"]):
        scope = f"text_model.encoder.layers.{layer}"
        y = layer_norm(b, f"{scope}.layer_norm1", x, eps)
        q, k, v = (linear(b, f"{scope}.self_attn.{part}_proj", y) for part in "qkv")
        y = attention(b, f"{scope}.self_attn", q, k, v, config["num_attention_heads"], mask)
        x = b.binary(scope, "Add", x, linear(b, f"{scope}.self_attn.out_proj", y))
        y = linear(b, f"{scope}.mlp.fc1", layer_norm(b, f"{scope}.layer_norm2", x, eps))
        y = ACTIVATIONS[config["hidden_act"]](b, f"{scope}.mlp", y)
        x = b.binary(scope, "Add", x, linear(b, f"{scope}.mlp.fc2", y))
    return b.finish(last_hidden_state=layer_norm(b, "text_model.final_layer_norm", x, eps))
