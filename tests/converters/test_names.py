"""The original layout's names, computed from the config, against published key maps and manifests."""

from __future__ import annotations

import json

import pytest
from checkpoint_files import (
    DATA,
    PARTS,
    TINY_UNET,
    TINY_VAE,
    canonical,
    expected_weights,
    manifest,
    normalize,
    original_names,
)

from ondevice.converters.families import FAMILIES
from ondevice.converters.onnx_import.naming import fit
from ondevice.converters.read.names import ema_name, is_ignorable


def all_names() -> dict[str, str]:
    """{original: component} of Stable Diffusion 1.5."""
    return {old: name for name in PARTS for old in original_names(name, FAMILIES["sd15"].config(name)).values()}


@pytest.mark.parametrize("component", PARTS)
def test_rules_equal_the_published_map(component: str) -> None:
    rows = [json.loads(line) for line in (DATA / "maps" / "sd15.jsonl").read_text().splitlines()]
    published = {row["diffusers"]: row["src"][0][0] for row in rows if row["component"] == component}
    assert original_names(component, FAMILIES["sd15"].config(component)) == published


@pytest.mark.parametrize("component", PARTS)
def test_shapes_are_equal_but_for_the_vae_attention(component: str) -> None:
    config, original = FAMILIES["sd15"].config(component), manifest("sd1x_min")
    shapes = expected_weights(component, config)
    for name, old in original_names(component, config).items():
        squeezed = component == "vae" and ".attentions." in name and name.endswith(".weight") and len(shapes[name]) == 2
        assert original[old] == (*shapes[name], 1, 1) if squeezed else shapes[name], name


@pytest.mark.parametrize("layout", ["sd1x", "sd1x_min", "sd1x_with_ema"])
def test_every_name_of_every_layout_is_used_or_known_to_be_ignorable(layout: str) -> None:
    names, used = manifest(layout), all_names()
    assert set(used) <= set(names)
    assert [name for name in names if name not in used and not is_ignorable(name)] == []
    assert [name for name in used if is_ignorable(name)] == []


def test_moving_averages_have_the_names_that_ldm_gives_them() -> None:
    averages = {name for name in manifest("sd1x_with_ema") if name.startswith("model_ema.diffusion_model")}
    assert averages == {ema_name(old) for old, component in all_names().items() if component == "unet"}


def test_maps_are_one_to_one_for_other_shapes() -> None:
    for layers in (1, 3):
        unet = normalize("unet", TINY_UNET | {"layers_per_block": layers}, "test")
        vae = normalize("vae", TINY_VAE | {"layers_per_block": layers}, "test")
        for component, config in (("unet", unet), ("vae", vae)):
            names = original_names(component, config)
            assert len(set(names.values())) == len(names) == len(expected_weights(component, config))


def test_the_old_attention_spelling_of_the_vae_is_the_new_one() -> None:
    old, new = manifest("sd14.vae.deprecated_attn_names"), manifest("sd14.vae")
    assert {canonical("vae", name) for name in old} == set(new)
    assert [name for name in new if canonical("vae", name) != name] == []


def test_the_text_encoder_prefix_that_transformers_5_drops_is_put_back() -> None:
    names = manifest("sd14.text_encoder")
    assert [name for name in names if canonical("text_encoder", name.removeprefix("text_model.")) != name] == []
    assert [name for name in names if canonical("text_encoder", name) != name] == []


def test_a_name_that_is_no_text_becomes_one_of_its_own() -> None:
    names = [fit(name) for name in (b"ab\xff", b"ab\xfe", "ab\\xff", "ab")]
    assert (
        len(set(names)) == 4 and all(name and name.isprintable() for name in names) and names[2:] == ["ab\\xff", "ab"]
    )
