"""Names of a ControlNet's weights in the original layout: the UNet's way down and middle (unet_names.py), the
embedding of the condition as one row of layers with activations between them (input_hint_block.0, 2, ... 14), and the
convolutions that give the residuals (zero_convs.0 ... 11, middle_block_out).

Reference: ControlNet's cldm/cldm.py; diffusers' convert_controlnet_checkpoint (loaders/single_file_utils.py).
"""

from __future__ import annotations

from ondevice.converters.architectures import unet_names
from ondevice.converters.architectures.architecture import Config

HINT = "conditioning_embedding_out_channels"
EMBEDDING = "controlnet_cond_embedding"


def original_name(name: str, config: Config) -> str:
    """The original layout's name of a weight, by its name in diffusers."""
    head, _, leaf = name.rpartition(".")
    scope, _, inner = head.partition(".")
    if scope == EMBEDDING:
        last = 2 * (len(config[HINT]) - 1) + 1
        number = 0 if inner == "conv_in" else last if inner == "conv_out" else 1 + int(inner.removeprefix("blocks."))
        return f"input_hint_block.{2 * number}.{leaf}"
    if scope == "controlnet_down_blocks":
        return f"zero_convs.{inner}.0.{leaf}"
    if scope == "controlnet_mid_block":
        return f"middle_block_out.0.{leaf}"
    return unet_names.original_name(name, config)
