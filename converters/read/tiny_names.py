"""Weights of tiny autoencoders in all the names that they are published in, as diffusers has them; and the config that
their shapes tell, for a file has none.

The original is two numbered Sequentials in a file each (taesd_encoder.safetensors, taesd_decoder.safetensors), whose
decoder begins with a layer that has no weights; tools that keep both in one file put `taesd_encoder.` and
`taesd_decoder.` before the names. Reference: diffusers' scripts/convert_tiny_autoencoder_to_diffusers.py.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import onnx_ir as ir

from ondevice.converters.architectures.autoencoder_tiny import CLASS
from ondevice.converters.architectures.builder import Shape
from ondevice.converters.component import shape_of
from ondevice.errors import CheckpointError

HALVES = ("encoder", "decoder")
_NAME = re.compile(
    r"(?:(?:taesd_)?(?P<half>encoder|decoder)\.)?(?P<layers>layers\.)?(?P<index>\d{1,3})\.(?P<rest>(?:conv\.\d\.)?\w+)"
)
_SPARE = ("vae_scale", "vae_shift")  # what a tool writes beside them


def is_tiny(names: Iterable[str]) -> bool:
    """Whether weights of these names are those of a tiny autoencoder, or of a half of one."""
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    return any(".conv." in f".{match['rest']}" for match in found)


def in_diffusers_names(tensors: Mapping[str, ir.TensorProtocol], where: str) -> dict[str, ir.TensorProtocol]:
    """The same weights under diffusers' names; a name that is in no known spelling stays.

    Raises:
        CheckpointError: two of them would have one name.
    """
    alone = "encoder" if any(name.startswith("0.") for name in tensors) else "decoder"  # the decoder's 0 has no weights
    renamed: dict[str, ir.TensorProtocol] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if name in _SPARE:
            continue
        to = name
        if match is not None:
            half, index = match["half"] or alone, int(match["index"])
            index -= half == "decoder" and not match["layers"]
            to = f"{half}.layers.{index}.{match['rest']}"
        if to in renamed:
            raise CheckpointError(
                f"the weight {to[:200]} is there under two names.", where=where, fix="use another file"
            )
        renamed[to] = tensor
    return renamed


def halves_of(names: Iterable[str]) -> set[str]:
    """Which halves weights in diffusers' names are of."""
    return {half for name in names for half in HALVES if name.startswith(f"{half}.layers.")}


def config_of(tensors: Mapping[str, ir.TensorProtocol]) -> dict[str, Any]:
    """The config, without its defaults, of weights in diffusers' names. A half that is not there is as deep as the
    other; where shapes are of no such network, the config is not either, and the weights are then refused for it."""
    shapes = {name: shape_of(tensor) for name, tensor in tensors.items()}
    config: dict[str, Any] = {"_class_name": CLASS}
    for half, other in (HALVES, HALVES[::-1]):
        layers = _layers(half, shapes)
        convolutions = [index for index, is_block in layers.items() if not is_block]
        between = [sum(first < index < last for index in layers) for first, last in itertools.pairwise(convolutions)]
        if not between or min(between) < 1:
            continue
        first, last = (shapes[f"{half}.layers.{index}.weight"] for index in (convolutions[0], convolutions[-1]))
        config[f"num_{half}_blocks"] = between
        config[f"{half}_block_out_channels"] = [first[0]] * len(between)
        config.setdefault(f"num_{other}_blocks", between[::-1])
        config.setdefault(f"{other}_block_out_channels", [first[0]] * len(between))
        config["latent_channels"] = last[0] if half == "encoder" else first[1]
    return config


def _layers(half: str, shapes: Mapping[str, Shape]) -> dict[int, bool]:
    """The layers of a half that have weights, in their order, and whether each is a block; convolutions in four
    dimensions alone."""
    found: dict[int, bool] = {}
    for name, shape in shapes.items():
        match = _NAME.fullmatch(name)
        if match and match["half"] == half and match["rest"] in ("weight", "conv.0.weight") and len(shape) == 4:
            found[int(match["index"])] = match["rest"] != "weight"
    return dict(sorted(found.items()))
