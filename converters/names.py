"""Weight names: the original single-file layout <-> diffusers, as rules computed from the config.

The original layout numbers every block of a UNet in one row (input_blocks.0 ... 11, middle_block, output_blocks.0 ... 11); diffusers
groups them by resolution (down_blocks.i.resnets.j). With L layers a level, down level i starts at input_blocks.(1 + i * (L + 1)) and
up level i at output_blocks.(i * (L + 1)). The original VAE numbers its decoder levels from the picture inwards, diffusers from the
latent outwards. The rules restate diffusers' convert_ldm_unet_checkpoint and convert_ldm_vae_checkpoint (loaders/single_file_utils.py).
"""

from __future__ import annotations

import re
from typing import Any

from ondevice.converters.expected import expected_weights

__all__ = ["canonical", "ema_name", "expected_weights", "is_clip_only", "is_ignorable", "original_names"]

PREFIXES = {"text_encoder": "cond_stage_model.transformer.", "unet": "model.diffusion_model.", "vae": "first_stage_model."}

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_SCALE = {"downsamplers": "downsample", "upsamplers": "upsample"}
# The VAE's attention before diffusers 0.12; the fp32 files of SD 1.x still have these names.
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0", "to_out": "to_out.0"}
# In the original layout, scripts that knew only the old names, or only the new ones, left the others as they were.
_ORIGINAL_VAE_ATTENTION = {old: _VAE_ATTENTION[new] for old, new in _OLD_VAE_ATTENTION.items()} | _VAE_ATTENTION

# What a text encoder's file holds beside the text encoder: the rest of CLIP, and what maps its last token into the common space.
_CLIP_ONLY = r"(.*\.)?(vision_model\..*|(text|visual)_projection(\.weight|\.bias)?|logit_scale)"
# Training-time constants that the sampler's own tables replace, the losses of the VAE's training, what an embedding was trained with, the
# safety checker, and the tables of k-diffusion that some tools save with the model.
_IGNORABLE = re.compile(
    _CLIP_ONLY + r"|(.*\.)?position_ids|betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])|logvar|lvlb_weights|global_step|model_ema\..*|first_stage_model\.loss\..*"
    r"|first_stage_model\.model_ema\..*|embedding_manager\..*|safety_checker\..*|denoiser\..*|cond_stage_model\.(decay|num_updates)|ddim_\w+"
)


def is_ignorable(name: str) -> bool:
    """Whether a weight of that name is known and not needed: position_ids, schedule buffers, moving averages, training losses, and what
    CLIP has beside its text encoder."""
    return len(name) <= 512 and _IGNORABLE.fullmatch(name) is not None


def is_clip_only(name: str) -> bool:
    """Whether a weight of that name is CLIP's, and Stable Diffusion has no use for it."""
    return len(name) <= 512 and re.fullmatch(_CLIP_ONLY, name) is not None


def canonical(component: str, name: str) -> str:
    """The on-disk name that diffusers 0.42 and transformers 4 write, from any spelling of theirs; of a VAE in the original layout (without
    its prefix) the name that CompVis' has, from what scripts made of it. Unknown names come back unchanged."""
    if component == "text_encoder" and name.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
        return f"text_model.{name}"  # transformers 5 leaves the prefix out
    if component == "vae":
        for place, spelling in ((".mid_block.attentions.0.", _OLD_VAE_ATTENTION), (".mid.attn_1.", _ORIGINAL_VAE_ATTENTION)):
            head, dot, rest = name.partition(place)
            part, _, leaf = rest.rpartition(".")
            if dot and part in spelling:
                return f"{head}{dot}{spelling[part]}.{leaf}"
    if component == "unet":
        head, dot, leaf = name.rpartition(".to_out.")
        return f"{head}.to_out.0.{leaf}" if dot and leaf in ("weight", "bias") else name
    return name


def ema_name(original: str) -> str:
    """The name of a UNet weight's moving average: ldm's LitEma drops the dots, which a buffer's name may not hold."""
    return "model_ema." + original.removeprefix("model.").replace(".", "")


def original_names(component: str, config: dict[str, Any]) -> dict[str, str]:
    """{diffusers name: original name} for every weight of `component`, in the order of `expected_weights`.

    Every original weight has the diffusers weight's shape, but for the VAE's attention: 1x1 convolutions [C, C, 1, 1].
    """
    rule = {"text_encoder": lambda name, _: name, "unet": _unet_name, "vae": _vae_name}[component]
    return {name: PREFIXES[component] + rule(name, config) for name in expected_weights(component, config)}


def _unet_name(name: str, config: dict[str, Any]) -> str:
    head, _, leaf = name.rpartition(".")
    if head in _UNET_TOP:
        return f"{_UNET_TOP[head]}.{leaf}"
    side, rest = name.split(".", 1)
    if side == "mid_block":
        kind, index, inner = rest.split(".", 2)
        return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{_unet_inner(kind, inner)}"
    level, kind, index, inner = rest.split(".", 3)
    i, j, layers = int(level), int(index), config["layers_per_block"]
    if kind == "downsamplers":
        return f"input_blocks.{(i + 1) * (layers + 1)}.0.{inner.replace('conv', 'op')}"
    if kind == "upsamplers":  # stands after the level's last resnet and, where there is one, its attention
        return f"output_blocks.{i * (layers + 1) + layers}.{1 + (config['up_block_types'][i] == 'CrossAttnUpBlock2D')}.{inner}"
    block = f"input_blocks.{1 + i * (layers + 1) + j}" if side == "down_blocks" else f"output_blocks.{i * (layers + 1) + j}"
    return f"{block}.{0 if kind == 'resnets' else 1}.{_unet_inner(kind, inner)}"


def _unet_inner(kind: str, inner: str) -> str:
    part, _, leaf = inner.rpartition(".")
    return f"{_UNET_RESNET[part]}.{leaf}" if kind == "resnets" else inner


def _vae_name(name: str, config: dict[str, Any]) -> str:
    half, _, rest = name.partition(".")
    if half not in ("encoder", "decoder"):
        return name
    if rest.startswith("mid_block.resnets."):
        index, inner = rest.removeprefix("mid_block.resnets.").split(".", 1)
        return f"{half}.mid.block_{int(index) + 1}.{_vae_inner(inner)}"
    if rest.startswith("mid_block.attentions.0."):
        part, _, leaf = rest.removeprefix("mid_block.attentions.0.").rpartition(".")
        return f"{half}.mid.attn_1.{_VAE_ATTENTION[part]}.{leaf}"
    if not rest.startswith(("down_blocks.", "up_blocks.")):
        return f"{half}.{rest.replace('conv_norm_out', 'norm_out')}"
    side, level, kind, index, inner = rest.split(".", 4)
    if side == "up_blocks":
        level = str(len(config["block_out_channels"]) - 1 - int(level))
    block = f"{half}.{side.removesuffix('_blocks')}.{level}"
    if kind == "resnets":
        return f"{block}.block.{index}.{_vae_inner(inner)}"
    return f"{block}.{_VAE_SCALE[kind]}.{inner}"


def _vae_inner(inner: str) -> str:
    return inner.replace("conv_shortcut", "nin_shortcut")
