"""CLIP's text encoder (transformers' CLIPTextModel and CLIPTextModelWithProjection):
token ids -> hidden states, and the pooled text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Architecture, Config, Graph, Layout, Stored
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.keys import DEEPEST, ITS_CONFIG, REQUIRED, Key, count, divides, number, only
from ondevice.converters.architectures.layers import attention, gelu, layer_norm, linear, quick_gelu
from ondevice.errors import CheckpointError

CLIP_SKIP = "clip_skip"  # ours, not transformers': how many of the last layers the states do not go through
ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}
_OLD_END, _APART = 2, 64.0  # transformers' mark of configs whose text ends at the largest id; between ranks of tokens
_LONGEST = 1024  # tokens of a text; the causal mask is a constant of the graph, of their square
# transformers writes a whole CLIP's config without what is the default of its text part.
_NESTED = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
_KEYS = {
    "vocab_size": count(49408),
    "hidden_size": count(REQUIRED),
    "intermediate_size": count(REQUIRED),
    "num_hidden_layers": count(REQUIRED, DEEPEST),
    "num_attention_heads": count(REQUIRED),
    "max_position_embeddings": count(77, _LONGEST),
    "hidden_act": only(*ACTIVATIONS),
    "layer_norm_eps": number(1e-5),
    CLIP_SKIP: Key(
        0, lambda v: type(v) is int and 0 <= v < DEEPEST, f"a whole number from 0 to {DEEPEST - 1}", fix=ITS_CONFIG
    ),
}


def last_state(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """input_ids int32 [batch, tokens] -> last_hidden_state float32 [batch, tokens, width],
    after the final layer norm."""
    x = layers(b, config, embedded(b, config, token_ids(b, config, batch)), 0, last_layer(config) + 1)
    return b.finish(last_hidden_state=layer_norm(b, "text_model.final_layer_norm", x, config["layer_norm_eps"]))


def penultimate(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """input_ids -> hidden float32 [batch, tokens, width], transformers' hidden_states[-2]:
    before the last layer, and no norm."""
    x = embedded(b, config, token_ids(b, config, batch))
    return b.finish(hidden=layers(b, config, x, 0, last_layer(config)))


def penultimate_and_pooled(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """input_ids -> hidden, as `penultimate`; and pooled float32 [batch, projection_dim], transformers' text_embeds: the
    projection of the token that ends the text, after the last layer and the final norm."""
    ids, last = token_ids(b, config, batch), last_layer(config)
    hidden = layers(b, config, embedded(b, config, ids), 0, last)
    whole = layers(b, config, hidden, last, config["num_hidden_layers"])
    return b.finish(hidden=hidden, pooled=projected(b, config, ids, whole))


def projected(b: GraphBuilder, config: Config, ids: ir.Value, states: ir.Value) -> ir.Value:
    """[batch, projection_dim]: of the states after the last layer that of the token that ends the text, through the
    final norm and the projection."""
    (batch, _), width = shape_of(ids), config["projection_dim"]
    end = b.matmul("pooled", where_it_ends(b, config, ids, config["eos_token_id"]), states)
    # of rows, so it can come after the choice
    end = layer_norm(b, "text_model.final_layer_norm", end, config["layer_norm_eps"])
    return b.reshape("pooled", linear(b, "text_projection", end, width, bias=False), batch, width)


def last_layer(config: Config) -> int:
    """The last layer that states may go through: layers after it are for the pooled text alone."""
    return int(config["num_hidden_layers"]) - 1 - int(config[CLIP_SKIP])


def where_it_ends(b: GraphBuilder, config: Config, ids: ir.Value, end: int) -> ir.Value:
    """[batch, 1, tokens]: 1 at the first of the largest ids, which ends a text (where the config's eos_token_id, `end`,
    is 2, as transformers takes it), or at the first id that is `end`; 0 elsewhere.

    A softmax of ranks that differ by _APART or more, all of them exact in float32: what it gives elsewhere
    is below 1e-27.
    """
    (batch, tokens), size = shape_of(ids), config["vocab_size"]
    ranks = np.arange(size) if end == _OLD_END else np.arange(size) == end
    table = b.constant(
        f"rank_of_token.{size}.{tokens}.{end}", (ranks.astype(np.float32) * (tokens * _APART))[:, np.newaxis]
    )
    rank = b.op("pooled", "Gather", [table, ids], (batch, tokens, 1), axis=0)
    places = b.constant(f"rank_of_place.{tokens}", -_APART * np.arange(tokens, dtype=np.float32).reshape(1, 1, tokens))
    rank = b.binary("pooled", "Add", b.reshape("pooled", rank, batch, 1, tokens), places)
    return b.op("pooled", "Softmax", [rank], shape_of(rank), axis=-1)


def ranks_are_exact(config: Config) -> bool:
    """Whether `where_it_ends` finds the end: its ranks are whole numbers of float32."""
    return bool(config["vocab_size"] * config["max_position_embeddings"] <= 1 << 24)


def token_ids(b: GraphBuilder, config: Config, batch: int) -> ir.Value:
    """The input input_ids, int32 [batch, tokens]."""
    return b.input("input_ids", (batch, config["max_position_embeddings"]), ir.DataType.INT32)


def embedded(b: GraphBuilder, config: Config, ids: ir.Value) -> ir.Value:
    """[batch, tokens, width]: what the first layer takes."""
    (batch, tokens), width, top = shape_of(ids), config["hidden_size"], "text_model.embeddings"
    table = b.weight(f"{top}.token_embedding.weight", config["vocab_size"], width)
    x = b.op(f"{top}.token_embedding", "Gather", [table, ids], (batch, tokens, width), axis=0)
    return b.binary(top, "Add", x, b.weight(f"{top}.position_embedding.weight", tokens, width, view=(1, tokens, width)))


def layers(b: GraphBuilder, config: Config, x: ir.Value, first: int, end: int) -> ir.Value:
    """The layers from `first` to before `end`.
    The mask is causal and has no padding part, as Stable Diffusion calls it."""
    (_, tokens, width), eps = shape_of(x), config["layer_norm_eps"]
    mask = b.constant(f"causal_mask.{tokens}", np.triu(np.full((1, 1, tokens, tokens), -np.inf, np.float32), 1))
    for layer in range(first, end):
        scope = f"text_model.encoder.layers.{layer}"
        y = layer_norm(b, f"{scope}.layer_norm1", x, eps)
        q, k, v = (linear(b, f"{scope}.self_attn.{part}_proj", y, width) for part in "qkv")
        y = attention(b, f"{scope}.self_attn", q, k, v, config["num_attention_heads"], mask)
        x = b.binary(scope, "Add", x, linear(b, f"{scope}.self_attn.out_proj", y, width))
        y = linear(b, f"{scope}.mlp.fc1", layer_norm(b, f"{scope}.layer_norm2", x, eps), config["intermediate_size"])
        y = ACTIVATIONS[config["hidden_act"]](b, f"{scope}.mlp", y)
        x = b.binary(scope, "Add", x, linear(b, f"{scope}.mlp.fc2", y, width))
    return x


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The text encoder's own keys where `config` is a whole CLIP's; else `config`."""
    # the second where the first is null, as early versions of transformers wrote it
    for name in ("text_config", "text_config_dict"):
        if isinstance(config.get(name), dict):
            return _NESTED | config[name]
    return config


