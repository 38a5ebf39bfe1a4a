"""Tiny models with ControlNets."""

from dataclasses import replace

import numpy as np
from checkpoint_files import TINY_TEXT, TINY_UNET, TINY_VAE, arrays_of
from family_files import TINY
from recipe_weights import case, weights

from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.families import FAMILIES
from ondevice.converters.families.controlled import NETS, controlled, full_config
from ondevice.converters.random_weights import random_checkpoint_from_configs, random_component

CONFIGS = TINY | {"sd15": {"text_encoder": TINY_TEXT, "unet": TINY_UNET, "vae": TINY_VAE}}


def with_nets(family, count=1, seed=5, **changes):
    """The family's tiny model with this many nets of made-up weights; `changes` of their configs."""
    made = random_checkpoint_from_configs(**CONFIGS[family], seed=seed, family=family)
    components, own = dict(made.components), FAMILIES[family]
    configs = {name: component.config for name, component in components.items()}
    for number in range(count):
        net, extended = NETS[number], controlled(own, NETS[: number + 1])
        raw = full_config(own, configs["unet"], configs) | changes
        components[net] = random_component(extended, net, extended.normalize(net, raw, "test"), seed)
    return replace(made, components=components)


def net_arrays(checkpoint, net="controlnet"):
    """(its weights by diffusers' names, the same by the original layout's)."""
    arrays = arrays_of(checkpoint, net)
    part = controlled(FAMILIES[checkpoint.family], NETS[:1]).parts[NETS[0]]
    config = checkpoint.components[net].config
    return arrays, {part.layout.place(name, config).name: array for name, array in arrays.items()}


def recipe(scheduler):
    """The model of the vectors controlnet_e2e*: its networks are of other cases."""
    family = controlled(FAMILIES["sd15"], NETS[:1])
    raw, salt, _ = case("controlnet_sd15")
    vae = case("controlnet_e2e")[0]["vae"]
    parts = {"unet": (raw["unet"], "sd15/unet"), "vae": (vae, "sd15/vae4"), "controlnet": (raw["controlnet"], salt)}
    text, text_salt, _ = case("sd2_text_encoder")
    parts["text_encoder"] = text, text_salt
    components = {}
    for part, (given, name) in parts.items():
        config = family.normalize(part, given, "test")
        components[part] = Component(config, weights(family.parts[part].architecture, config, name))
    tokenizers = {"tokenizer": FAMILIES["sd21"].tokenizer()}
    return Checkpoint(components, scheduler, tokenizers, "sd15", "test")


def squares(seed, height, width, side=8):
    """uint8[h, w, 3] of flat squares: edges to be found."""
    chance = np.random.default_rng(seed)
    small = chance.integers(0, 256, (-(-height // side), -(-width // side), 3), np.uint8)
    return np.repeat(np.repeat(small, side, 0), side, 1)[:height, :width]
