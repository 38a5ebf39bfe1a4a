"""diffusers' and transformers' modules with a checkpoint's weights, taking and giving what our graphs do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ondevice.converters.component import Component
from ondevice.errors import PeerError

INPUTS = {  # in the order of forward's arguments
    "unet": ("sample", "timestep", "encoder_hidden_states"),
    "vae_decoder": ("latent_sample",),
    "text_encoder": ("input_ids",),
}


def module_of(
    component: str, part: Component, state: dict[str, torch.Tensor], *, plain_attention: bool = False
) -> torch.nn.Module:
    """`component` in eval mode, holding the tensors of `state` (by their on-disk names) without a copy.

    With `plain_attention` the text encoder's is spelled out as products, mask and softmax.
    """
    import diffusers
    import transformers

    with torch.device("meta"):  # parameters that are replaced at once need no memory
        if component == "unet":
            whole: Any = diffusers.UNet2DConditionModel.from_config(part.config)
        elif component == "vae_decoder":
            tiny = part.config.get("_class_name") == "AutoencoderTiny"
            whole = (diffusers.AutoencoderTiny if tiny else diffusers.AutoencoderKL).from_config(part.config)
        else:
            whole = transformers.CLIPTextModel(transformers.CLIPTextConfig(**part.config))
            if plain_attention:
                whole.set_attn_implementation("eager")
    if component == "text_encoder" and not any(name.startswith("text_model.") for name in whole.state_dict()):
        state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    missing, extra = whole.load_state_dict(state, strict=False, assign=True)
    if missing or extra:
        raise PeerError(f"the module's weights do not fit (missing {missing[:3]}, extra {extra[:3]}).", where=component)
    for name, buffer in list(whole.named_buffers()):
        if buffer.is_meta:  # position_ids, the one buffer: not in a state dict
            owner, _, leaf = name.rpartition(".")
            setattr(whole.get_submodule(owner), leaf, torch.arange(buffer.shape[-1]).expand(buffer.shape))
    return _Plain(component, whole).eval()


class _Plain(torch.nn.Module):
    """Tensors in, one tensor out: no dictionaries, which a trace cannot follow."""

    def __init__(self, component: str, whole: Any) -> None:
        super().__init__()
        self.component = component
        if component == "vae_decoder":
            self.first, self.decoder = getattr(whole, "post_quant_conv", torch.nn.Identity()), whole.decoder
        else:
            self.whole = whole

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if self.component == "unet":
            out: torch.Tensor = self.whole(*inputs, return_dict=False)[0]
        elif self.component == "vae_decoder":
            out = self.decoder(self.first(inputs[0]))
        else:
            out = self.whole(inputs[0], return_dict=False)[0]
        return out


def weights_of(part: Component) -> Iterable[tuple[str, torch.Tensor]]:
    """Every weight in float32, one at a time."""
    return ((name, torch.from_numpy(np.array(tensor.numpy(), np.float32))) for name, tensor in part.weights.items())


def arguments(component: str, inputs: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
    """forward's arguments."""
    given = (torch.from_numpy(np.asarray(inputs[name])) for name in INPUTS[component])
    return tuple(tensor.long() if component == "text_encoder" else tensor for tensor in given)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A .safetensors file, mapped."""
    from safetensors.torch import load_file

    return dict(load_file(path))
