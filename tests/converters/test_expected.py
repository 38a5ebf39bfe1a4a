"""Weights computed from configs equal the manifests of real models, and what diffusers itself makes of odd configs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from checkpoint_files import DATA, TINY_TEXT, TINY_UNET, TINY_VAE, expected_weights, manifest, normalize
from hypothesis import given, settings
from hypothesis import strategies as st
from unet_configs import MIDDLES, UP, layers_and_depths, some

from ondevice.converters.families import FAMILIES


@pytest.mark.parametrize("family", ["sd14", "sd15"])
@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae"])
def test_stable_diffusion_1_has_the_published_weights(family: str, component: str) -> None:
    assert expected_weights(component, FAMILIES[family].config(component)) == manifest(f"sd14.{component}")


@pytest.mark.parametrize("component", ["text_encoder", "unet"])
def test_other_widths_heads_and_projections_follow_the_config(component: str) -> None:
    """Stable Diffusion 2.1: 23 text layers, Linear projections, a list of head counts."""
    config = json.loads((DATA / "configs" / "sd21" / component / "config.json").read_text())
    assert expected_weights(component, normalize(component, config, "sd21")) == manifest(f"sd21.{component}")


@pytest.mark.parity
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("down", [["CrossAttnDownBlock2D", "DownBlock2D"], ["DownBlock2D", "CrossAttnDownBlock2D"]])
def test_odd_unets_have_the_weights_that_diffusers_makes(layers: int, down: list[str]) -> None:
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    up = [name.replace("Down", "Up") for name in reversed(down)]
    raw = TINY_UNET | {
        "layers_per_block": layers,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": [12, 36],
    }
    config = normalize("unet", raw, "test")
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(**raw)
    assert expected_weights("unet", config) == {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parity
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_levels_have_the_weights_that_diffusers_makes(data: st.DataObject) -> None:
    """Numbers per level and per block, and every middle."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    count, draw = data.draw(st.integers(1, 3)), data.draw
    down = draw(some(count, st.sampled_from(sorted(UP))))
    raw = TINY_UNET | layers_and_depths(draw, count)
    raw |= {
        "block_out_channels": [12 * draw(st.integers(1, 3)) for _ in range(count)],
        "down_block_types": down,
        "up_block_types": [UP[kind] for kind in reversed(down)],
        "mid_block_type": draw(st.sampled_from(MIDDLES)),
        "only_cross_attention": draw(some(count, st.booleans())),
        "time_embedding_dim": draw(st.none() | st.integers(1, 50)),
        "use_linear_projection": draw(st.booleans()),
    }
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(**raw)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert expected_weights("unet", normalize("unet", raw, "test")) == expected


@pytest.mark.parity
@pytest.mark.parametrize(
    "changes", [{}, {"layers_per_block": 2, "block_out_channels": [8, 12, 20], "latent_channels": 3}]
)
def test_odd_vaes_have_the_weights_that_diffusers_makes(changes: dict[str, Any]) -> None:
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    raw = TINY_VAE | changes
    raw |= {
        f"{side}_block_types": raw[f"{side}_block_types"][:1] * len(raw["block_out_channels"])
        for side in ("down", "up")
    }
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(**raw)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert expected_weights("vae", normalize("vae", raw, "test")) == expected


@pytest.mark.parity
def test_odd_text_encoders_have_the_weights_that_transformers_makes() -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TINY_TEXT))
    found = {
        f"text_model.{name.removeprefix('text_model.')}": tuple(value.shape)
        for name, value in model.state_dict().items()
    }
    assert expected_weights("text_encoder", normalize("text_encoder", TINY_TEXT, "test")) == found
