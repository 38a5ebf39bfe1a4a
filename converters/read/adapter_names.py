"""Names of tensors in files of adapters: which module, and which of its tensors.

Layouts: kohya's (`lora_unet_..._to_q.lora_down.weight`, every dot of the module's name a line), LyCORIS' beside it,
peft's (`unet....to_q.lora_A.weight`, `base_model.model....`), diffusers' older ones (`....lora.down.weight`,
`....lora_linear_layer.down.weight`, `....processor.to_q_lora.down.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Stored
from ondevice.converters.component import Checkpoint, shape_of, taken
from ondevice.converters.families import family_of
from ondevice.graph.adapted import WEIGHT, Module, Modules

_SLOTS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".hada_w1_a": "w1_a",
    ".hada_w1_b": "w1_b",
    ".hada_w2_a": "w2_a",
    ".hada_w2_b": "w2_b",
    ".hada_t1": "t1",
    ".hada_t2": "t2",
    ".diff": "diff",
    ".alpha": "alpha",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",  # of a processor
    "_lora.up.weight": "up",
}
REFUSED = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lokr_w": "LoKr",
    "lokr_t": "LoKr",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    "boft_": "BOFT",
    "on_input": "IA3",
    "glora_": "GLoRA",
    "vera_lambda": "VeRA",
}
"""Kinds of adapters whose formula is not here, by a part of their tensors' names."""
DENOISERS = ("unet", "transformer")
"""Parts of which a model has one, and what files of one network alone are of."""
_ROWS = ("up", "diff", "w1_a", "w2_a")  # what has as many rows as its module
_SWAPPED = ":1,0/2"
_CUT = re.compile(r"([0-9]|1[0-5])/([2-9]|1[0-6])")
_PROCESSOR = re.compile(r"(.*)\.processor\.(to_[qkv]|to_out)")


def split(name: str) -> tuple[str, str] | None:
    """(module as the file has it, slot), or None for a tensor that is no part of an adapter."""
    for ending, slot in _SLOTS.items():
        if name.endswith(ending):
            module = name.removesuffix(ending)
            if ending.startswith("_") and (found := _PROCESSOR.fullmatch(module)):
                module = f"{found[1]}.{found[2]}" + ".0" * (found[2] == "to_out")
            elif ending.startswith("_"):
                continue
            return module.removeprefix("base_model.model."), slot
    return None


def modules_of(checkpoint: Checkpoint) -> Modules:
    """Every layer of a checkpoint whose weight an adapter may change: those of the denoiser and of the text
    encoders."""
    family = family_of(checkpoint.family)
    found: dict[str, dict[str, Module]] = {}
    for part in (*DENOISERS, *dict.fromkeys(family.tokenizers.values())):
        component = checkpoint.components.get(part)
        for name, tensor in {} if component is None else component.weights.items():
            module = name.removesuffix(WEIGHT)
            if component is not None and module != name:
                place = family.parts[part].layout.place(name, component.config)
                original = place.name.removesuffix(WEIGHT) if part in DENOISERS else module
                original += f":{place.part}/{place.parts}" if part in DENOISERS and place.parts > 1 else ""
                original += _SWAPPED if part in DENOISERS and place.swapped else ""
                found.setdefault(part, {})[module] = Module(shape_of(tensor), "" if original == module else original)
    return found


class Target(NamedTuple):
    """A layer that a module of a file is for, by its part and its name in diffusers, and where in that module's rows
    it is."""

    part: str
    layer: str
    rows: Stored = Stored("")

    def of(self, slots: Mapping[str, ir.TensorProtocol]) -> dict[str, ir.TensorProtocol]:
        """Of a module's tensors those of the layer: what has the module's rows is cut."""
        return {slot: taken(one, self.rows, slot) if slot in _ROWS else one for slot, one in slots.items()}


def spellings(modules: Modules) -> Mapping[str, tuple[Target, ...]]:
    """{name of a layer in any layout: what it is here, several where queries, keys and values are one layer there}."""
    found: dict[str, tuple[Target, ...]] = {}
    encoders = len(modules.keys() - set(DENOISERS))
    for part, layers in modules.items():
        for name, module in layers.items():
            original, _, rows = module.original.partition(":")
            whole = [name, *([original] if original and not rows else [])]
            found |= dict.fromkeys(_spelled(part, whole, encoders), (Target(part, name),))
            if (cut := _CUT.fullmatch(rows)) and int(cut[1]) < int(cut[2]):
                place = Stored(original, int(cut[1]), int(cut[2]))
            elif rows == _SWAPPED.removeprefix(":"):
                place = Stored(original, swapped=True)
            else:
                continue
            for spelled in _original(part, original):
                found[spelled] = (*found.get(spelled, ()), Target(part, name, place))
    return found


def _original(part: str, name: str) -> Iterator[str]:
    """A denoiser's layer by its name in the original layout, in files of kohya's tools."""
    yield from (f"{head}{name.replace('.', '_')}" for head in dict.fromkeys(("lora_unet_", f"lora_{part}_")))


def _spelled(part: str, names: list[str], encoders: int) -> Iterator[str]:
    """A layer's name in each layout. `names`: diffusers', and a denoiser's in the original layout, by which kohya's
    tools call those of Stable Diffusion XL and 3."""
    module = names[0]
    yield from (f"{part}.{module}", f"{part}.{module.removeprefix('text_model.')}")  # the latter by transformers 5
    if part in DENOISERS:
        yield module  # peft's own files of one network
        yield from (spelled for name in names for spelled in _original(part, name))
        return
    number = "" if part == "text_encoder" else part.removeprefix("text_encoder_")
    heads = [f"lora_te{number or 1}_"] + ["lora_te_"] * (encoders == 1)
    yield from (f"{head}{module.replace('.', '_')}" for head in heads)
