"""Configs and weights as versions of diffusers and transformers, and scripts beside them, have written them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import (
    TINY_TEXT,
    TINY_UNET,
    TINY_VAE,
    arrays_of,
    normalize,
    original_names,
    tiny_checkpoint,
    tiny_family,
    write_folder,
    write_json,
    write_safetensors,
)

from ondevice.compiler.jobs import training_size
from ondevice.converters.architectures.unet import UNET
from ondevice.converters.families import FAMILIES
from ondevice.converters.read.checkpoint import Checkpoint, open_checkpoint
from ondevice.converters.read.hub import wanted_files
from ondevice.errors import CheckpointError, UsageError, WeightsError

TINY: dict[str, dict[str, Any]] = {"text_encoder": TINY_TEXT, "unet": TINY_UNET, "vae": TINY_VAE}
CLIP_ONLY = (
    "text_projection.weight",
    "logit_scale",
    "vision_model.embeddings.class_embedding",
    "visual_projection.weight",
)


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return tiny_checkpoint()


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    for name in TINY:
        ours, theirs = arrays_of(found, name), arrays_of(expected, name)
        assert list(ours) == list(theirs)
        for key, array in theirs.items():
            np.testing.assert_array_equal(ours[key], array, err_msg=key)


@pytest.mark.parametrize(
    ("component", "key", "value", "kept"),
    [
        ("unet", "norm_eps", 1, 1.0),
        ("text_encoder", "layer_norm_eps", 1, 1.0),
        ("vae", "scaling_factor", 1, 1.0),
        ("unet", "freq_shift", 0.0, 0),
        ("unet", "act_fn", "SiLU", "silu"),
        ("unet", "layers_per_block", [1, 1], 1),
        ("unet", "transformer_layers_per_block", [1, 1], 1),
        ("unet", "cross_attention_dim", [20, 20], 20),
        ("unet", "only_cross_attention", [False, False], False),
        (
            "unet",
            "down_block_types",
            ["CrossAttnDownBlock2D", "UNetResDownBlock2D"],
            ["CrossAttnDownBlock2D", "DownBlock2D"],
        ),
        ("unet", "use_linear_projection", None, False),
        ("unet", "dual_cross_attention", None, False),
        ("unet", "time_embedding_dim", 48, 48),
        ("unet", "cross_attention_norm", False, False),
        ("unet", "mid_block_only_cross_attention", True, True),  # of no meaning to the block types that we build
        ("vae", "shift_factor", 0.0, 0.0),
        ("vae", "_class_name", "FlaxAutoencoderKL", "FlaxAutoencoderKL"),
    ],
)
def test_what_diffusers_treats_alike_is_taken(component: str, key: str, value: Any, kept: Any) -> None:
    found = normalize(component, TINY[component] | {key: value}, "test")[key]
    assert found == kept and type(found) is type(kept)


@pytest.mark.parametrize(
    ("component", "key", "value", "message"),
    [
        ("unet", "in_channels", 4.0, "(got 4.0, expected a whole number from 1 to 1048576). Fix: write 4 there."),
        (
            "text_encoder",
            "num_hidden_layers",
            2.0,
            "(got 2.0, expected a whole number from 1 to 256). Fix: write 2 there.",
        ),
        (
            "unet",
            "sample_size",
            "64",
            "(got '64', expected null, a whole number from 1, or two: [height, width])."
            " Fix: write the latents' height and width there, such as 64 for pictures of 512 pixels.",
        ),
        (
            "unet",
            "sample_size",
            64.0,
            "(got 64.0, expected null, a whole number from 1, or two: [height, width]). Fix: write 64 there.",
        ),
        (
            "vae",
            "latent_channels",
            65,
            "(got 65, expected a whole number from 1 to 64). Fix: use the config.json that came with the weights.",
        ),
        (
            "vae",
            "block_out_channels",
            [4] * 8,
            "(got [4, 4, 4, 4, 4, 4, 4, 4], expected a list of 1 to 7 whole numbers from 1 to 1048576)."
            " Fix: use the config.json that came with the weights.",
        ),
        (
            "vae",
            "scaling_factor",
            None,
            "(got None, expected a number above 1e-09 and below 1e6). Fix: "
            "use the config.json that came with the weights.",
        ),
        (
            "unet",
            "layers_per_block",
            [1, 0],
            "(got [1, 0], expected a whole number from 1 to 32, or a list of 1 to 16 whole numbers from 1 to 32)."
            " Fix: use the config.json that came with the weights.",
        ),
        (
            "unet",
            "time_embedding_dim",
            0,
            "(got 0, expected null, or a whole number from 1 to 1048576). Fix: "
            "use the config.json that came with the weights.",
        ),
        (
            "unet",
            "time_cond_proj_dim",
            2,
            "(got 2, expected null, or a whole number from 4 to 1048576): this is Stable Diffusion LCM."
            " Fix: use the config.json that came with the weights.",
        ),
    ],
)
def test_what_diffusers_fails_on_or_we_do_not_build_is_refused(
    component: str, key: str, value: Any, message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        normalize(component, TINY[component] | {key: value}, "its config")
    assert str(caught.value) == f"its config: config key {key!r} is not supported {message}"


@pytest.mark.parametrize(
    ("saved_by", "size", "kept"),
    [("0.8.1", 32, 64), ("0.9.0.dev0", 32, 32), ("0.42.1", 32, 32), ("0.6.0", [48, 64], [48, 64]), (None, 32, 32)],
)
def test_configs_of_diffusers_before_0_9_have_its_default_size_by_mistake(
    saved_by: str | None, size: Any, kept: Any
) -> None:
    assert (
        normalize("unet", TINY_UNET | {"sample_size": size, "_diffusers_version": saved_by}, "test")["sample_size"]
        == kept
    )


@pytest.mark.parametrize(("given", "pixels"), [(64, (512, 512)), ([48, 64], (512, 384)), (256, (2048, 2048))])
def test_the_size_a_model_was_trained_at(given: Any, pixels: tuple[int, int]) -> None:
    assert training_size(given, 8) == pixels  # lists are [height, width], sizes width first


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "the UNet's config has no size to go by (sample_size is null). Fix: name a size."),
        (
            512,
            "the UNet's config asks for 4096x4096 pixels (its sample_size of 512 may be in pixels itself)."
            " Fix: name a size, such as 512x512.",
        ),
    ],
)
def test_a_size_that_cannot_be_meant_is_asked_for(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        training_size(given, 8)
    assert str(caught.value) == f"--size: {message}"


def test_keys_that_diffusers_lists_as_its_own_defaults_do_not_count() -> None:
    config = normalize("vae", TINY_VAE | {"scaling_factor": 0.13, "_use_default_values": ["scaling_factor"]}, "test")
    assert config["scaling_factor"] == 0.18215


@pytest.mark.parametrize("name", ["text_config", "text_config_dict"])
def test_a_whole_clips_config_counts_as_its_text_part(name: str) -> None:
    nested = {"model_type": "clip", "projection_dim": 64, "text_config": None, "vision_config": {"hidden_size": 8}} | {
        name: TINY_TEXT
    }
    assert normalize("text_encoder", nested, "test") == normalize("text_encoder", TINY_TEXT, "test")
    widths = normalize("text_encoder", {name: {}}, "test")  # what is transformers' default is not written
    assert [
        widths[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    ] == [512, 2048, 12, 8]


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_a_whole_clip_and_layers_beyond_the_config_are_ignored_with_a_note(
    tmp_path: Path, tiny: Checkpoint, prefix: str
) -> None:
    text = {name.replace("text_model.", prefix): array for name, array in arrays_of(tiny, "text_encoder").items()}
    text |= {name: np.ones(3, np.float32) for name in CLIP_ONLY} | {
        f"{prefix}encoder.layers.2.mlp.fc1.bias": np.ones(36, np.float32)
    }
    write_folder(tmp_path, tiny, {"text_encoder": text})
    write_json(tmp_path / "text_encoder" / "config.json", {"text_config": TINY_TEXT})
    found = open_checkpoint(tmp_path, family="sd14")
    assert_same(found, tiny)
    assert found.notes == (
        "text_encoder: weights that a text encoder has no use for were ignored: "
        "text_projection.weight, logit_scale and 3 more",
    )


def test_names_that_wrappers_and_other_tools_left(tmp_path: Path, tiny: Checkpoint) -> None:
    unet = {f"module._orig_mod.{name}": array for name, array in arrays_of(tiny, "unet").items()}
    vae = {name.replace(".to_out.0.", ".to_out."): array for name, array in arrays_of(tiny, "vae").items()}
    write_folder(tmp_path, tiny, {"unet": unet, "vae": vae})
    assert_same(open_checkpoint(tmp_path, family="sd14"), tiny)
    unet = {name.replace(".to_out.0.", ".to_out."): array for name, array in arrays_of(tiny, "unet").items()}
    # a Linear for a 1x1 convolution
    unet = {name: array[:, :, 0, 0] if ".proj_in.w" in name else array for name, array in unet.items()}
    write_folder(tmp_path, tiny, {"unet": unet})
    assert_same(open_checkpoint(tmp_path, family="sd14"), tiny)


# a script that knew the old names only
NEW = {part: part for part in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")}
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn", "group_norm": "norm"}
BACK = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm"}


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("extra", [(), (1, 1)], ids=["linear", "convolution"])
@pytest.mark.parametrize("spelling", [NEW, OLD, BACK], ids=["new", "old", "back"])
def test_what_scripts_make_of_the_vaes_attention_in_one_file(
    tmp_path: Path, tiny: Checkpoint, spelling: dict[str, str], extra: tuple[int, ...], prefix: str
) -> None:
    arrays = {}
    for component in TINY:
        names = original_names(component, tiny.components[component].config)
        for name, array in arrays_of(tiny, component).items():
            original = names[name].replace(".text_model.", f".{prefix}")
            if component == "vae" and ".attentions.0." in name:
                part, leaf = name.split(".attentions.0.")[1].rsplit(".", 1)
                original = f"{names[name].split('.mid.attn_1.')[0]}.mid.attn_1.{spelling[part]}.{leaf}"
                # biases too, as one version did
                array = array.reshape(*array.shape, *extra) if part != "group_norm" else array
            arrays[original] = array
    arrays["cond_stage_model.transformer.text_projection.weight"] = np.ones((20, 20), np.float32)
    write_safetensors(tmp_path / "m.safetensors", arrays)
    assert_same(open_checkpoint(tmp_path / "m.safetensors", family=tiny_family(tmp_path / "family")), tiny)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"in_channels": 9, "cross_attention_dim": 768}, "Stable Diffusion 1.x inpainting"),
        ({"in_channels": 8, "cross_attention_dim": 768}, "Stable Diffusion 1.x InstructPix2Pix"),
        ({"in_channels": 5, "cross_attention_dim": 1024}, "Stable Diffusion 2.x depth-to-image"),
        ({"in_channels": 7, "cross_attention_dim": 1024}, "Stable Diffusion 2.x upscaling"),
        ({"cross_attention_dim": 2048}, "Stable Diffusion XL"),
        ({"in_channels": 4, "cross_attention_dim": 768}, "Stable Diffusion 1.x"),
        ({"in_channels": 4, "cross_attention_dim": 20}, None),
        ({"in_channels": [9], "cross_attention_dim": {}}, None),
    ],
)
def test_kinds_are_known_by_their_numbers(config: dict[str, Any], kind: str | None) -> None:
    assert UNET.kind(config) == kind


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder, family="sd14")
    return str(caught.value).removeprefix(f"{folder}: ")


def test_refusals_say_what_the_model_is(tmp_path: Path, tiny: Checkpoint) -> None:
    write_folder(tmp_path, tiny)
    unet = arrays_of(tiny, "unet") | {"conv_in.weight": np.zeros((12, 9, 3, 3), np.float32)}
    write_safetensors(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", unet)
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(tmp_path, family="sd14")
    assert caught.value.what == (
        "this is Stable Diffusion inpainting; the unet's weights do not match its config;"
        " 1 mis-shaped: conv_in.weight (got [12, 9, 3, 3], expected [12, 4, 3, 3])."
    )
    (tmp_path / "unet").rename(tmp_path / "transformer")
    write_json(tmp_path / "model_index.json", {"_class_name": "FluxPipeline"})
    assert refusal(tmp_path) == (
        "the folder unet/ is missing (model_index.json says that this is a FluxPipeline)."
        " Fix: use a Stable Diffusion 1.x model."
    )


def test_pictures_that_are_not_rgb_are_refused(tmp_path: Path, tiny: Checkpoint) -> None:
    write_folder(tmp_path, tiny)
    write_json(tmp_path / "vae" / "config.json", TINY_VAE | {"out_channels": 4})
    vae = arrays_of(tiny, "vae") | {
        "decoder.conv_out.weight": np.zeros((4, 8, 3, 3), np.float32),
        "decoder.conv_out.bias": np.zeros(4, np.float32),
    }
    write_safetensors(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", vae)
    assert refusal(tmp_path) == (
        "the vae's out_channels is not that of RGB pictures (got 4, expected 3). Fix: use a Stable Diffusion 1.x model."
    )


def test_a_text_encoder_of_another_generation_is_named(tmp_path: Path) -> None:
    from ondevice.converters.random_weights import random_checkpoint_from_configs

    with pytest.raises(CheckpointError) as caught:
        random_checkpoint_from_configs(
            text_encoder=TINY_TEXT | {"hidden_size": 1024},
            unet=TINY_UNET | {"cross_attention_dim": 768},
            vae=TINY_VAE,
            seed=1,
        )
    assert caught.value.what == (
        "the unet's cross_attention_dim is not the text_encoder's hidden_size (got 768, expected 1024):"
        " the text_encoder is that of Stable Diffusion 2.x and the unet is that of Stable Diffusion 1.x."
    )


def test_a_variant_that_only_some_components_have_is_taken_where_it_is(tmp_path: Path, tiny: Checkpoint) -> None:
    write_folder(tmp_path, tiny)
    unet = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    found = open_checkpoint(tmp_path, family="sd14", variant="fp16")
    assert_same(found, tiny)
    assert found.notes == (
        "text_encoder: only model.safetensors is there, so it was taken",
        "vae: only diffusion_pytorch_model.safetensors is there, so it was taken",
    )
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    weights = {
        name for name in wanted_files(names, FAMILIES["sd14"], "fp16", "a hub id") if name.endswith(".safetensors")
    }
    assert weights == {name for name in names if name.endswith(".safetensors")}


@pytest.mark.parametrize(
    ("file", "fix"),
    [
        ("diffusion_pytorch_model.bf16.safetensors", "name the variant that is there with --variant bf16"),
        (
            "diffusion_flax_model.msgpack",
            "use weights for PyTorch, as .safetensors or .bin: these are for Flax or TensorFlow",
        ),
    ],
)
def test_other_weights_than_those_asked_for(tmp_path: Path, tiny: Checkpoint, file: str, fix: str) -> None:
    write_folder(tmp_path, tiny)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "unet" / file)
    assert refusal(tmp_path).replace(f"{tmp_path}/", "") == (
        f"unet: no weights (found config.json, {file}; expected diffusion_pytorch_model.safetensors). Fix: {fix}."
    )