def _check(config: dict[str, Any], where: str) -> None:
    if config[CLIP_SKIP] >= config["num_hidden_layers"]:
        what = (
            f"{CLIP_SKIP} is {config[CLIP_SKIP]} (expected less than num_hidden_layers {config['num_hidden_layers']})."
        )
        raise CheckpointError(what, where=where, fix=ITS_CONFIG)
    divides("num_attention_heads", config["num_attention_heads"], "hidden_size", config["hidden_size"], where)


def _check_pooled(config: dict[str, Any], where: str) -> None:
    _check(config, where)
    if not ranks_are_exact(config):
        what = (
            f"vocab_size {config['vocab_size']} times max_position_embeddings "
            f"{config['max_position_embeddings']} is over 2^24."
        )
        raise CheckpointError(what, where=where, fix=ITS_CONFIG)


def _canonical(name: str) -> str:
    # transformers 5 leaves the prefix out
    return f"text_model.{name}" if name.startswith(("embeddings.", "encoder.", "final_layer_norm.")) else name


def _beyond(name: str, config: Config) -> bool:
    """Whether it is of a layer that the config does not ask for: it may ask for fewer than there are (CLIP skip)."""
    match = re.match(r"text_model\.encoder\.layers\.(\d{1,6})\.", name)
    return match is not None and int(match[1]) >= config["num_hidden_layers"]


