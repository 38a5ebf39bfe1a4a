"""The denoising network (diffusers' UNet2DConditionModel): its config, graph, and names in the original layout.

The original layout numbers every block in one row (input_blocks.0 ... 11, middle_block, output_blocks.0 ... 11);
diffusers groups them by resolution (down_blocks.i.resnets.j). With L layers per level, down level i starts at
input_blocks.(1 + i * (L + 1)) and up level i at output_blocks.(i * (L + 1)). The rules restate diffusers'
convert_ldm_unet_checkpoint (loaders/single_file_utils.py).
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Architecture, Config, Graph, Layout, Stored
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.keys import (
    ITS_CONFIG,
    SILU,
    WIDEST,
    Key,
    count,
    count_or_counts,
    counts,
    divides,
    each,
    is_count,
    is_size,
    number,
    one_of_equals,
    only,
    per_level,
    refused,
    same_length,
    switch,
)
from ondevice.converters.architectures.layers import attention, gelu, gemm, group_norm, layer_norm, linear, resnet, silu
from ondevice.converters.architectures.unet_kinds import kind_of_config, kind_of_shapes
from ondevice.errors import CheckpointError

_TIME_IDS = 6  # numbers that say a picture's sizes
TRANSFORMER_EPS = 1e-6  # of the GroupNorm before a transformer, whatever norm_eps says
LAYER_NORM_EPS = 1e-5


_TEXT_TIME = "text_time"  # SDXL: the pooled text and the picture's sizes are added to the time embedding


def _optional_count() -> Key:
    return Key(None, lambda v: v is None or is_count(v), f"null, or a whole number from 1 to {WIDEST}", fix=ITS_CONFIG)


def _block_types(default: list[str], *values: str) -> Key:
    """Types of blocks, which diffusers takes under the names of its first versions, too (UNetResDownBlock2D)."""

    def plain(value: Any) -> Any:
        return (
            [x.removeprefix("UNetRes") if isinstance(x, str) else x for x in value]
            if isinstance(value, list)
            else value
        )

    return replace(each(default, *values), plain=plain)


_KEYS = {
    "sample_size": Key(
        None,
        is_size,
        "null, a whole number from 1, or two: [height, width]",
        fix="write the latents' height and width there, such as 64 for pictures of 512 pixels",
    ),
    "in_channels": count(4),
    "out_channels": count(4),
    "block_out_channels": counts([320, 640, 1280, 1280]),
    "down_block_types": _block_types(
        ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "CrossAttnDownBlock2D", "DownBlock2D"
    ),
    "mid_block_type": only("UNetMidBlock2DCrossAttn"),
    "up_block_types": _block_types(["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": per_level(count(2, 32)),
    "cross_attention_dim": per_level(count(1280)),
    "attention_head_dim": count_or_counts(8),
    "num_attention_heads": only(None),
    "transformer_layers_per_block": replace(count_or_counts(1, 32), plain=one_of_equals),
    "reverse_transformer_layers_per_block": only(None),
    "use_linear_projection": switch(False, True),
    "norm_num_groups": count(32),
    "norm_eps": number(1e-5),
    "act_fn": SILU,
    "flip_sin_to_cos": only(True, False),
    "freq_shift": Key(
        0,
        lambda v: type(v) is int and v in (0, 1),
        "0 or 1",
        lambda v: int(v) if type(v) is float and v in (0, 1) else v,
    ),
    "center_input_sample": switch(False),
    "only_cross_attention": per_level(only(False)),
    "dual_cross_attention": switch(False),
    "downsample_padding": only(1),
    "mid_block_scale_factor": only(1, 1.0),
    "encoder_hid_dim": only(None),
    "encoder_hid_dim_type": only(None),
    "class_embed_type": only(None),
    "num_class_embeds": only(None),
    "projection_class_embeddings_input_dim": _optional_count(),
    "addition_embed_type": only(None, _TEXT_TIME),
    "addition_time_embed_dim": _optional_count(),
    "resnet_time_scale_shift": only("default"),
    "time_embedding_type": only("positional"),
    "time_embedding_dim": Key(
        None, lambda v: v is None or is_count(v), "null, or 4 times the first of block_out_channels", fix=ITS_CONFIG
    ),
    "time_embedding_act_fn": only(None),
    "timestep_post_act": only(None),
    "time_cond_proj_dim": only(None),
    "conv_in_kernel": only(3),
    "conv_out_kernel": only(3),
    "attention_type": only("default"),
}


def noise(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int, tokens: int) -> ir.Model:
    """sample float32 [batch, c, height, width], timestep float32 [1], encoder_hidden_states [batch, tokens, d] ->
    out_sample, shaped as sample. One timestep serves the whole batch, as in guidance.

    Where the config has text_time there is also added [batch, 4 * first width], which `condition` makes.
    """
    x = b.input("sample", (batch, config["in_channels"], height, width))
    timestep = b.input("timestep", (1,))
    text = b.input("encoder_hidden_states", (batch, tokens, config["cross_attention_dim"]))
    time = _time_embedding(b, config, timestep)
    if _adds(config):
        time = b.binary("add_embedding", "Add", time, b.input("added", (batch, shape_of(time)[1])))
    net = _UNet(b, config, silu(b, "time_embedding", time), text)
    x = b.conv("conv_in", x, config["block_out_channels"][0])
    skips = [x]
    for level, kind in enumerate(config["down_block_types"]):
        x = net.down(level, kind, x, skips)
    x = net.mid(x)
    for level, kind in enumerate(config["up_block_types"]):
        x = net.up(level, kind, x, skips)
    x = group_norm(b, "conv_norm_out", x, config["norm_num_groups"], config["norm_eps"])
    return b.finish(out_sample=b.conv("conv_out", silu(b, "conv_norm_out", x), config["out_channels"]))


def condition(b: GraphBuilder, config: Config, *, batch: int, tokens: int, hidden: int, ids: int) -> ir.Model:
    """What two text encoders gave and the picture's sizes, as `noise` takes them; depends on no step.

    hidden float32 [batch, tokens, `hidden`], hidden_2 [batch, tokens, d - `hidden`], pooled [batch, p], time_ids
    float32 [batch, `ids`] (original height and width, top and left of the crop, height and width) -> context
    [batch, tokens, d], added [batch, 4 * first width].
    """
    each, time = config["addition_time_embed_dim"], 4 * config["block_out_channels"][0]
    first = b.input("hidden", (batch, tokens, hidden))
    second = b.input("hidden_2", (batch, tokens, config["cross_attention_dim"] - hidden))
    pooled = b.input("pooled", (batch, config["projection_class_embeddings_input_dim"] - ids * each))
    sizes = b.reshape("add_time_proj", b.input("time_ids", (batch, ids)), batch * ids, 1)
    sizes = b.reshape("add_time_proj", _waves(b, config, "add_time_proj", sizes, each), batch, ids * each)
    y = gemm(b, "add_embedding.linear_1", b.concat("add_embedding", 1, pooled, sizes), time)
    added = gemm(b, "add_embedding.linear_2", silu(b, "add_embedding", y), time)
    return b.finish(context=b.concat("context", 2, first, second), added=added)


def _adds(config: Config) -> bool:
    return bool(config["addition_embed_type"] == _TEXT_TIME)


def _time_embedding(b: GraphBuilder, config: Config, timestep: ir.Value) -> ir.Value:
    """[1] -> [1, 4 * first width]: sines and cosines of geometric frequencies, then two linear layers."""
    width = config["block_out_channels"][0]
    angles = b.op("time_proj", "Unsqueeze", [timestep, b.ints(1)], (1, 1))
    y = gemm(b, "time_embedding.linear_1", _waves(b, config, "time_proj", angles, width), 4 * width)
    return gemm(b, "time_embedding.linear_2", silu(b, "time_embedding", y), 4 * width)


def _waves(b: GraphBuilder, config: Config, scope: str, numbers: ir.Value, width: int) -> ir.Value:
    """[n, 1] -> [n, width]: sines and cosines of geometric frequencies."""
    half, (count_of, _) = width // 2, shape_of(numbers)
    # The exponent in float32, as diffusers' get_timestep_embedding has it; its exp rounded once, as torch's is (NumPy's
    # float32 exp is a bit off for a third of them). One bit of a frequency turns the angle of timestep 981 by 6e-5.
    exponent = (
        np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half - config["freq_shift"])
    )
    frequencies = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angles = b.binary(scope, "Mul", numbers, b.constant(f"{scope}.frequencies", frequencies[np.newaxis]))
    parts = [b.unary(scope, "Sin", angles), b.unary(scope, "Cos", angles)]
    if config["flip_sin_to_cos"]:
        parts.reverse()
    if width % 2:
        parts.append(b.full(0.0, count_of, 1))
    return b.concat(scope, 1, *parts)


class _UNet:
    """Blocks of one graph: what they share is the time embedding, the text and the config."""

    def __init__(self, b: GraphBuilder, config: Config, time: ir.Value, text: ir.Value) -> None:
        self.b, self.config, self.time, self.text = b, config, time, text
        self.widths, self.layers = config["block_out_channels"], config["layers_per_block"]
        # attention_head_dim is the number of heads: a misnomer that diffusers keeps for old checkpoints.
        given = config["attention_head_dim"]
        self.heads = given if isinstance(given, list) else [given] * len(self.widths)
        deep = config["transformer_layers_per_block"]
        self.depths = deep if isinstance(deep, list) else [deep] * len(self.widths)

    def down(self, level: int, kind: str, x: ir.Value, skips: list[ir.Value]) -> ir.Value:
        scope = f"down_blocks.{level}"
        for layer in range(self.layers):
            x = self._resnet(f"{scope}.resnets.{layer}", x, self.widths[level])
            if kind == "CrossAttnDownBlock2D":
                x = self._transformer(f"{scope}.attentions.{layer}", x, level)
            skips.append(x)
        if level < len(self.widths) - 1:
            x = self.b.conv(f"{scope}.downsamplers.0.conv", x, self.widths[level], stride=2)
            skips.append(x)
        return x

    def mid(self, x: ir.Value) -> ir.Value:
        x = self._resnet("mid_block.resnets.0", x, self.widths[-1])
        x = self._transformer("mid_block.attentions.0", x, -1)
        return self._resnet("mid_block.resnets.1", x, self.widths[-1])

    def up(self, level: int, kind: str, x: ir.Value, skips: list[ir.Value]) -> ir.Value:
        scope, from_end = f"up_blocks.{level}", len(self.widths) - 1 - level
        for layer in range(self.layers + 1):
            x = self.b.concat(f"{scope}.resnets.{layer}", 1, x, skips.pop())
            x = self._resnet(f"{scope}.resnets.{layer}", x, self.widths[from_end])
            if kind == "CrossAttnUpBlock2D":
                x = self._transformer(f"{scope}.attentions.{layer}", x, from_end)
        if from_end:
            _, _, height, width = shape_of(skips[-1])  # the skip's size: an odd size was rounded up on the way down
            x = self.b.resize(f"{scope}.upsamplers.0", x, height, width)
            x = self.b.conv(f"{scope}.upsamplers.0.conv", x, self.widths[from_end])
        return x

    def _resnet(self, scope: str, x: ir.Value, out: int) -> ir.Value:
        return resnet(self.b, scope, x, out, self.config["norm_num_groups"], self.config["norm_eps"], self.time)

    def _transformer(self, scope: str, x: ir.Value, level: int) -> ir.Value:
        """GroupNorm, projection in, blocks, projection out, residual."""
        b, (n, channels, height, width) = self.b, shape_of(x)
        y = group_norm(b, f"{scope}.norm", x, self.config["norm_num_groups"], TRANSFORMER_EPS)
        as_linear = self.config["use_linear_projection"]
        if not as_linear:
            y = b.conv(f"{scope}.proj_in", y, channels, 1)
        y = b.reshape(scope, b.transpose(scope, y, 0, 2, 3, 1), n, height * width, channels)
        if as_linear:
            y = linear(b, f"{scope}.proj_in", y, channels)
        for index in range(self.depths[level]):
            y = self._block(f"{scope}.transformer_blocks.{index}", y, self.heads[level])
        if as_linear:
            y = linear(b, f"{scope}.proj_out", y, channels)
        y = b.transpose(scope, b.reshape(scope, y, n, height, width, channels), 0, 3, 1, 2)
        if not as_linear:
            y = b.conv(f"{scope}.proj_out", y, channels, 1)
        return b.binary(scope, "Add", y, x)

    def _block(self, scope: str, y: ir.Value, heads: int) -> ir.Value:
        """Self-attention, cross-attention, GEGLU feed-forward, each after a norm and with a residual:
        [n, pixels, channels]."""
        b, channels = self.b, shape_of(y)[-1]
        for norm, name, context in (("norm1", "attn1", None), ("norm2", "attn2", self.text)):
            normal = layer_norm(b, f"{scope}.{norm}", y, LAYER_NORM_EPS)
            source, inner = normal if context is None else context, f"{scope}.{name}"
            q, k, v = (
                linear(b, f"{inner}.to_{p}", normal if p == "q" else source, channels, bias=False) for p in "qkv"
            )
            mixed = linear(b, f"{inner}.to_out.0", attention(b, inner, q, k, v, heads), channels)
            y = b.binary(scope, "Add", mixed, y)
        normal = layer_norm(b, f"{scope}.norm3", y, LAYER_NORM_EPS)
        return b.binary(
            scope, "Add", linear(b, f"{scope}.ff.net.2", self._geglu(f"{scope}.ff.net.0", normal), channels), y
        )

    def _geglu(self, scope: str, x: ir.Value) -> ir.Value:
        """Value times GELU(gate), both from one linear layer, each 4 times as wide as `x`."""
        shape = (*shape_of(x)[:-1], 4 * shape_of(x)[-1])
        wide = linear(self.b, f"{scope}.proj", x, 2 * shape[-1])
        value, gate = self.b.op(scope, "Split", [wide], shape, shape, axis=-1, num_outputs=2)
        return self.b.binary(scope, "Mul", value, gelu(self.b, scope, gate))


def _is_before(version: object, minor: int) -> bool:
    """Whether a version of diffusers is older than 0.`minor`."""
    parts = re.match(r"0\.(\d{1,6})(?!\d)", version) if isinstance(version, str) else None
    return parts is not None and int(parts[1]) < minor


def _check(config: dict[str, Any], where: str) -> None:
    heads, size, time = config["attention_head_dim"], config.get("sample_size"), config["time_embedding_dim"]
    if type(size) is int and size < 64 and _is_before(config.get("_diffusers_version"), 9):
        # as diffusers' pipeline does: version 0.8 and older saved their default of 32 with models of 64
        config["sample_size"] = 64
    if time not in (None, 4 * config["block_out_channels"][0]):
        raise refused("time_embedding_dim", time, _KEYS["time_embedding_dim"], where)
    lists = [name for name in ("attention_head_dim", "transformer_layers_per_block") if isinstance(config[name], list)]
    same_length(config, where, "down_block_types", "up_block_types", *lists)
    each, added = config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
    if _adds(config) and (
        each is None or added is None or added <= _TIME_IDS * each or each // 2 <= config["freq_shift"]
    ):
        what = (
            f"addition_time_embed_dim {each} and projection_class_embeddings_input_dim {added} "
            "leave no room for a text."
        )
        raise CheckpointError(what, where=where, fix=ITS_CONFIG)
    # half of the first width is the number of time frequencies
    if config["block_out_channels"][0] // 2 <= config["freq_shift"]:
        raise CheckpointError(
            "block_out_channels begins too narrow for the time embedding.", where=where, fix=ITS_CONFIG
        )
    for level, channels in enumerate(config["block_out_channels"]):
        divides("norm_num_groups", config["norm_num_groups"], "block_out_channels", channels, where)
        # attention_head_dim is the number of heads: a misnomer that diffusers keeps for old checkpoints.
        divides(
            "attention_head_dim",
            heads[level] if isinstance(heads, list) else heads,
            "block_out_channels",
            channels,
            where,
        )


_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _original(name: str, config: Config) -> str:
    head, _, leaf = name.rpartition(".")
    if head in _TOP:
        return f"{_TOP[head]}.{leaf}"
    side, rest = name.split(".", 1)
    if side == "mid_block":
        kind, index, inner = rest.split(".", 2)
        return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{_inner(kind, inner)}"
    level, kind, index, inner = rest.split(".", 3)
    i, j, layers = int(level), int(index), config["layers_per_block"]
    if kind == "downsamplers":
        return f"input_blocks.{(i + 1) * (layers + 1)}.0.{inner.replace('conv', 'op')}"
    if kind == "upsamplers":  # stands after the level's last resnet and, where there is one, its attention
        place = 1 + (config["up_block_types"][i] == "CrossAttnUpBlock2D")
        return f"output_blocks.{i * (layers + 1) + layers}.{place}.{inner}"
    block = (
        f"input_blocks.{1 + i * (layers + 1) + j}" if side == "down_blocks" else f"output_blocks.{i * (layers + 1) + j}"
    )
    return f"{block}.{0 if kind == 'resnets' else 1}.{_inner(kind, inner)}"


def _inner(kind: str, inner: str) -> str:
    part, _, leaf = inner.rpartition(".")
    return f"{_RESNET[part]}.{leaf}" if kind == "resnets" else inner


def _canonical(name: str) -> str:
    head, dot, leaf = name.rpartition(".to_out.")
    return f"{head}.to_out.0.{leaf}" if dot and leaf in ("weight", "bias") else name


LDM = Layout(lambda name, config: Stored(_original(name, config)))
UNET = Architecture(
    name="unet",
    word="UNet",
    keys=_KEYS,
    graphs={
        "noise": Graph(noise, sizes=("batch", "height", "width", "tokens")),
        "condition": Graph(condition, sizes=("batch", "tokens", "hidden", "ids"), fits=_adds),
    },
    check=_check,
    classes=("UNet2DConditionModel", "FlaxUNet2DConditionModel"),
    canonical=_canonical,
    kind=kind_of_config,
    kind_of_shapes=kind_of_shapes,
    first="conv_in.weight",
)
