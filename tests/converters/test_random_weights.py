"""Made-up weights: the same for the same seed, all different,
and activations that stay near 1 through every network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checkpoint_files import PARTS, arrays_of, manifest, tiny_checkpoint

from ondevice.converters.random_weights import random_checkpoint, random_checkpoint_from_configs


def test_the_full_size_model_has_the_published_weights_and_holds_nothing() -> None:
    checkpoint = random_checkpoint("sd14", 0)
    for component in PARTS:
        weights = checkpoint.components[component].weights
        assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == manifest(f"sd14.{component}")
    weight = checkpoint.components["unet"].weights["conv_in.weight"]
    assert weight.numpy() is not weight.numpy()
    assert checkpoint.source == "random weights, seed 0"


def test_a_seed_decides_every_value() -> None:
    for component in PARTS:
        one, again, other = (arrays_of(tiny_checkpoint(seed), component) for seed in (3, 3, 4))
        for name, array in one.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, again[name])
            assert not np.array_equal(array, other[name])


def test_values_do_not_change_between_releases() -> None:
    weight = arrays_of(tiny_checkpoint(3), "unet")["conv_in.weight"]
    np.testing.assert_allclose(weight.reshape(-1)[:4], [-0.186224, 0.182618, 0.139205, -0.093549], atol=1e-6)


def test_no_two_tensors_are_alike() -> None:
    checkpoint = tiny_checkpoint()
    arrays = [array.tobytes() for component in PARTS for array in arrays_of(checkpoint, component).values()]
    assert len(set(arrays)) == len(arrays)


def spread(values: Any) -> float:
    return float(values.detach().float().std())


MEDIUM_UNET = {
    "block_out_channels": [64, 128, 192, 192],
    "cross_attention_dim": 96,
    "attention_head_dim": 4,
}
MEDIUM_TEXT = {
    "vocab_size": 300,
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
}
MEDIUM_VAE = {
    "block_out_channels": [32, 64, 128, 128],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}


@pytest.mark.parity
def test_activations_stay_near_one_everywhere() -> None:
    """Every module's output in the reference implementation, at SD 1.x's depth and half its width or less."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    checkpoint = random_checkpoint_from_configs(text_encoder=MEDIUM_TEXT, unet=MEDIUM_UNET, vae=MEDIUM_VAE, seed=1)
    models = {
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**MEDIUM_TEXT)),
        "unet": diffusers.UNet2DConditionModel(**MEDIUM_UNET),
        "vae": diffusers.AutoencoderKL(**MEDIUM_VAE),
    }
    largest = {}
    for component, model in models.items():
        state = {name: torch.from_numpy(array) for name, array in arrays_of(checkpoint, component).items()}
        if not any(name.startswith("text_model.") for name in model.state_dict()):
            state = {name.removeprefix("text_model."): value for name, value in state.items()}
        model.load_state_dict(state)
        model.eval()
        for name, module in model.named_modules():

            def keep(_: Any, __: Any, out: Any, at: str = f"{component}.{name}") -> None:
                if isinstance(out, torch.Tensor):
                    largest[at] = float(out.abs().max())

            module.register_forward_hook(keep)
    torch.manual_seed(0)
    with torch.no_grad():
        text = models["text_encoder"](torch.randint(0, 300, (1, 77))).last_hidden_state
        noise = models["unet"](torch.randn(1, 4, 16, 16), torch.tensor([500.0]), text).sample
        picture = models["vae"].decode(torch.randn(1, 4, 16, 16)).sample
        moments = models["vae"].encode(picture).latent_dist.parameters
    assert max(largest.values()) < 100, max(largest.items(), key=lambda item: item[1])  # float16 ends at 65504
    for values in (text, noise, picture, moments):
        assert 0.2 < spread(values) < 3
