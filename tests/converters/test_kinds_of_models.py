"""Families whose networks are those of Stable Diffusion 1.x, 2.x and XL but for what the UNet takes: their sizes,
folders and single files, and what is said of one that is taken for another."""

import json
import math

import numpy as np
import pytest
from checkpoint_files import message, write_json, write_safetensors
from family_files import TINY, convert_as, original, same, tiny_of, write_tree

from ondevice.compiler.picture import spec_of
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint, random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import CheckpointError

PUBLISHED = {  # tensors and parameters of the UNet
    "sd-turbo": (686, 865_910_724),
    "sdxl-turbo": (1680, 2_567_463_684),
    "lcm": (687, 859_602_884),
    "sd15-inpaint": (686, 859_535_364),
    "sdxl-refiner": (1220, 2_259_526_660),
}
KINDS = ["lcm", "sd15-inpaint", "sd2-inpaint", "sdxl-inpaint", "instruct-pix2pix", "sdxl-instruct-pix2pix"]
KINDS += ["sdxl-refiner"]


@pytest.mark.parametrize("name, size", PUBLISHED.items(), ids=PUBLISHED)
def test_the_published_sizes(name, size):
    family = FAMILIES[name]
    shapes = family.parts["unet"].architecture.weights(family.config("unet")).values()
    assert (len(shapes), sum(map(math.prod, shapes))) == size


@pytest.mark.parametrize("name", KINDS)
def test_a_model_of_full_size_without_any_file(name):
    """Its pipeline is one that a reader takes, of graphs that it has."""
    model = build(random_checkpoint(name, 0))
    assert {role.component for role in spec_of(model).roles()} == set(model.roles)


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_and_a_single_file(name, tmp_path):
    family, configs = FAMILIES[name], TINY[name]
    tiny = random_checkpoint_from_configs(**configs, seed=5, family=name)
    write_tree(tmp_path / "m", tiny, family, configs)
    found = open_checkpoint(tmp_path / "m", family=name)
    same(found, tiny)
    assert found.tokenizers == tiny.tokenizers
    write_safetensors(tmp_path / "m.safetensors", original(tiny, family))
    same(open_checkpoint(tmp_path / "m.safetensors", family=tiny_of(family, tmp_path / "f", configs)), tiny)


@pytest.mark.parametrize(
    "given, taken_for", [(name, "sd15") for name in KINDS] + [("sd15", "lcm"), ("sdxl", KINDS[-1])]
)
def test_a_folder_of_another_kind_names_the_model(given, taken_for, tmp_path):
    for part in FAMILIES[given].parts:
        write_json(tmp_path / part / "config.json", FAMILIES[given].config(part))
    theirs, ours = FAMILIES[given].title, FAMILIES[taken_for].title
    assert message(lambda: open_checkpoint(tmp_path, family=taken_for)) == (
        f"{tmp_path}: this is {theirs}, not {ours} (by the numbers in its configs). {convert_as(theirs)}"
    )


WIDTH = {"lcm": 768, "sd15-inpaint": 768, "sd2-inpaint": 1024, "sdxl-inpaint": 2048, "instruct-pix2pix": 768}
WIDTH |= {"sdxl-instruct-pix2pix": 2048, "sdxl-refiner": 1280, "sd15": 768}


def few_weights(name):
    """Those of a single file by which a model is known."""
    top = "model.diffusion_model."
    channels = FAMILIES[name].config("unet")["in_channels"]
    arrays = {
        f"{top}input_blocks.0.0.weight": np.zeros((320, channels, 3, 3), "f2"),
        f"{top}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": np.zeros((4, WIDTH[name]), "f2"),
    }
    return arrays | ({f"{top}time_embed.cond_proj.weight": np.zeros((320, 256), "f2")} if name == "lcm" else {})


@pytest.mark.parametrize(
    "given, taken_for",
    [(name, "sd14") for name in KINDS] + [("sd15", "sd15-inpaint"), ("sdxl-inpaint", "sdxl"), ("sdxl-refiner", "sdxl")],
)
def test_a_file_of_another_kind_names_the_model(given, taken_for, tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, few_weights(given))
    theirs, ours = FAMILIES[given].title, FAMILIES[taken_for].title
    assert message(lambda: open_checkpoint(path, family=taken_for)) == (
        f"{path}: this is {theirs}, not {ours} (by the shapes of its UNet's weights). {convert_as(theirs)}"
    )


def test_names_of_the_refiner_are_not_taken_for_the_base(tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"conditioner.embedders.0.model.ln_final.weight": np.ones(4, "f4")})
    for taken_for in ("sd15", "sdxl"):
        assert convert_as("Stable Diffusion XL Refiner") in message(lambda t=taken_for: open_checkpoint(path, family=t))


@pytest.mark.parametrize(
    ("name", "changes", "what"),
    [
        ("sd15-inpaint", {"in_channels": 4}, "is not those of a sample, a mask and the latents of a masked picture"),
        ("instruct-pix2pix", {"in_channels": 9}, "is not those of a sample and the latents of a picture (got 9"),
        ("lcm", {"time_cond_proj_dim": None}, "time_cond_proj_dim is not that of an LCM (got None, expected a number)"),
        ("lcm", {"time_cond_proj_dim": 3}, "'time_cond_proj_dim' is not supported (got 3, expected null, or a whole"),
        ("sdxl", {"time_cond_proj_dim": 10}, "that of a model that is not told its guidance (got 10, expected None)"),
        ("sdxl-refiner", {"projection_class_embeddings_input_dim": 46}, "and five times addition_time_embed_dim (got"),
    ],
)
def test_configs_that_do_not_fit(name, changes, what):
    with pytest.raises(CheckpointError) as caught:
        random_checkpoint_from_configs(**TINY[name] | {"unet": TINY[name]["unet"] | changes}, seed=1, family=name)
    assert what in str(caught.value)


def test_what_the_families_draw_with():
    said = {name: FAMILIES[name] for name in KINDS}
    assert [json.loads(said["sdxl-refiner"].tokenizer("tokenizer_2")["special_tokens_map.json"])["pad_token"]] == ["!"]
    assert (said["lcm"].scheduler()["_class_name"], said["lcm"].steps) == ("LCMScheduler", 4)
