"""What the package itself holds of every family."""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path

import pytest
from checkpoint_files import UNET, write_safetensors
from family_files import SMALL, original, same, tiny_of

from ondevice.converters.families import FAMILIES, family_of
from ondevice.converters.random_weights import random_checkpoint, random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.parts import component_of
from ondevice.diffusion.samplers import MODEL, make_table
from ondevice.diffusion.samplers.pipeline import choose
from ondevice.errors import CheckpointError, UsageError, WeightsError


def test_default_sources() -> None:
    assert FAMILIES["sd14"].source == "CompVis/stable-diffusion-v1-4"
    assert FAMILIES["sd15"].source == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert FAMILIES["demo"].source == str(FAMILIES["demo"].folder)
    assert family_of("sd14") is family_of(FAMILIES["sd14"]) is FAMILIES["sd14"]


@pytest.mark.parametrize("name", ["sd14", "sd15"])
def test_the_tokenizer_is_openai_clip(name: str) -> None:
    files = FAMILIES[name].tokenizer()
    vocabulary = json.loads(files["vocab.json"])
    assert len(vocabulary) == 49408
    assert vocabulary["<|endoftext|>"] == 49407
    assert files["merges.txt"].startswith(b"#version: 0.2\n")
    assert json.loads(files["tokenizer_config.json"])["model_max_length"] == 77
    assert json.loads(files["special_tokens_map.json"])["pad_token"] == "<|endoftext|>"


@pytest.mark.parametrize("name", ["sd14", "sd15"])
def test_the_scheduler_is_pndm(name: str) -> None:
    assert FAMILIES[name].scheduler()["_class_name"] == "PNDMScheduler"


# Counts that are published of each: the papers' and cards' billions of parameters of the UNet, which BK-SDM's round up.
@pytest.mark.parametrize(
    "name, billions",
    [
        ("bk-sdm-base", 0.58),
        ("bk-sdm-small", 0.49),
        ("bk-sdm-tiny", 0.33),
        ("sdxs", 0.32),
        ("ssd-1b", 1.33),
        ("segmind-vega", 0.745),
    ],
)
def test_small_unets_have_as_many_weights_as_is_published(name: str, billions: float) -> None:
    family = FAMILIES[name]
    count = sum(prod(shape) for shape in family.parts["unet"].architecture.weights(family.config("unet")).values())
    assert billions * 1e9 - 1e7 < count < billions * 1e9 + 2e6


def test_a_smaller_form_has_the_rest_of_its_base() -> None:
    small, base = FAMILIES["segmind-vega"], FAMILIES["sdxl"]
    assert small.config("text_encoder_2") == base.config("text_encoder_2") and small.scheduler() == base.scheduler()
    assert small.tokenizer("tokenizer_2") == base.tokenizer("tokenizer_2")
    assert small.config("unet") != base.config("unet")


def test_a_unet_that_is_published_apart_is_asked_for() -> None:
    said = (
        "sdxl-lightning: its UNet is published apart from the rest. Fix: download "
        "sdxl_lightning_4step_unet.safetensors (or 2step, 8step) from ByteDance/SDXL-Lightning, "
        "and give it with --unet; or give a whole checkpoint with --checkpoint."
    )
    with pytest.raises(UsageError) as caught:
        open_checkpoint(family="sdxl-lightning")
    assert str(caught.value) == said


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_weights_of_a_smaller_form_are_known(layout: str) -> None:
    """SSD-1B's UNet beside Stable Diffusion XL: same widths, other blocks."""
    sdxl, small = FAMILIES["sdxl"], FAMILIES["ssd-1b"]
    about, weights = small.parts["unet"], random_checkpoint(small, 0).components["unet"].weights
    config = small.config("unet")
    held = {n if layout == "diffusers" else about.layout.place(n, config).name: w for n, w in weights.items()}
    with pytest.raises(WeightsError) as caught:
        component_of(sdxl, "unet", sdxl.config("unet"), held, "m.safetensors")
    assert str(caught.value) == (
        "m.safetensors: these are the weights of ssd-1b's UNet, not of sdxl's. "
        "Fix: convert it as the model that it is: ondevice convert ssd-1b."
    )


def test_sdxs_draws_in_the_one_step_that_others_draw_it_in() -> None:
    """Timestep and coefficients of ExecuTorch's player for it."""
    (call,) = choose(FAMILIES["sdxs"].scheduler(), None, "sdxs", steps=1).table.calls
    weights = {source: weight for row in call.rows for source, weight in row.terms if weight != 1}
    assert call.timestep == 999 and sorted(weights.values()) == pytest.approx([-14.579279, 14.642591], rel=1e-6)


def test_a_single_file_of_a_smaller_form(tmp_path: Path) -> None:
    """Blocks are numbered in one row in the original layout, however many a level has."""
    configs = SMALL["ssd-1b"] | {"unet": SMALL["ssd-1b"]["unet"] | UNEVEN}
    tiny = random_checkpoint_from_configs(**configs, seed=2, family="ssd-1b")
    family = tiny_of(FAMILIES["ssd-1b"], tmp_path / "family", configs)
    arrays = original(tiny, family)
    places = {".".join(name.removeprefix(UNET).split(".")[:3]) for name in arrays if ".output_blocks." in name}
    levels = ({"0.0", "0.1", "1.0", "1.1", "1.2"}, {"2.0", "3.0", "4.0"})  # 1.2 is the upsampler
    assert places == {f"output_blocks.{place}" for place in set.union(*levels)}
    places = {".".join(name.removeprefix(UNET).split(".")[:3]) for name in arrays if ".input_blocks." in name}
    assert places == {f"input_blocks.{place}" for place in ("0.0", "1.0", "2.0", "3.0", "4.0", "4.1")}
    write_safetensors(tmp_path / "m.safetensors", arrays)
    same(open_checkpoint(tmp_path / "m.safetensors", family=family), tiny)


UNEVEN = {"layers_per_block": [2, 1], "transformer_layers_per_block": [1, [2]]}
UNEVEN |= {"reverse_transformer_layers_per_block": [[1, 2], 1]}


def test_what_a_sibling_lacks_is_the_demos_in_the_package_only(tmp_path: Path) -> None:
    demo, sibling = FAMILIES["demo"], FAMILIES["demo-lcm"]
    assert sibling.config("text_encoder") == demo.config("text_encoder")
    assert sibling.tokenizer() == demo.tokenizer() and sibling.scheduler() != demo.scheduler()
    read, whole = (open_checkpoint(None, family=family).components for family in (sibling, demo))
    assert read["vae"].config == whole["vae"].config and read["unet"].config != whole["unet"].config
    shutil.copytree(sibling.folder, tmp_path / "copy")
    with pytest.raises(CheckpointError, match="the folder text_encoder/ is missing"):
        open_checkpoint(tmp_path / "copy", family=sibling)


def test_lightnings_one_step_is_the_picture_that_its_unet_predicts() -> None:
    table = make_table("euler", 1, FAMILIES["sdxl-lightning-1step"].scheduler())
    (call,) = table.calls
    assert call.timestep == 999 and [row.terms for row in call.rows] == [((MODEL, 1.0),)]
    assert make_table("euler", 1, FAMILIES["sdxl-lightning"].scheduler()).calls[0].rows[0].terms[0] == (0, 1.0)
