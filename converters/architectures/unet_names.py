"""Names of a UNet's weights in the original layout.

The original layout numbers every block in one row (input_blocks.0 ... 11, middle_block, output_blocks.0 ... 11);
diffusers groups them by resolution (down_blocks.i.resnets.j). With L layers in every level, down level i starts at
input_blocks.(1 + i * (L + 1)) and up level i at output_blocks.(i * (L + 1)). The rules restate diffusers'
convert_ldm_unet_checkpoint (loaders/single_file_utils.py).
"""

from __future__ import annotations

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.unet_levels import levels

_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
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


def original_name(name: str, config: Config) -> str:
    """The original layout's name of a weight, by its name in diffusers."""
    head, _, leaf = name.rpartition(".")
    if head in _TOP:
        return f"{_TOP[head]}.{leaf}"
    side, rest = name.split(".", 1)
    if side == "mid_block":
        kind, index, inner = rest.split(".", 2)
        return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{_inner(kind, inner)}"
    number, kind, index, inner = rest.split(".", 3)
    way = levels(config).down if side == "down_blocks" else levels(config).up
    i, j = int(number), int(index)
    before = [len(level.depths) for level in way[:i]]
    if side == "down_blocks":  # conv_in, and one downsampler per level, are numbered as blocks are
        first = 1 + sum(before) + i
        if kind == "downsamplers":
            return f"input_blocks.{first + len(way[i].depths)}.0.{inner.replace('conv', 'op')}"
        block = f"input_blocks.{first + j}"
    else:
        first = sum(before)
        if kind == "upsamplers":  # stands after the level's last resnet and, where there is one, its attention
            place = 1 + (way[i].depths[-1] is not None)
            return f"output_blocks.{first + len(way[i].depths) - 1}.{place}.{inner}"
        block = f"output_blocks.{first + j}"
    return f"{block}.{0 if kind == 'resnets' else 1}.{_inner(kind, inner)}"


def _inner(kind: str, inner: str) -> str:
    part, _, leaf = inner.rpartition(".")
    return f"{_RESNET[part]}.{leaf}" if kind == "resnets" else inner
