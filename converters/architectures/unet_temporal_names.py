"""Where a single file of Stable Video Diffusion has the weights of its UNet: blocks are numbered as those of pictures,
and what works over time stands in each block's `time_stack`.

The rules restate diffusers' scripts/convert_svd_to_diffusers.py.
"""

from __future__ import annotations

import re

from ondevice.converters.architectures.architecture import Config, Layout, Stored
from ondevice.converters.architectures.unet_names import original_name
from ondevice.converters.architectures.unet_temporal_config import flat

_MIXER = ".time_mixer.mix_factor"
_FIRST = ".in_layers.0.weight"  # what a resnet's norm1.weight is called there
_TRANSFORMER = {
    ".temporal_transformer_blocks.": ".time_stack.",
    ".time_pos_embed.linear_1.": ".time_pos_embed.0.",
    ".time_pos_embed.linear_2.": ".time_pos_embed.2.",
}


def original(name: str, config: Config) -> str:
    """The original layout's name of a weight, by its name in diffusers."""
    picture = flat(config)
    if ".resnets." not in name:
        place = original_name(name, picture)
        for ours, theirs in _TRANSFORMER.items():
            place = place.replace(ours, theirs)
        return place
    if name.endswith(_MIXER):
        return original_name(name.replace(_MIXER, ".norm1.weight"), picture).removesuffix(_FIRST) + _MIXER
    if ".temporal_res_block." not in name:
        return original_name(name.replace(".spatial_res_block.", "."), picture)
    place = original_name(name.replace(".temporal_res_block.", "."), picture)
    return re.sub(r"\.((?:in|emb|out)_layers)\.", r".time_stack.\1.", place)


def looks_at_one(name: str, config: Config) -> bool:
    """Whether a weight, in either layout, is of queries or keys of attention to one token, or of the norm before them:
    they do nothing."""
    return re.search(r"(transformer_blocks|time_stack)\.0\.(attn2\.to_[qk]|norm2)\.(weight|bias)$", name) is not None


SGM = Layout(lambda name, config: Stored(original(name, config)), looks_at_one)
