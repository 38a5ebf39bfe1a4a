"""CLIP's image encoder with its projection (transformers' CLIPVisionModelWithProjection):
a picture -> one vector, which stands where other networks have the states of a text.

Reference: "Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020); transformers'
models/clip/modeling_clip.py.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Architecture, Config, Graph, Layout, Stored
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.clip_text import ACTIVATIONS, OPENCLIP_LAYER, STACKED
from ondevice.converters.architectures.keys import DEEPEST, ITS_CONFIG, REQUIRED, count, divides, number, only
from ondevice.converters.architectures.layers import attention, layer_norm, linear
from ondevice.errors import CheckpointError

SIDE = 224  # pixels of the picture that a pipeline prepares for it
_KEYS = {
    "hidden_size": count(REQUIRED),
    "intermediate_size": count(REQUIRED),
    "num_hidden_layers": count(REQUIRED, DEEPEST),
    "num_attention_heads": count(REQUIRED),
    "projection_dim": count(512),
    "image_size": only(SIDE),
    "patch_size": count(32, SIDE),
    "num_channels": only(3),
    "hidden_act": only(*ACTIVATIONS),
    "layer_norm_eps": number(1e-5),
}
_TOP, _EMBEDDINGS = "vision_model", "vision_model.embeddings"


def embeds(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """pixel_values float32 [batch, 3, 224, 224] -> image_embeds [batch, 1, projection_dim]: of the class token after
    the last layer, through the final norm and the projection."""
    width, eps, patch = config["hidden_size"], config["layer_norm_eps"], config["patch_size"]
    pixels = b.input("pixel_values", (batch, config["num_channels"], SIDE, SIDE))
    x = b.conv(f"{_EMBEDDINGS}.patch_embedding", pixels, width, patch, stride=patch, pads=(0,) * 4, scales=(1.0, None))
    count_of = (SIDE // patch) ** 2
    x = b.transpose(_EMBEDDINGS, b.reshape(_EMBEDDINGS, x, 0, width, count_of), 0, 2, 1)
    token = b.weight(f"{_EMBEDDINGS}.class_embedding", width, view=(1, 1, width))
    if batch > 1:
        token = b.op(_EMBEDDINGS, "Expand", [token, b.ints(batch, 1, width)], (batch, 1, width))
    x = b.concat(_EMBEDDINGS, 1, token, x)
    places = b.weight(f"{_EMBEDDINGS}.position_embedding.weight", count_of + 1, width, view=(1, count_of + 1, width))
    x = layer_norm(b, f"{_TOP}.pre_layrnorm", b.binary(_EMBEDDINGS, "Add", x, places), eps)
    for layer in range(config["num_hidden_layers"]):
        x = _layer(b, config, f"{_TOP}.encoder.layers.{layer}", x)
    ends = [b.ints(0), b.ints(1), b.ints(1)]  # where the class token stands
    token = b.op(_TOP, "Slice", [x, *ends], (batch, 1, width))
    token = layer_norm(b, f"{_TOP}.post_layernorm", token, eps)
    return b.finish(image_embeds=linear(b, "visual_projection", token, config["projection_dim"], bias=False))


def _layer(b: GraphBuilder, config: Config, scope: str, x: ir.Value) -> ir.Value:
    """Attention of all tokens to all, and a feed-forward: [n, tokens, width]."""
    width, eps = shape_of(x)[-1], config["layer_norm_eps"]
    y = layer_norm(b, f"{scope}.layer_norm1", x, eps)
    q, k, v = (linear(b, f"{scope}.self_attn.{part}_proj", y, width) for part in "qkv")
    y = attention(b, f"{scope}.self_attn", q, k, v, config["num_attention_heads"])
    x = b.binary(scope, "Add", x, linear(b, f"{scope}.self_attn.out_proj", y, width))
    y = linear(b, f"{scope}.mlp.fc1", layer_norm(b, f"{scope}.layer_norm2", x, eps), config["intermediate_size"])
    y = ACTIVATIONS[config["hidden_act"]](b, f"{scope}.mlp", y)
    return b.binary(scope, "Add", x, linear(b, f"{scope}.mlp.fc2", y, width))


def _vision_part(config: dict[str, Any]) -> dict[str, Any]:
    """The image encoder's own keys where `config` is a whole CLIP's; else `config`."""
    nested = config.get("vision_config")
    return nested if isinstance(nested, dict) else config


def _check(config: dict[str, Any], where: str) -> None:
    divides("num_attention_heads", config["num_attention_heads"], "hidden_size", config["hidden_size"], where)
    if SIDE // config["patch_size"] * config["patch_size"] != SIDE:
        what = f"image_size {SIDE} is not a multiple of patch_size {config['patch_size']}."
        raise CheckpointError(what, where=where, fix=ITS_CONFIG)


_OPENCLIP = {
    f"{_EMBEDDINGS}.class_embedding": Stored("class_embedding"),
    f"{_EMBEDDINGS}.patch_embedding.weight": Stored("conv1.weight"),
    f"{_EMBEDDINGS}.position_embedding.weight": Stored("positional_embedding"),
    "visual_projection.weight": Stored("proj", transposed=True),
    **{f"{_TOP}.pre_layrnorm.{leaf}": Stored(f"ln_pre.{leaf}") for leaf in ("weight", "bias")},
    **{f"{_TOP}.post_layernorm.{leaf}": Stored(f"ln_post.{leaf}") for leaf in ("weight", "bias")},
}


def _in_openclip(name: str, config: Config) -> Stored:
    if name in _OPENCLIP:
        return _OPENCLIP[name]
    layer, inner = name.removeprefix(f"{_TOP}.encoder.layers.").split(".", 1)
    part, _, leaf = inner.rpartition(".")
    block = f"transformer.resblocks.{layer}"
    if part in STACKED:
        return Stored(f"{block}.attn.in_proj_{leaf}", STACKED[part], len(STACKED))
    return Stored(f"{block}.{OPENCLIP_LAYER[part]}.{leaf}")


OPENCLIP = Layout(_in_openclip)
CLIP_VISION = Architecture(
    name="clip_vision",
    word="image encoder",
    keys=_KEYS,
    graphs={"embeds": Graph(embeds, sizes=("batch",))},
    check=_check,
    stems=("model", "pytorch_model"),
    unwrapped=_vision_part,
)
