"""Packages and ports as Apple's Swift package for Stable Diffusion (ml-stable-diffusion) names and shapes them, so that
its apps load what is written here.

Reference: its StableDiffusionPipeline+Resources, StableDiffusionXL+Resources, TextEncoder, TextEncoderXL, Unet,
ControlNet, Encoder and Decoder.swift. Where these take whatever a package calls its only port, the names are those of
its own converter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from ondevice.export.coreml.program import Given, Program, Var
from ondevice.export.manifest import Port

PACKAGES = {
    "text_encoder": "TextEncoder",
    "text_encoder_2": "TextEncoder2",
    "unet": "Unet",
    "vae_decoder": "VAEDecoder",
    "vae_encoder": "VAEEncoder",
    "controlnet": "ControlNet",
}
_CONTROLLED = "additional_residual_0"  # of a UNet that is given what ControlNets make
VOCABULARY = ("vocab.json", "merges.txt")
_NAMES = {
    "text_encoder": {"pooler_output": "pooled_outputs", "text_embeds": "pooled_outputs"},
    "unet": {"out_sample": "noise_pred"},
    "vae_decoder": {"latent_sample": "z", "sample": "image"},
    "vae_encoder": {"sample": "x", "latent_parameters": "latent"},
}
_NAMES["text_encoder_2"] = _NAMES["text_encoder"]
_STATE = re.compile(r"hidden_states_(\d+)")


def package(component: str, inputs: Collection[str] = ()) -> str:
    """The name of its package, without .mlpackage; `inputs`: its ports."""
    if component == "unet" and _CONTROLLED in inputs:
        return "ControlledUnet"
    return PACKAGES.get(component, component.replace("controlnet", "ControlNet"))


def named(component: str, ports: Mapping[str, Port]) -> dict[str, Port]:
    """Ports under the names that are looked for. XL's pipeline takes the last state but one, `hidden_embeds`; that of
    other models `last_hidden_state`, and no other."""
    names = dict(_NAMES.get(component, {}))
    states = [int(match[1]) for name in ports if (match := _STATE.fullmatch(name))]
    if states:
        names[f"hidden_states_{max(states) - 1}"] = "hidden_embeds"
    return {name: replace(port, name=names.get(name, port.name)) for name, port in ports.items()}


def shaped(component: str, inputs: Mapping[str, Port]) -> dict[str, Port]:
    """Inputs in the shapes and types that they are given in: ids are floats, a timestep is there for each picture, and
    a text's states are channels by tokens, as the Neural Engine likes them."""
    found = dict(inputs)
    denoises = component == "unet" or "controlnet_cond" in inputs
    for name, port in inputs.items():
        if component.startswith("text_encoder") and name == "input_ids":
            found[name] = replace(port, dtype="float32")
        elif denoises and name == "timestep":
            found[name] = replace(port, shape=inputs["sample"].shape[:1])
        elif denoises and name == "encoder_hidden_states":
            batch, tokens, width = port.shape
            found[name] = replace(port, shape=(batch, width, 1, tokens), axes=(0, 2, 1))
    return found


def as_ours(built: Program, var: Var, port: Port, shape: tuple[int, ...], dtype: str) -> Var:
    """An input as the graph has it: `shape` and MIL's `dtype`."""

    def step(kind: str, sizes: tuple[int, ...], stored: str, /, **parameters: Given) -> Var:
        name = built.fresh(f"{port.name}_{kind}")
        return built.op(kind, name, sizes, stored, x=var, **parameters)

    if prod(var.shape) > prod(shape):  # the first of several that are the same
        sizes = (1, *var.shape[1:])
        var = step("slice_by_index", sizes, var.dtype, begin=[0] * len(sizes), end=list(sizes))
    axes = port.axes or tuple(range(len(shape)))
    moved = tuple(shape[axis] for axis in axes)
    if var.shape != moved:
        var = step("reshape", moved, var.dtype, shape=list(moved))
    if moved != shape or axes != tuple(range(len(shape))):
        var = step("transpose", shape, var.dtype, perm=[int(axis) for axis in np.argsort(axes)])
    return var if var.dtype == dtype else step("cast", shape, dtype, dtype=dtype)


def put_vocabulary(folder: Path) -> None:
    """The first tokenizer's files beside the packages. Nothing where it is no byte-pair encoding."""
    for tokenizer in sorted(folder.glob("tokenizer*")):
        if all((tokenizer / name).is_file() for name in VOCABULARY):
            for name in VOCABULARY:
                text = (tokenizer / name).read_bytes()
                (folder / name).write_bytes(text if text.endswith(b"\n") or name == "vocab.json" else text + b"\n")
            return
