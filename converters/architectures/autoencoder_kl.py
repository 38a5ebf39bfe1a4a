"""The autoencoder (diffusers' AutoencoderKL): its config, its two graphs, and names in the original layout.

The original layout numbers its decoder levels from the picture inwards, diffusers from the latent outwards, and its
attention is made of 1x1 convolutions. The rules restate diffusers' convert_ldm_vae_checkpoint
(loaders/single_file_utils.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Architecture, Bands, Config, Graph, Layout, Stored
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.keys import (
    SILU,
    Key,
    count,
    counts,
    divides,
    each,
    number,
    only,
    same_length,
    switch,
)
from ondevice.converters.architectures.layers import resnet
from ondevice.converters.architectures.vae_bands import decoder_stage, decoder_stages
from ondevice.converters.architectures.vae_layers import HELD, VAE_EPS, mid_block, middle, normal, upsampled

_LATENTS = 64  # channels of latents, and pixels per latent, that a bundle can say
_LEVELS = 7


def _float(value: Any) -> Any:
    return float(value) if type(value) is int else value


_KEYS = {
    "in_channels": count(3),
    "out_channels": count(3),
    "latent_channels": count(4, _LATENTS),
    "block_out_channels": counts([64], _LEVELS),
    "down_block_types": each(["DownEncoderBlock2D"], "DownEncoderBlock2D"),
    "up_block_types": each(["UpDecoderBlock2D"], "UpDecoderBlock2D"),
    "layers_per_block": count(1, 32),
    "norm_num_groups": count(32),
    "act_fn": SILU,
    "scaling_factor": number(0.18215, 1e-9),
    "shift_factor": Key(None, lambda v: v is None or (type(v) is float and abs(v) < 1e6), "null or a number", _float),
    "latents_mean": only(None),
    "latents_std": only(None),
    "use_quant_conv": switch(True, False),
    "use_post_quant_conv": switch(True, False),
    "mid_block_add_attention": only(True),
}


def decoder(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int, scale: float = 1.0) -> ir.Model:
    """latent_sample float32 [batch, c, height, width], already divided by scaling_factor -> sample float32
    [batch, 3, 2^levels*height, 2^levels*width]. The sum of its residuals is held times `scale` (vae_layers.py)."""
    widths, groups = config["block_out_channels"], config["norm_num_groups"]
    x = middle(b, config, b.input("latent_sample", (batch, config["latent_channels"], height, width)), scale)
    for level, out in enumerate(reversed(widths)):
        scope = f"decoder.up_blocks.{level}"
        for layer in range(config["layers_per_block"] + 1):
            x = resnet(b, f"{scope}.resnets.{layer}", x, out, groups, VAE_EPS, scale=scale)
        if level < len(widths) - 1:
            x = upsampled(b, f"{scope}.upsamplers.0", x, scale)
    return b.finish(
        sample=b.conv("decoder.conv_out", normal(b, "decoder.conv_norm_out", x, groups, scale), config["out_channels"])
    )


def encoder(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int, scale: float = 1.0) -> ir.Model:
    """sample float32 [batch, 3, 2^levels*height, 2^levels*width] in -1..1 -> latent_parameters
    [batch, 2c, height, width]: means, then log-variances. The sum of its residuals is held times `scale`."""
    widths, groups, moments = config["block_out_channels"], config["norm_num_groups"], 2 * config["latent_channels"]
    pixels = scale_of(config)
    x = b.input("sample", (batch, config["in_channels"], pixels * height, pixels * width))
    x = b.conv("encoder.conv_in", x, widths[0], scales=(scale, scale))
    for level, out in enumerate(widths):
        scope = f"encoder.down_blocks.{level}"
        for layer in range(config["layers_per_block"]):
            x = resnet(b, f"{scope}.resnets.{layer}", x, out, groups, VAE_EPS, scale=scale)
        if level < len(widths) - 1:
            # diffusers pads below and right only
            x = b.conv(f"{scope}.downsamplers.0.conv", x, out, stride=2, pads=(0, 0, 1, 1), scales=(1.0, scale))
    x = normal(b, "encoder.conv_norm_out", mid_block(b, "encoder.mid_block", x, groups, scale), groups, scale)
    x = b.conv("encoder.conv_out", x, moments)
    return b.finish(latent_parameters=b.conv("quant_conv", x, moments, 1) if config["use_quant_conv"] else x)


def scale_of(config: Config) -> int:
    return 1 << (len(config["block_out_channels"]) - 1)


def _band_count(config: Config, height: int, width: int) -> int:
    return len(decoder_stages(config, height, width)) + 1


def _check(config: dict[str, Any], where: str) -> None:
    same_length(config, where, "down_block_types", "up_block_types")
    for channels in config["block_out_channels"]:
        divides("norm_num_groups", config["norm_num_groups"], "block_out_channels", channels, where)


_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_SCALE = {"downsamplers": "downsample", "upsamplers": "upsample"}
# The attention before diffusers 0.12; the fp32 files of SD 1.x still have these names.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0", "to_out": "to_out.0"}
# In the original layout, scripts that knew only the old names, or only the new ones, left the others as they were.
_ORIGINAL_ATTENTION = {old: _ATTENTION[new] for old, new in _OLD_ATTENTION.items()} | _ATTENTION


def original(name: str, config: Config) -> str:
    half, _, rest = name.partition(".")
    if half not in ("encoder", "decoder"):
        return name
    if rest.startswith("mid_block.resnets."):
        index, inner = rest.removeprefix("mid_block.resnets.").split(".", 1)
        return f"{half}.mid.block_{int(index) + 1}.{_inner(inner)}"
    if rest.startswith("mid_block.attentions.0."):
        part, _, leaf = rest.removeprefix("mid_block.attentions.0.").rpartition(".")
        return f"{half}.mid.attn_1.{_ATTENTION[part]}.{leaf}"
    if not rest.startswith(("down_blocks.", "up_blocks.")):
        return f"{half}.{rest.replace('conv_norm_out', 'norm_out')}"
    side, level, kind, index, inner = rest.split(".", 4)
    if side == "up_blocks":
        level = str(len(config["block_out_channels"]) - 1 - int(level))
    block = f"{half}.{side.removesuffix('_blocks')}.{level}"
    return f"{block}.block.{index}.{_inner(inner)}" if kind == "resnets" else f"{block}.{_SCALE[kind]}.{inner}"


def _inner(inner: str) -> str:
    return inner.replace("conv_shortcut", "nin_shortcut")


def _canonical(name: str) -> str:
    """Of the original layout (without its prefix) the name that CompVis' has, from what scripts made of it."""
    for place, spelling in ((".mid_block.attentions.0.", _OLD_ATTENTION), (".mid.attn_1.", _ORIGINAL_ATTENTION)):
        head, dot, rest = name.partition(place)
        part, _, leaf = rest.rpartition(".")
        if dot and part in spelling:
            return f"{head}{dot}{spelling[part]}.{leaf}"
    return name


LDM = Layout(lambda name, config: Stored(original(name, config)))
AUTOENCODER_KL = Architecture(
    name="autoencoder_kl",
    word="VAE",
    keys=_KEYS,
    graphs={
        "decoder": Graph(decoder, bands=Bands(_band_count, decoder_stage)),
        "encoder": Graph(encoder),
    },
    check=_check,
    classes=("AutoencoderKL", "FlaxAutoencoderKL"),
    canonical=_canonical,
    scale=scale_of,
)


def _held(build: Callable[..., ir.Model]) -> Callable[..., ir.Model]:
    """The same graph, held smaller where the config says that diffusers would run it in float32."""
    return lambda b, config, **sizes: build(b, config, **sizes, scale=HELD if config["force_upcast"] else 1.0)


# What diffusers' SDXL pipeline makes of force_upcast; that of Stable Diffusion 1.x and 2.x does not look at it.
AUTOENCODER_KL_HELD = replace(
    AUTOENCODER_KL,
    keys=_KEYS | {"force_upcast": switch(True, False)},
    graphs={
        "decoder": Graph(_held(decoder), bands=Bands(_band_count, _held(decoder_stage))),
        "encoder": Graph(_held(encoder)),
    },
)
