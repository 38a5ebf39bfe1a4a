"""Which weights a component has, and their shapes, computed from its config.

The order is diffusers' (and so the order of the files on disk within a block); names are the on-disk names of
diffusers 0.42 and transformers 4, whose text encoder keeps the `text_model.` prefix that transformers 5 drops in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Shape = tuple[int, ...]
Item = tuple[str, Shape]


def expected_weights(component: str, config: dict[str, Any]) -> dict[str, Shape]:
    """{name: shape} of `component` ("text_encoder", "unet" or "vae") for a config that `configs.normalize` returned."""
    return dict({"text_encoder": _text_encoder, "unet": _unet, "vae": _vae}[component](config))


def _affine(name: str, *shape: int) -> Iterator[Item]:
    """A weight of `shape` and a bias of its first dimension: Linear [out, in], Conv [out, in, k, k], norms [channels]."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _text_encoder(config: dict[str, Any]) -> Iterator[Item]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    yield "text_model.embeddings.token_embedding.weight", (config["vocab_size"], width)
    yield "text_model.embeddings.position_embedding.weight", (config["max_position_embeddings"], width)
    for i in range(config["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _affine(f"{layer}.self_attn.{part}", width, width)
        yield from _affine(f"{layer}.layer_norm1", width)
        yield from _affine(f"{layer}.mlp.fc1", inner, width)
        yield from _affine(f"{layer}.mlp.fc2", width, inner)
        yield from _affine(f"{layer}.layer_norm2", width)
    yield from _affine("text_model.final_layer_norm", width)


def _resnet(name: str, in_channels: int, out_channels: int, time_width: int | None = None) -> Iterator[Item]:
    yield from _affine(f"{name}.norm1", in_channels)
    yield from _affine(f"{name}.conv1", out_channels, in_channels, 3, 3)
    if time_width is not None:
        yield from _affine(f"{name}.time_emb_proj", out_channels, time_width)
    yield from _affine(f"{name}.norm2", out_channels)
    yield from _affine(f"{name}.conv2", out_channels, out_channels, 3, 3)
    if in_channels != out_channels:
        yield from _affine(f"{name}.conv_shortcut", out_channels, in_channels, 1, 1)


def _transformer(name: str, channels: int, config: dict[str, Any]) -> Iterator[Item]:
    kernel = () if config["use_linear_projection"] else (1, 1)
    yield from _affine(f"{name}.norm", channels)
    yield from _affine(f"{name}.proj_in", channels, channels, *kernel)
    block = f"{name}.transformer_blocks.0"
    for norm, attention, context in (("norm1", "attn1", channels), ("norm2", "attn2", config["cross_attention_dim"])):
        yield from _affine(f"{block}.{norm}", channels)
        yield f"{block}.{attention}.to_q.weight", (channels, channels)
        yield f"{block}.{attention}.to_k.weight", (channels, context)
        yield f"{block}.{attention}.to_v.weight", (channels, context)
        yield from _affine(f"{block}.{attention}.to_out.0", channels, channels)
    yield from _affine(f"{block}.norm3", channels)
    yield from _affine(f"{block}.ff.net.0.proj", 8 * channels, channels)  # GEGLU: value and gate, each 4 times as wide
    yield from _affine(f"{block}.ff.net.2", channels, 4 * channels)
    yield from _affine(f"{name}.proj_out", channels, channels, *kernel)


def _unet(config: dict[str, Any]) -> Iterator[Item]:
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    first, last, time = widths[0], len(widths) - 1, 4 * widths[0]
    yield from _affine("conv_in", first, config["in_channels"], 3, 3)
    yield from _affine("time_embedding.linear_1", time, first)
    yield from _affine("time_embedding.linear_2", time, time)
    skips, channels = [first], first
    for i, width in enumerate(widths):
        for j in range(layers):
            if config["down_block_types"][i] == "CrossAttnDownBlock2D":
                yield from _transformer(f"down_blocks.{i}.attentions.{j}", width, config)
            yield from _resnet(f"down_blocks.{i}.resnets.{j}", channels, width, time)
            channels = width
            skips.append(channels)
        if i < last:
            yield from _affine(f"down_blocks.{i}.downsamplers.0.conv", width, width, 3, 3)
            skips.append(channels)
    yield from _transformer("mid_block.attentions.0", channels, config)
    for j in range(2):
        yield from _resnet(f"mid_block.resnets.{j}", channels, channels, time)
    for i, width in enumerate(reversed(widths)):
        for j in range(layers + 1):
            if config["up_block_types"][i] == "CrossAttnUpBlock2D":
                yield from _transformer(f"up_blocks.{i}.attentions.{j}", width, config)
            yield from _resnet(f"up_blocks.{i}.resnets.{j}", channels + skips.pop(), width, time)
            channels = width
        if i < last:
            yield from _affine(f"up_blocks.{i}.upsamplers.0.conv", width, width, 3, 3)
    yield from _affine("conv_norm_out", first)
    yield from _affine("conv_out", config["out_channels"], first, 3, 3)


def _vae_mid(name: str, channels: int) -> Iterator[Item]:
    yield from _affine(f"{name}.attentions.0.group_norm", channels)
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from _affine(f"{name}.attentions.0.{part}", channels, channels)
    for j in range(2):
        yield from _resnet(f"{name}.resnets.{j}", channels, channels)


def _vae_half(half: str, block: str, scale: str, widths: list[int], layers: int) -> Iterator[Item]:
    """Levels of the encoder ("down") or decoder ("up"): resnets, then a scaling conv on all but the last level."""
    channels = widths[0]
    for i, width in enumerate(widths):
        for j in range(layers):
            yield from _resnet(f"{half}.{block}_blocks.{i}.resnets.{j}", channels, width)
            channels = width
        if i < len(widths) - 1:
            yield from _affine(f"{half}.{block}_blocks.{i}.{scale}.0.conv", width, width, 3, 3)


def _vae(config: dict[str, Any]) -> Iterator[Item]:
    widths, layers, latent = config["block_out_channels"], config["layers_per_block"], config["latent_channels"]
    yield from _affine("encoder.conv_in", widths[0], config["in_channels"], 3, 3)
    yield from _vae_half("encoder", "down", "downsamplers", widths, layers)
    yield from _vae_mid("encoder.mid_block", widths[-1])
    yield from _affine("encoder.conv_norm_out", widths[-1])
    yield from _affine("encoder.conv_out", 2 * latent, widths[-1], 3, 3)  # mean and log-variance
    yield from _affine("decoder.conv_in", widths[-1], latent, 3, 3)
    yield from _vae_half("decoder", "up", "upsamplers", widths[::-1], layers + 1)
    yield from _vae_mid("decoder.mid_block", widths[-1])
    yield from _affine("decoder.conv_norm_out", widths[0])
    yield from _affine("decoder.conv_out", config["out_channels"], widths[0], 3, 3)
    yield from _affine("quant_conv", 2 * latent, 2 * latent, 1, 1)
    yield from _affine("post_quant_conv", latent, latent, 1, 1)
