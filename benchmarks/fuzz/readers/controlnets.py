"""Files of ControlNets in both layouts, and their configs, for a model of few weights."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from checkpoint_files import safetensors_bytes, safetensors_header

from benchmarks.fuzz.mutate.chunks import headed
from benchmarks.fuzz.mutate.values import json_value
from benchmarks.fuzz.reader import Reader, holds
from benchmarks.fuzz.readers import small
from ondevice.converters import build
from ondevice.converters.architectures.controlnet import CONTROLNET
from ondevice.converters.component import Component
from ondevice.converters.families import family_of
from ondevice.converters.families.controlled import NETS, check_net, controlled, full_config
from ondevice.converters.random_weights import random_component
from ondevice.converters.read.controlnets import with_controlnets
from ondevice.converters.read.json_text import parse_object


@functools.cache
def _net() -> Component:
    base = small.checkpoint()
    family, configs = family_of(base.family), {name: one.config for name, one in base.components.items()}
    config = controlled(family, NETS[:1]).normalize(NETS[0], full_config(family, configs["unet"], configs), "f")
    return random_component(controlled(family, NETS[:1]), NETS[0], config, 1)


def _seeds() -> list[bytes]:
    net, part = _net(), controlled(family_of(small.checkpoint().family), NETS[:1]).parts[NETS[0]]
    named = {name: tensor.numpy().astype(np.float16) for name, tensor in net.weights.items()}
    original = {part.layout.place(name, net.config).name: array for name, array in named.items()}
    found = []
    for arrays in (named, original):
        found.append(safetensors_bytes(safetensors_header(arrays), b"".join(a.tobytes() for a in arrays.values())))
    return found


def _read(data: bytes, folder: Path) -> None:
    """What is taken is a net whose residuals the model's UNet takes."""
    path = folder / "f.safetensors"
    path.write_bytes(data)
    made = with_controlnets(small.checkpoint(), [str(path)])
    net = made.components[NETS[0]]
    shapes = CONTROLNET.weights(net.config)
    holds(net.weights.keys() == shapes.keys(), "a net has other weights than its config asks for")
    holds(build(made).family.parts.keys() >= {NETS[0]}, "a net that was read is not in the model")


def _config_seeds() -> list[bytes]:
    return [json.dumps(_net().config | {"_class_name": "ControlNetModel"}).encode()]


def _read_config(data: bytes, _folder: Path) -> None:
    base = small.checkpoint()
    config = CONTROLNET.normalize(parse_object(data, "f.json", "use another"), "f")
    holds(CONTROLNET.normalize(config, "again") == config, "a config is another one when it is read again")
    configs = {name: one.config for name, one in base.components.items()} | {NETS[0]: config}
    check_net(family_of(base.family), configs, NETS[0], "f")


READERS = (
    Reader("controlnet", _seeds, headed, _read),
    Reader("controlnet_config", _config_seeds, json_value, _read_config),
)
