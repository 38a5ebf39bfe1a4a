"""The config of a ControlNetModel: its keys, what must hold between them, and what they are of a file without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import Shape
from ondevice.converters.architectures.controlnet_names import EMBEDDING, HINT, original_name
from ondevice.converters.architectures.keys import count, counts, only, same_length, switch
from ondevice.converters.architectures.unet_config import DEEPEST, check_widths
from ondevice.converters.architectures.unet_config import KEYS as OF_UNET
from ondevice.converters.architectures.unet_kinds import generation
from ondevice.converters.architectures.unet_levels import listed

_SHARED = (
    "in_channels", "block_out_channels", "down_block_types", "mid_block_type", "cross_attention_dim",
    "attention_head_dim", "num_attention_heads", "transformer_layers_per_block", "use_linear_projection",
    "norm_num_groups", "norm_eps", "act_fn", "flip_sin_to_cos", "freq_shift", "only_cross_attention",
    "downsample_padding", "mid_block_scale_factor", "encoder_hid_dim", "encoder_hid_dim_type", "class_embed_type",
    "num_class_embeds", "projection_class_embeddings_input_dim", "addition_embed_type", "addition_time_embed_dim",
    "resnet_time_scale_shift",
)  # fmt: skip
KEYS = {name: OF_UNET[name] for name in _SHARED} | {
    "layers_per_block": count(2, DEEPEST),
    "time_embedding_dim": only(None),
    "conditioning_channels": only(3),
    "controlnet_conditioning_channel_order": only("rgb"),
    HINT: counts([16, 32, 96, 256]),
    "global_pool_conditions": switch(False),
}
_DEEP = "transformer_layers_per_block"
_MOST = 16  # widths of the condition's embedding, as KEYS has it


def check(config: dict[str, Any], where: str) -> None:
    """Refuse lists that are not one entry per level, and widths that do not fit. Raises CheckpointError."""
    lists = [name for name in ("attention_head_dim", "only_cross_attention", _DEEP) if isinstance(config[name], list)]
    same_length(config, where, "down_block_types", *lists)
    check_widths(config, where)


def picture_scale(config: Config) -> int:
    """Pixels of the condition per latent, each way: the embedding halves it between its widths."""
    return int(2 ** (len(config[HINT]) - 1))


def beside(unet: Config) -> dict[str, Any]:
    """The config of a full ControlNet for a UNet of this one: all that they share."""
    shared = {name: unet[name] for name in _SHARED}
    layers = listed(unet, "layers_per_block")
    return shared | {"in_channels": unet["out_channels"], "layers_per_block": layers[0]}


def told_by(shapes: Mapping[str, Shape], unet: Config) -> dict[str, Any]:
    """The config of a file of weights, in diffusers' names or the original layout's, for a UNet: as `beside`, but that
    some nets attend on fewer levels, or less deeply, and that the condition's widths are its own."""
    config, layers = beside(unet), listed(unet, "layers_per_block")
    depths = [
        max(_depth(shapes, f"down_blocks.{level}.attentions.{layer}", config) for layer in range(layers[level]))
        for level in range(len(unet["block_out_channels"]))
    ]
    mid = _depth(shapes, "mid_block.attentions.0", config)
    config["down_block_types"] = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    config["mid_block_type"] = "UNetMidBlock2DCrossAttn" if mid else "UNetMidBlock2D"
    config[_DEEP] = [depth or 1 for depth in (*depths[:-1], depths[-1] or mid)]
    rows = (f"{EMBEDDING}.conv_in.weight", *(f"{EMBEDDING}.blocks.{2 * k + 1}.weight" for k in range(_MOST)))
    widths = []
    for number, name in enumerate(rows):
        shape = shapes.get(name) or shapes.get(f"input_hint_block.{4 * number}.weight")
        if not shape:
            break
        widths.append(shape[0])
    return config | ({HINT: widths} if widths else {})


def _depth(shapes: Mapping[str, Shape], scope: str, config: Config) -> int:
    """How many blocks a transformer has."""
    for depth in range(DEEPEST):
        name = f"{scope}.transformer_blocks.{depth}.attn2.to_k.weight"
        if name not in shapes and original_name(name, config) not in shapes:
            return depth
    return DEEPEST


def kind_of_config(config: Config) -> str | None:
    """What a net is for, by the numbers of its config, which may hold anything; None where they are of none that is
    known."""
    return _kind(generation(config.get("cross_attention_dim", 1280)))


def kind_of_shapes(shapes: Mapping[str, Shape]) -> str | None:
    """The same from the shapes of weights, in diffusers' names or the original layout's."""
    widths = {shape[-1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight") and shape}
    if not widths and any(name.startswith(("add_embedding.", "label_emb.")) for name in shapes):
        return _kind("Stable Diffusion XL")  # a small one, which attends nowhere
    return _kind(generation(widths.pop())) if len(widths) == 1 else None


def _kind(of: str | None) -> str | None:
    return of and f"a ControlNet of {of}"
