"""The autoencoder of Stable Video Diffusion (diffusers' AutoencoderKLTemporalDecoder): an encoder of pictures, and a
decoder whose resnets also see the frame before and after.

It decodes some frames of a clip at a time, a chunk; at a chunk's ends there are zeros where the next frames would be,
as in the reference implementation, so that the result depends on where a clip is cut.

Reference: "Stable Video Diffusion" (arXiv 2311.15127), appendix D.
"""

from __future__ import annotations

import re
from typing import Any

import onnx_ir as ir

from ondevice.converters.architectures import autoencoder_kl
from ondevice.converters.architectures.architecture import Architecture, Config, Graph, Layout, Stored
from ondevice.converters.architectures.autoencoder_kl import AUTOENCODER_KL
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.frames import (
    along_time,
    as_pictures,
    blended,
    conv_over_time,
    temporal_resnet,
)
from ondevice.converters.architectures.keys import count, counts, divides, each, number, only, same_length, switch
from ondevice.converters.architectures.layers import resnet
from ondevice.converters.architectures.vae_layers import HELD, VAE_EPS, mid_attention, normal, upsampled

GROUPS = 32  # of every norm
_TIME_EPS = 1e-5  # of norms over time
_KEYS = {
    "in_channels": count(3),
    "out_channels": count(3),
    "latent_channels": count(4, 64),
    "block_out_channels": counts([64], 7),
    "down_block_types": each(["DownEncoderBlock2D"], "DownEncoderBlock2D"),
    # diffusers runs the middle's attention before its second resnet, and the middle has one resnet per layer
    "layers_per_block": only(2),
    "scaling_factor": number(0.18215, 1e-9),
    "force_upcast": switch(True, False),
}


def decoder(b: GraphBuilder, config: Config, *, batch: int, frames: int, height: int, width: int) -> ir.Model:
    """latent_sample float32 [batch * frames, c, height, width], already divided by scaling_factor -> sample float32
    [batch * frames, 3, 2^levels*height, 2^levels*width]."""
    widths, layers = list(reversed(config["block_out_channels"])), config["layers_per_block"]
    latents = b.input("latent_sample", (batch * frames, config["latent_channels"], height, width))
    x = b.conv("decoder.conv_in", latents, widths[0])
    x = _resnet(b, "decoder.mid_block.resnets.0", x, widths[0], batch)
    x = mid_attention(b, "decoder.mid_block.attentions.0", x, GROUPS, 1.0)
    x = _resnet(b, "decoder.mid_block.resnets.1", x, widths[0], batch)
    for level, out in enumerate(widths):
        scope = f"decoder.up_blocks.{level}"
        for layer in range(layers + 1):
            x = _resnet(b, f"{scope}.resnets.{layer}", x, out, batch)
        if level < len(widths) - 1:
            x = upsampled(b, f"{scope}.upsamplers.0", x, 1.0)
    x = b.conv("decoder.conv_out", normal(b, "decoder.conv_norm_out", x, GROUPS), config["out_channels"])
    scope, pixels = "decoder.time_conv_out", autoencoder_kl.scale_of(config)
    x = conv_over_time(b, scope, along_time(b, scope, x, batch), config["out_channels"])
    return b.finish(sample=as_pictures(b, scope, x, pixels * height, pixels * width))


def encoder(b: GraphBuilder, config: Config, *, batch: int, height: int, width: int) -> ir.Model:
    """sample float32 [batch, 3, 2^levels*height, 2^levels*width] in -1..1 -> latent_parameters
    [batch, 2c, height, width]: means, then log-variances; of any picture, held smaller where the config says that
    diffusers would run it in float32 (vae_layers.py)."""
    whole = {**config, "norm_num_groups": GROUPS, "use_quant_conv": True}
    scale = HELD if config["force_upcast"] else 1.0
    return autoencoder_kl.encoder(b, whole, batch=batch, height=height, width=width, scale=scale)


def _resnet(b: GraphBuilder, scope: str, x: ir.Value, out: int, clips: int) -> ir.Value:
    """One of pictures, and one over time, of which a blender keeps what it was trained to: here its weight is for
    that, and in the UNet for the picture's."""
    x = resnet(b, f"{scope}.spatial_res_block", x, out, GROUPS, VAE_EPS)
    share = blended(b, f"{scope}.time_mixer")
    return temporal_resnet(b, f"{scope}.temporal_res_block", x, clips, GROUPS, _TIME_EPS, share)


def _check(config: dict[str, Any], where: str) -> None:
    same_length(config, where, "down_block_types")
    for channels in config["block_out_channels"]:
        divides("the groups of its norms,", GROUPS, "block_out_channels", channels, where)


_MIXER = ".time_mixer.mix_factor"
_OVER_TIME = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}


def _original(name: str, config: Config) -> str:
    """The original layout's name: what works over time stands in a resnet's `time_stack`."""
    if name.startswith("decoder.time_conv_out."):
        return name.replace("time_conv_out", "conv_out.time_mix_conv")
    if name.endswith(_MIXER):
        inner = autoencoder_kl.original(name.replace(_MIXER, ".norm1.weight"), config)
        return inner.removesuffix("norm1.weight") + "mix_factor"
    if ".temporal_res_block." not in name:
        return autoencoder_kl.original(name.replace(".spatial_res_block.", "."), config)
    place = autoencoder_kl.original(name.replace(".temporal_res_block.", "."), config)
    return re.sub(r"\.(norm1|conv1|norm2|conv2)\.", lambda found: f".time_stack.{_OVER_TIME[found[1]]}.", place)


SGM = Layout(lambda name, config: Stored(_original(name, config)))
MOVED = {"conditioner.embedders.3.encoder.": "first_stage_model."}
"""Where a single file has the encoder that a picture is encoded with, and its quant_conv: beside the decoder there is
one without it."""
AUTOENCODER_KL_TEMPORAL = Architecture(
    name="autoencoder_kl_temporal",
    word="VAE",
    keys=_KEYS,
    graphs={"decoder": Graph(decoder, ("batch", "frames", "height", "width")), "encoder": Graph(encoder)},
    check=_check,
    classes=("AutoencoderKLTemporalDecoder",),
    canonical=AUTOENCODER_KL.canonical,
    scale=AUTOENCODER_KL.scale,
)
