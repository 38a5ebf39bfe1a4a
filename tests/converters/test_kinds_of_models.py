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
from ondevice.converters.read.diffusers_folder import check_family
from ondevice.diffusion.request_checks import pictures_begun_from
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


def spec_of_full(name):
    return spec_of(build(random_checkpoint(name, 0)))


@pytest.mark.parametrize(
    "name, ports",
    [("sd15-inpaint", ["sample", "mask", "masked_latents"]), ("instruct-pix2pix", ["sample", "image_latents"])],
)
def test_what_is_beside_a_sample_comes_after_it(name, ports):
    """In the order of diffusers' pipelines, which the weights were trained with."""
    graph = build(random_checkpoint(name, 0)).graph("unet", height=8, width=8).graph
    (joined,) = [node for node in graph if node.op_type == "Concat" and node.inputs[0].name == "sample"]
    assert [value.name for value in joined.inputs] == ports


def test_an_edited_picture_has_two_guidances():
    spec = spec_of_full("instruct-pix2pix")
    (loop,) = spec.denoise
    assert [(one.text, one.zeros) for one in loop.passes] == [
        ("negative_prompt", ("image_latents",)),
        ("negative_prompt", ()),
        ("prompt", ()),
    ]
    assert loop.combine.add == (("guidance_scale", 2, 1), ("image_guidance_scale", 1, 0))
    assert (loop.guided.number, loop.guided.alone, spec.numbers["image_guidance_scale"].low) == ("guidance_scale", 2, 1)


def test_an_inpainted_picture_is_encoded_where_a_run_begins_from_it():
    """Draws are in diffusers' order: the picture's, the noise, the masked picture's."""
    spec = spec_of_full("sd15-inpaint")
    drawn = [step for step in spec.before[1:] if getattr(step, "component", "") != "keys_values"]
    kept = [getattr(step, "keep", "noise") for step in drawn]
    assert kept == [
        {"latent_parameters": "image_moments"}, "image_latents", "noise",
        {"latent_parameters": "masked_moments"}, "masked_latents",
    ]  # fmt: skip
    assert [(step.below.number, step.below.limit) for step in drawn[:2]] == [("strength", 1.0)] * 2
    assert [spec_of_full(name).numbers["strength"].default for name in ("sd2-inpaint", "sdxl-inpaint")] == [1.0, 0.9999]


def test_what_goes_on_from_latents_asks_for_no_picture():
    assert pictures_begun_from(spec_of_full("sdxl-refiner")) == {"image"}
    assert pictures_begun_from(spec_of_full("sd15-inpaint")) == set()  # its UNet is given it, too


def test_a_folder_is_what_its_numbers_say_whichever_pipeline_saved_it(tmp_path):
    """diffusers draws with the same networks in several pipelines."""
    for name, pipeline in (("sd15", "StableDiffusionInpaintPipeline"), ("sdxl", "StableDiffusionXLImg2ImgPipeline")):
        for part in FAMILIES[name].parts:
            write_json(tmp_path / name / part / "config.json", FAMILIES[name].config(part))
        write_json(tmp_path / name / "model_index.json", {"_class_name": pipeline})
        check_family(tmp_path / name, FAMILIES[name])


def test_what_the_families_draw_with():
    said = {name: FAMILIES[name] for name in KINDS}
    assert [json.loads(said["sdxl-refiner"].tokenizer("tokenizer_2")["special_tokens_map.json"])["pad_token"]] == ["!"]
    assert (said["lcm"].scheduler()["_class_name"], said["lcm"].steps) == ("LCMScheduler", 4)
