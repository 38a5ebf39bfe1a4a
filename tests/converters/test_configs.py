"""Config normalization: defaults filled in, what the graphs cannot build refused by key and value."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from checkpoint_files import DATA, KEYS, PARTS, TINY_TEXT, TINY_UNET, TINY_VAE, expected_weights, normalize
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.converters.families import FAMILIES
from ondevice.errors import CheckpointError

TINY: dict[str, dict[str, Any]] = {"text_encoder": TINY_TEXT, "unet": TINY_UNET, "vae": TINY_VAE}


@pytest.mark.parametrize("component", PARTS)
def test_every_known_key_is_there_afterwards(component: str) -> None:
    config = normalize(component, TINY[component], "test")
    assert set(KEYS[component]) <= set(config)
    assert normalize(component, config, "test") == config


def test_defaults_are_not_shared_between_configs() -> None:
    normalize("unet", {}, "test")["block_out_channels"].append(1)
    assert normalize("unet", {}, "test")["block_out_channels"] == [320, 640, 1280, 1280]


def test_unknown_keys_are_kept() -> None:
    assert normalize("unet", TINY_UNET | {"sample_size": 64, "_note": 1}, "test")["sample_size"] == 64


@pytest.mark.parametrize("family", ["sd14", "sd15"])
@pytest.mark.parametrize("component", PARTS)
def test_the_families_own_configs_are_supported(family: str, component: str) -> None:
    assert set(KEYS[component]) <= set(FAMILIES[family].config(component))


@pytest.mark.parametrize(
    ("component", "key", "value"),
    [
        ("text_encoder", "max_position_embeddings", 49409),
        ("unet", "class_embed_type", "timestep"),
        ("unet", "addition_embed_type", "image"),
        ("unet", "dual_cross_attention", True),
        ("unet", "only_cross_attention", [True, 0]),
        ("unet", "act_fn", "gelu"),
        ("unet", "resnet_time_scale_shift", "scale_shift"),
        ("unet", "time_cond_proj_dim", 3),
        ("unet", "block_out_channels", [320, "640"]),
        ("unet", "block_out_channels", []),
        ("unet", "layers_per_block", [1, 0]),
        ("unet", "mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("unet", "reverse_transformer_layers_per_block", [1, [2, [3]]]),
        ("unet", "num_attention_heads", 8),
        ("unet", "layers_per_block", 10**9),
        ("unet", "in_channels", True),
        ("unet", "down_block_types", ["DownBlock2D", "AttnDownBlock2D"]),
        ("unet", "center_input_sample", 0),
        ("unet", "transformer_layers_per_block", [1, 33]),
        ("unet", "norm_eps", float("nan")),
        ("unet", "cross_attention_dim", None),
        ("vae", "mid_block_add_attention", False),
        ("vae", "scaling_factor", 0),
        ("vae", "_class_name", "AutoencoderTiny"),
        ("text_encoder", "hidden_act", "relu"),
        ("text_encoder", "num_hidden_layers", 10**9),
    ],
)
def test_what_is_not_supported_is_refused_by_key_and_value(component: str, key: str, value: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        normalize(component, TINY[component] | {key: value}, "its config")
    assert str(caught.value).startswith(f"its config: config key {key!r} is not supported (got {value!r}, expected ")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"transformer_layers_per_block": [[1], 1]},
            "has lists per block and 'reverse_transformer_layers_per_block' is",
        ),
        (
            {"transformer_layers_per_block": [[1, 2], 1], "reverse_transformer_layers_per_block": [1, [1, 2]]},
            "'transformer_layers_per_block' has [1, 2] for a level of 1 blocks.",
        ),
        (
            {"layers_per_block": [1, 3], "reverse_transformer_layers_per_block": [1, [1]]},
            "'reverse_transformer_layers_per_block' has [1] for a level of 2 blocks.",
        ),
        ({"layers_per_block": [1, 3, 2]}, "'layers_per_block' has 3 entries and block_out_channels has 2."),
    ],
)
def test_lists_that_do_not_fit_the_levels_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(problem)):
        normalize("unet", TINY["unet"] | changes, "its config")


def test_stable_diffusion_2_is_supported_as_a_config() -> None:
    config = json.loads((DATA / "configs" / "sd21" / "unet" / "config.json").read_text())
    assert normalize("unet", config, "sd21")["attention_head_dim"] == [5, 10, 20, 20]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(component=st.sampled_from(PARTS), data=st.data())
def test_any_config_is_normalized_or_refused(component: str, data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from([*KEYS[component], "_class_name"]), max_size=4))
    changes = {key: data.draw(JUNK) for key in keys}
    try:
        config = normalize(component, TINY[component] | changes, "test")
    except CheckpointError:
        return
    assert expected_weights(component, config)
