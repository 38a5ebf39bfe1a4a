"""CLIP's text encoder with the ports of transformers' CLIPTextModel and CLIPTextModelWithProjection, which other tools
look for.

Where a config leaves out last layers (CLIP skip), it is the text encoder without them: that is what is drawn with. A
projected text alone goes through all, as in diffusers.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config, Graph
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.clip_text import (
    CLIP_TEXT,
    CLIP_TEXT_POOLED,
    embedded,
    last_layer,
    layers,
    projected,
    ranks_are_exact,
    token_ids,
    where_it_ends,
)
from ondevice.converters.architectures.layers import layer_norm

_END = 49407  # transformers' eos_token_id where a config says none


def states(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """input_ids int32 [batch, tokens] -> last_hidden_state float32 [batch, tokens, width], after the final layer norm;
    pooler_output [batch, width], that of the token that ends the text (not of an encoder too large to find it);
    hidden_states_0 [batch, tokens, width], what the first layer takes, and hidden_states_N, what N layers make of it.
    """
    ids = token_ids(b, config, batch)
    hidden = _hidden(b, config, ids)
    last = _normalized(b, config, hidden)
    end, pooled = config.get("eos_token_id"), {}
    if ranks_are_exact(config):
        ends = where_it_ends(b, config, ids, end if type(end) is int and end >= 0 else _END)
        pooled["pooler_output"] = b.reshape("pooled", b.matmul("pooled", ends, last), batch, config["hidden_size"])
    return b.finish(last_hidden_state=last, **pooled, **_named(hidden))


def states_and_projection(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """input_ids -> text_embeds float32 [batch, projection_dim], last_hidden_state and hidden_states_N, as `states`."""
    ids = token_ids(b, config, batch)
    hidden = _hidden(b, config, ids)
    whole = layers(b, config, hidden[-1], last_layer(config) + 1, config["num_hidden_layers"])
    embeds = projected(b, config, ids, whole)
    return b.finish(text_embeds=embeds, last_hidden_state=_normalized(b, config, hidden), **_named(hidden))


def _hidden(b: GraphBuilder, config: Config, ids: ir.Value) -> list[ir.Value]:
    """What the first layer takes, and what each makes of it."""
    hidden = [embedded(b, config, ids)]
    for layer in range(last_layer(config) + 1):
        hidden.append(layers(b, config, hidden[-1], layer, layer + 1))
    return hidden


def _normalized(b: GraphBuilder, config: Config, hidden: list[ir.Value]) -> ir.Value:
    return layer_norm(b, "text_model.final_layer_norm", hidden[-1], config["layer_norm_eps"])


def _named(hidden: list[ir.Value]) -> dict[str, ir.Value]:
    return {f"hidden_states_{count}": value for count, value in enumerate(hidden)}


CLIP_TEXT_PUBLISHED = replace(CLIP_TEXT, graphs={"states": Graph(states, sizes=("batch",))})
CLIP_TEXT_POOLED_PUBLISHED = replace(
    CLIP_TEXT_POOLED, graphs={"states_and_projection": Graph(states_and_projection, sizes=("batch",))}
)
