"""Stable Diffusion 2.x: its folder, its single file with OpenCLIP's stacked layout,
and what is said where the model is another."""

import json

import numpy as np
import pytest
from checkpoint_files import DATA, manifest, message, write_json, write_safetensors
from family_files import TINY, convert_as, original, same, tiny_of

from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.names import is_ignorable

SD21 = FAMILIES["sd21"]
CONFIGS = TINY["sd21"]


@pytest.fixture(scope="module")
def tiny():
    return random_checkpoint_from_configs(**CONFIGS, seed=5, family="sd21")


@pytest.fixture
def family(tmp_path):
    return tiny_of(SD21, tmp_path / "family", CONFIGS)


@pytest.mark.parametrize("name", ["sd21", "sd21-base", "sd-turbo"])
@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_the_published_weights(name, part):
    assert FAMILIES[name].parts[part].architecture.weights(FAMILIES[name].config(part)) == manifest(f"sd21.{part}")


def test_what_the_families_say():
    assert [FAMILIES[name].scheduler()["prediction_type"] for name in ("sd21", "sd21-base", "sd-turbo")] == [
        "v_prediction",
        "epsilon",
        "epsilon",
    ]
    assert [FAMILIES[name].config("unet")["sample_size"] for name in ("sd21", "sd21-base", "sd-turbo")] == [96, 64, 64]
    for name in ("sd21", "sd21-base", "sd-turbo"):
        assert json.loads(FAMILIES[name].tokenizer()["special_tokens_map.json"])["pad_token"] == "!"


def test_rules_equal_the_published_map():
    rows = [json.loads(line) for line in (DATA / "maps" / "sd21.jsonl").read_text().splitlines()]
    shapes = manifest("sd21_original_rest")
    places = SD21.parts["text_encoder"].original_names(SD21.config("text_encoder"))
    assert {row["diffusers"] for row in rows} == set(places)
    for row in rows:
        (source, *cut), place = row["src"][0], places[row["diffusers"]]
        assert source == place.name and list(place.shape(shapes[source])) == row["shape"]
        rows_of = shapes[source][0] // place.parts
        assert cut in ([], [place.part * rows_of, (place.part + 1) * rows_of])
    known = {place.name for place in places.values()}
    prefix, layout = SD21.parts["text_encoder"].prefix, SD21.parts["text_encoder"].layout
    spare = [name for name in shapes if layout.spare(name.removeprefix(prefix), SD21.config("text_encoder"))]
    assert len(spare) == 14 and not known & {*spare}  # the 24th layer, the projection and the scale of logits
    assert not [name for name in shapes if name not in known and name not in spare and not is_ignorable(name)]


def test_a_single_file(tmp_path, tiny, family):
    arrays = original(tiny, family)
    assert arrays["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"].shape == (60, 20)
    beyond = {
        name.replace("resblocks.1.", "resblocks.2."): array * 2
        for name, array in arrays.items()
        if "resblocks.1." in name
    }
    more = {
        "cond_stage_model.model.text_projection": np.eye(20, dtype="f4"),
        "cond_stage_model.model.logit_scale": np.ones((), "f4"),
    }
    write_safetensors(tmp_path / "m.safetensors", arrays | beyond | more)
    same(open_checkpoint(tmp_path / "m.safetensors", family=family), tiny)
    name = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias"
    write_safetensors(tmp_path / "m.safetensors", arrays | {name: np.zeros(61, "f4")})
    with pytest.raises(Exception, match=r"3 mis-shaped: .*q_proj\.bias \(got \[61\], expected \[20\]\)"):
        open_checkpoint(tmp_path / "m.safetensors", family=family)


def write_tree(root, names, **unets):
    for part in names:
        write_json(root / part / "config.json", SD21.config(part) | (unets if part == "unet" else {}))
    return root


def test_a_folder_of_another_family_names_the_model(tmp_path):
    root = write_tree(tmp_path / "m", ["text_encoder", "unet", "vae"])
    said = "this is Stable Diffusion 2.x, not Stable Diffusion 1.x (by the numbers in its configs)."
    assert message(lambda: open_checkpoint(root, family="sd15")) == (
        f"{root}: {said} Fix: convert it as the model that it is: ondevice convert sd21 or sd21-base or sd-turbo."
    )
    write_tree(root, ["unet"], cross_attention_dim=768)
    said = "this is Stable Diffusion 1.x, not Stable Diffusion 2.x (by the numbers in its configs)."
    assert (
        message(lambda: open_checkpoint(root, family="sd21")) == f"{root}: {said} {convert_as('Stable Diffusion 1.x')}"
    )


def test_a_file_of_another_family_names_the_model(tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"cond_stage_model.model.ln_final.weight": np.ones(4, "f4")})
    assert message(lambda: open_checkpoint(path, family="sd14")) == (
        f"{path}: this is Stable Diffusion 2.x, not Stable Diffusion 1.x (it has weights named "
        f"cond_stage_model.model....). {convert_as('Stable Diffusion 2.x')}"
    )
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    write_safetensors(path, {key: np.zeros((4, 768), "f4"), key.replace("to_k", "to_v"): np.zeros((4, 768), "f4")})
    assert "this is Stable Diffusion 1.x, not Stable Diffusion 2.x (by" in message(
        lambda: open_checkpoint(path, family="sd21")
    )