_OPENCLIP_TOP = {
    "text_model.embeddings.position_embedding.weight": Stored("positional_embedding"),
    "text_model.embeddings.token_embedding.weight": Stored("token_embedding.weight"),
    "text_model.final_layer_norm.weight": Stored("ln_final.weight"),
    "text_model.final_layer_norm.bias": Stored("ln_final.bias"),
    "text_projection.weight": Stored("text_projection", transposed=True),
}
OPENCLIP_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPENCLIP_LAYER |= {"self_attn.out_proj": "attn.out_proj"}
STACKED = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}


def _in_openclip(name: str, config: Config) -> Stored:
    """OpenCLIP stacks queries, keys and values in one tensor,
    whose parameters have names with a line instead of a dot."""
    if name in _OPENCLIP_TOP:
        return _OPENCLIP_TOP[name]
    layer, inner = name.removeprefix("text_model.encoder.layers.").split(".", 1)
    part, _, leaf = inner.rpartition(".")
    block = f"transformer.resblocks.{layer}"
    if part in STACKED:
        return Stored(f"{block}.attn.in_proj_{leaf}", STACKED[part], len(STACKED))
    return Stored(f"{block}.{OPENCLIP_LAYER[part]}.{leaf}")


def _openclip_spare(name: str, config: Config) -> bool:
    """Layers after the last that the config asks for, and what only comparing a text with pictures needs."""
    match = re.match(r"transformer\.resblocks\.(\d{1,6})\.", name)
    return int(match[1]) >= config["num_hidden_layers"] if match else name in ("text_projection", "logit_scale")


def _identity(name: str, config: Config) -> Callable[[], np.ndarray] | None:
    """A projection that a file leaves out changes nothing."""
    if name != "text_projection.weight" or config["projection_dim"] != config["hidden_size"]:
        return None
    return lambda: np.eye(config["projection_dim"], dtype=np.float32)


OPENAI = Layout(lambda name, config: Stored(name))
OPENAI_UNPROJECTED = Layout(OPENAI.place, absent=_identity)
"""As Stable Diffusion 3's single files have its first text encoder."""
OPENCLIP = Layout(_in_openclip, _openclip_spare)
CLIP_TEXT = Architecture(
    name="clip_text",
    word="text encoder",
    keys=_KEYS,
    graphs={"last_state": Graph(last_state, sizes=("batch",)), "penultimate": Graph(penultimate, sizes=("batch",))},
    check=_check,
    stems=("model", "pytorch_model"),
    unwrapped=_text_part,
    canonical=_canonical,
    beyond=_beyond,
)
CLIP_TEXT_POOLED = replace(
    CLIP_TEXT,
    name="clip_text_pooled",
    keys=_KEYS
    | {
        "projection_dim": count(512),
        "eos_token_id": Key(
            49407, lambda v: type(v) is int and 0 <= v < 1 << 20, "a whole number from 0 to 1048575", fix=ITS_CONFIG
        ),
    },
    graphs={"penultimate_and_pooled": Graph(penultimate_and_pooled, sizes=("batch",))},
    check=_check_pooled,
)
