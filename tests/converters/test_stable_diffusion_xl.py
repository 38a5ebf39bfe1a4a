"""Stable Diffusion XL: its weights, names and configs, its single file and folder with two tokenizers,
and what fits what."""

import gzip
import json

import numpy as np
import pytest
from checkpoint_files import DATA, TINY_TEXT, TINY_VAE, message, write_safetensors
from family_files import TINY, convert_as, original, same, tiny_of, write_tree

from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import CheckpointError
from ondevice.graph.verify import verify_graph

SDXL = FAMILIES["sdxl"]
CONFIGS = TINY["sdxl"]


@pytest.fixture(scope="module")
def tiny():
    return random_checkpoint_from_configs(**CONFIGS, seed=5, family="sdxl")


@pytest.mark.parametrize("name, published", [("sdxl", "sdxl_base"), ("sdxl-refiner", "sdxl_refiner")])
def test_names_and_shapes_equal_the_published_map(name, published):
    lines = gzip.decompress((DATA / "maps" / f"{published}.tsv.gz").read_bytes()).decode().splitlines()
    family = FAMILIES[name]
    rows = {tuple(row[:2]): row[2:] for row in (line.split("\t") for line in lines)}
    seen = 0
    for part in (part for part in family.parts if part != "vae"):
        config, about = family.config(part), family.parts[part]
        places = about.original_names(config)
        for name, shape in about.architecture.weights(config).items():
            sizes, operation, source, *cut = rows[part, name]
            place = places[name]
            assert ("x".join(map(str, shape)), source) == (sizes, place.name)
            assert (operation == "transpose", operation == "slice_rows") == (place.transposed, place.parts == 3)
            assert not cut or [int(row) for row in cut] == [place.part * shape[0], (place.part + 1) * shape[0]]
            seen += 1
    assert seen == len(rows)


def test_what_the_family_says():
    pads = {name: json.loads(SDXL.tokenizer(name)["special_tokens_map.json"])["pad_token"] for name in SDXL.tokenizers}
    assert pads == {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
    assert (SDXL.scheduler()["_class_name"], SDXL.config("vae")["scaling_factor"]) == (
        "EulerDiscreteScheduler",
        0.13025,
    )


def test_its_graphs(tiny):
    model = build(tiny)
    own = ("condition", "keys_values", "unet")
    assert model.roles == ("text_encoder", "text_encoder_2", *own, "vae_decoder", "vae_encoder")
    used, parts = {}, {role: about.part for role, about in model.family.roles.items()}
    for role in model.roles:
        graph = model.graph(role, batch=2, **({"height": 4, "width": 6} if model.sized(role) else {}))
        verify_graph(graph)
        ports = SDXL.parts[parts[role]].architecture
        names = {name.split(":")[0].removesuffix(".T") for name in graph.graph.initializers}
        used.setdefault(parts[role], set()).update(names & ports.weights(tiny.components[parts[role]].config).keys())
    assert used["unet"] == set(tiny.components["unet"].weights) and used["text_encoder_2"] == set(
        tiny.components["text_encoder_2"].weights
    )
    beyond = set(tiny.components["text_encoder"].weights) - used["text_encoder"]
    # the last layer is not asked for
    assert beyond and all(".layers.1." in name or "final_layer_norm" in name for name in beyond)


def test_a_unet_that_takes_sizes_is_not_of_a_model_with_one_text_encoder():
    unet = CONFIGS["unet"] | {"cross_attention_dim": TINY_TEXT["hidden_size"]}
    said = message(lambda: random_checkpoint_from_configs(text_encoder=TINY_TEXT, unet=unet, vae=TINY_VAE, seed=1))
    assert (
        "the unet's addition_embed_type is not that of a model with one text encoder (got text_time, expected None)"
        in said
    )


def test_a_folder(tmp_path, tiny):
    write_tree(tmp_path / "m", tiny, SDXL, CONFIGS)
    found = open_checkpoint(tmp_path / "m", family="sdxl")
    same(found, tiny)
    assert found.tokenizers == tiny.tokenizers and list(found.tokenizers) == ["tokenizer", "tokenizer_2"]
    assert message(lambda: open_checkpoint(tmp_path / "m", family="sd14")) == (
        f"{tmp_path / 'm'}: this is Stable Diffusion XL, not Stable Diffusion 1.x (its model_index.json names "
        f"StableDiffusionXLPipeline). {convert_as(SDXL.title)}"
    )


def test_a_single_file(tmp_path, tiny):
    arrays, family = original(tiny, SDXL), tiny_of(SDXL, tmp_path / "family", CONFIGS)
    ignored = {"conditioner.embedders.1.model.logit_scale": np.ones((), "f4"), "denoiser.sigmas": np.ones(3, "f4")}
    ignored["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = np.arange(77)[None]
    write_safetensors(tmp_path / "m.safetensors", arrays | ignored)
    assert arrays["conditioner.embedders.1.model.text_projection"].shape == (24, 10)
    same(open_checkpoint(tmp_path / "m.safetensors", family=family), tiny)
    assert convert_as(SDXL.title) in message(lambda: open_checkpoint(tmp_path / "m.safetensors", family="sd15"))
    vae = {
        name.removeprefix("first_stage_model."): array * 2
        for name, array in arrays.items()
        if name.startswith("first_stage_model.")
    }
    write_safetensors(tmp_path / "vae.safetensors", vae)
    found = open_checkpoint(tmp_path / "m.safetensors", family=family, vae=tmp_path / "vae.safetensors")
    name = "decoder.conv_in.weight"
    np.testing.assert_array_equal(
        found.components["vae"].weights[name].numpy(), 2 * tiny.components["vae"].weights[name].numpy()
    )


@pytest.mark.parametrize(
    ("part", "changes", "what"),
    [
        (
            "unet",
            {"cross_attention_dim": 20},
            "unet's cross_attention_dim is not the sum of the text encoders' hidden_size (got 20, expected 44)",
        ),
        (
            "text_encoder_2",
            {"projection_dim": 11},
            "projection_dim and six times addition_time_embed_dim (got 46, expected 47)",
        ),
        (
            "unet",
            {"addition_embed_type": None},
            "addition_embed_type is not that of Stable Diffusion XL (got None, expected text_time)",
        ),
        (
            "unet",
            {"addition_time_embed_dim": None},
            "addition_time_embed_dim None and projection_class_embeddings_input_dim 46 leave no",
        ),
        (
            "unet",
            {"transformer_layers_per_block": [1, 2, 3]},
            "'transformer_layers_per_block' has 3 entries and block_out_channels has 2",
        ),
        ("text_encoder_2", {"vocab_size": 1 << 18}, "vocab_size 262144 times max_position_embeddings 77 is over 2^24"),
        (
            "text_encoder_2",
            {"max_position_embeddings": 70},
            "text_encoder_2's max_position_embeddings is not the text_encoder's",
        ),
    ],
)
def test_configs_that_do_not_fit(part, changes, what):
    with pytest.raises(CheckpointError) as caught:
        random_checkpoint_from_configs(**CONFIGS | {part: CONFIGS[part] | changes}, seed=1, family="sdxl")
    assert what in str(caught.value)
