"""The denoising network (diffusers' UNet2DConditionModel): its graphs, over the blocks of unet_blocks.py."""

from __future__ import annotations

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Architecture, Config, Graph, Layout, Stored
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import gemm, group_norm, silu
from ondevice.converters.architectures.unet_blocks import Blocks
from ondevice.converters.architectures.unet_config import KEYS, adds_text_and_sizes, check
from ondevice.converters.architectures.unet_kinds import kind_of_config, kind_of_shapes
from ondevice.converters.architectures.unet_names import original_name
from ondevice.converters.architectures.unet_time import time_embedding, time_width, waves


def noise(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int, tokens: int) -> ir.Model:
    """sample float32 [batch, c, height, width], timestep float32 [1], encoder_hidden_states [batch, tokens, d] ->
    out_sample, shaped as sample. One timestep serves the whole batch, as in guidance.

    Where the config has text_time there is also added [batch, time width], which `condition` makes.
    """
    x = b.input("sample", (batch, config["in_channels"], height, width))
    timestep = b.input("timestep", (1,))
    text = b.input("encoder_hidden_states", (batch, tokens, config["cross_attention_dim"]))
    time = time_embedding(b, config, timestep)
    if adds_text_and_sizes(config):
        time = b.binary("add_embedding", "Add", time, b.input("added", (batch, shape_of(time)[1])))
    net = Blocks(b, config, silu(b, "time_embedding", time), text)
    x = b.conv("conv_in", x, config["block_out_channels"][0])
    skips = [x]
    x = net.up(net.mid(net.down(x, skips)), skips)
    x = group_norm(b, "conv_norm_out", x, config["norm_num_groups"], config["norm_eps"])
    return b.finish(out_sample=b.conv("conv_out", silu(b, "conv_norm_out", x), config["out_channels"]))


def condition(b: GraphBuilder, config: Config, *, batch: int, tokens: int, hidden: int, ids: int) -> ir.Model:
    """What two text encoders gave and the picture's sizes, as `noise` takes them; depends on no step.

    hidden float32 [batch, tokens, `hidden`], hidden_2 [batch, tokens, d - `hidden`], pooled [batch, p], time_ids
    float32 [batch, `ids`] (original height and width, top and left of the crop, height and width) -> context
    [batch, tokens, d], added [batch, time width].
    """
    each, time = config["addition_time_embed_dim"], time_width(config)
    first = b.input("hidden", (batch, tokens, hidden))
    second = b.input("hidden_2", (batch, tokens, config["cross_attention_dim"] - hidden))
    pooled = b.input("pooled", (batch, config["projection_class_embeddings_input_dim"] - ids * each))
    sizes = b.reshape("add_time_proj", b.input("time_ids", (batch, ids)), batch * ids, 1)
    sizes = b.reshape("add_time_proj", waves(b, config, "add_time_proj", sizes, each), batch, ids * each)
    y = gemm(b, "add_embedding.linear_1", b.concat("add_embedding", 1, pooled, sizes), time)
    added = gemm(b, "add_embedding.linear_2", silu(b, "add_embedding", y), time)
    return b.finish(context=b.concat("context", 2, first, second), added=added)


def _canonical(name: str) -> str:
    head, dot, leaf = name.rpartition(".to_out.")
    return f"{head}.to_out.0.{leaf}" if dot and leaf in ("weight", "bias") else name


LDM = Layout(lambda name, config: Stored(original_name(name, config)))
UNET = Architecture(
    name="unet",
    word="UNet",
    keys=KEYS,
    graphs={
        "noise": Graph(noise, sizes=("batch", "height", "width", "tokens")),
        "condition": Graph(condition, sizes=("batch", "tokens", "hidden", "ids"), fits=adds_text_and_sizes),
    },
    check=check,
    classes=("UNet2DConditionModel", "FlaxUNet2DConditionModel"),
    canonical=_canonical,
    kind=kind_of_config,
    kind_of_shapes=kind_of_shapes,
    first="conv_in.weight",
)
