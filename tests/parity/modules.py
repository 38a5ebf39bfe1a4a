"""Small torch modules with distinct random weights, and the same weights as our checkpoint."""

import numpy as np
import onnx_ir as ir
import pytest
from checkpoint_files import normalize

from ondevice.converters.component import fitted
from ondevice.converters.families import FAMILIES

# Odd on purpose: channels that no tile divides, three heads, groups that do not divide 32.
UNET = {
    "block_out_channels": [36, 60, 84],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 20,
    "attention_head_dim": 3,
    "norm_num_groups": 6,
    "sample_size": 16,
}
VAE = {
    "block_out_channels": [20, 30, 40, 50],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 5,
}
TEXT = {
    "vocab_size": 1000,
    "hidden_size": 20,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}


def torch_module(component, config, seed=0):
    """A module in eval mode whose every parameter differs from every other."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    if component == "unet":
        module = diffusers.UNet2DConditionModel(**config)
    elif component == "vae":
        module = diffusers.AutoencoderKL(**config)
    else:
        module = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config, bos_token_id=0, eos_token_id=2))
    with torch.no_grad():  # norms start as ones and zeros, which would hide a missing scale or shift
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embedding" in name:
                parameter.normal_()
    return module.eval()


def as_component(component, config, module):
    """The module's weights as a checkpoint component, under their on-disk names."""
    found = {}
    for name, value in module.state_dict().items():
        if component == "text_encoder" and not name.startswith("text_model."):
            name = f"text_model.{name}"
        if not name.endswith("position_ids"):
            found[name] = ir.tensor(value.detach().numpy().copy(), name=name)
    return fitted(FAMILIES["sd14"], component, normalize(component, config, "test"), found, "test")


def relative_error(got, expected):
    """Largest difference over the largest reference value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())
