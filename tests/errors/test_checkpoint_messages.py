"""The text of every error that a checkpoint can cause: where, what is wrong, what to do."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import (
    AGAIN,
    TINY_TEXT,
    TINY_UNET,
    TINY_VAE,
    arrays_of,
    ckpt_bytes,
    message,
    normalize,
    original_names,
    pickled_state,
    read_safetensors,
    safetensors_bytes,
    safetensors_header,
    tiny_checkpoint,
    tiny_family,
    write_folder,
    write_json,
    write_safetensors,
)
from family_files import convert_as

from ondevice.converters.random_weights import random_checkpoint, random_checkpoint_from_configs
from ondevice.converters.read import json_text, safetensors_file
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.json_text import read_object
from ondevice.errors import CheckpointError, OnDeviceError, UsageError, WeightsError


def header(**changes: Any) -> dict[str, Any]:
    """Of two tensors, a F32 [2] and b F32 [1], with the fields of b changed."""
    table = safetensors_header({"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)})
    table["b"] |= changes
    return table


@pytest.mark.parametrize(
    ("data", "where", "what"),
    [
        (b"abc", "", f"the file is too short for a safetensors header (got 3 bytes). {AGAIN}"),
        (
            b"\xff" * 20,
            "",
            f"the header is too large (got 18,446,744,073,709,551,615 bytes, expected at most 16,777,216). {AGAIN}",
        ),
        (
            struct.pack("<Q", 99) + b"{}",
            "",
            f"the file ends inside its header (got 10 bytes, expected 107 or more). {AGAIN}",
        ),
        (safetensors_bytes(b"\xff{}", b""), " header", f"the JSON is not UTF-8 (byte 0). {AGAIN}"),
        (safetensors_bytes(b'{"a":1,"a":2}', b""), " header", f"the JSON has the key 'a' twice. {AGAIN}"),
        (safetensors_bytes(b"[" * 99_999, b""), " header", f"the JSON is nested too deeply. {AGAIN}"),
        (
            safetensors_bytes(b'{"\\ud800":1}', b""),
            " header",
            f"the JSON holds half of a surrogate pair, which is no text. {AGAIN}",
        ),
        (
            safetensors_bytes(b'{"a"', b""),
            " header",
            f"the JSON is damaged (Expecting ':' delimiter: line 1 column 5 (char 4)). {AGAIN}",
        ),
        (safetensors_bytes(b"[]", b""), " header", f"the JSON is no object (got list). {AGAIN}"),
        (safetensors_bytes({"__metadata__": 1}, b""), "", f"the header's __metadata__ is no object. {AGAIN}"),
        (
            safetensors_bytes({"a": 1}, b""),
            " tensor a",
            f"the header entry is not {{dtype, shape, data_offsets}}. {AGAIN}",
        ),
        (
            safetensors_bytes(header(dtype="I4"), bytes(12)),
            " tensor b",
            "the dtype is not one we read (got 'I4', expected one of F64, F32, F16, BF16, F8_E4M3, F8_E5M2, "
            "I64, I32, I16, I8, U64, U32,"
            " U16, U8, BOOL). Fix: use another file.",
        ),
        (
            safetensors_bytes(header(shape=[-1]), bytes(12)),
            " tensor b",
            f"the shape is not a list of at most 8 whole numbers. {AGAIN}",
        ),
        (
            safetensors_bytes(header(data_offsets=[8]), bytes(12)),
            " tensor b",
            f"data_offsets is not a pair of whole numbers. {AGAIN}",
        ),
        (
            safetensors_bytes(header(), bytes(11)),
            " tensor b",
            "the data lies outside the file (got bytes 8 to 12 of 11). Fix: "
            "download the file again; it may be cut short.",
        ),
        (
            safetensors_bytes(header(shape=[2]), bytes(12)),
            " tensor b",
            f"the data does not fit F32 [2] (got 4 bytes, expected 8). {AGAIN}",
        ),
        (
            safetensors_bytes(header(data_offsets=[4, 8]), bytes(8)),
            "",
            f"the tensors a and b overlap (byte 4 is in both). {AGAIN}",
        ),
        (
            safetensors_bytes(header(data_offsets=[9, 13]), bytes(13)),
            "",
            f"1 bytes before the tensor b belong to no tensor. {AGAIN}",
        ),
        (safetensors_bytes(header(), bytes(14)), "", f"2 bytes after the last tensor belong to no tensor. {AGAIN}"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
            "",
            "this is a git-lfs pointer, not the file itself. Fix: run `git lfs pull` in its folder.",
        ),
    ],
)
def test_safetensors(tmp_path: Path, data: bytes, where: str, what: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    assert message(lambda: read_safetensors(path)) == f"{path}{where}: {what}"


def test_safetensors_bounds_and_files_that_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    write_safetensors(path, {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})
    tensor = read_safetensors(path)["a"]
    with open(path, "ab") as file:
        file.write(b"x")
    assert (
        message(tensor.numpy)
        == f"{path}: the file changed while it was being read. Fix: run again when nothing writes to it."
    )
    path.unlink()
    assert message(tensor.numpy) == f"{path}: cannot read the file (No such file or directory). Fix: check the disk."
    assert (
        message(lambda: read_safetensors(path))
        == f"{path}: cannot read the file (No such file or directory). Fix: check the path."
    )
    write_safetensors(path, {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})
    monkeypatch.setattr(safetensors_file, "TENSOR_LIMIT", 1)
    assert message(lambda: read_safetensors(path)) == f"{path}: too many tensors (got 2, expected at most 1). {AGAIN}"


def test_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    os.mkfifo(path)
    assert message(lambda: read_object(path)) == f"{path}: this is no file. {AGAIN}"
    path.unlink()
    assert message(lambda: read_object(path)) == f"{path}: cannot read the file (No such file or directory). {AGAIN}"
    monkeypatch.setattr(json_text, "CONFIG_LIMIT", 1)
    path.write_text("{}")
    assert (
        message(lambda: read_object(path))
        == f"{path}: the file is too large (got 2 bytes, expected at most 1). {AGAIN}"
    )


@pytest.mark.parametrize(
    ("component", "raw", "what"),
    [
        (
            "unet",
            TINY_UNET | {"act_fn": "gelu"},
            "config key 'act_fn' is not supported (got 'gelu', expected 'silu' or 'swish')."
            " Fix: use another checkpoint; with this setting it is another network, which ondevice does not build.",
        ),
        (
            "unet",
            TINY_UNET | {"class_embed_type": "x" * 200},
            f"config key 'class_embed_type' is not supported (got '{'x' * 116}..., expected None)."
            " Fix: use another checkpoint; with this setting it is another network, which ondevice does not build.",
        ),
        (
            "unet",
            TINY_UNET | {"block_out_channels": [1, 24], "norm_num_groups": 1, "attention_head_dim": 1},
            "block_out_channels begins too narrow for the time embedding. Fix: "
            "use the config.json that came with the weights.",
        ),
        (
            "vae",
            {"_class_name": "AutoencoderOobleck"},
            "config key '_class_name' is not supported (got 'AutoencoderOobleck', expected 'AutoencoderKL')."
            " Fix: give the config.json of a VAE of that class.",
        ),
        (
            "text_encoder",
            {},
            "config key 'hidden_size' is missing. Fix: use the config.json that came with the weights.",
        ),
        (
            "text_encoder",
            TINY_TEXT | {"num_attention_heads": 3},
            "hidden_size 20 is not a multiple of num_attention_heads 3. Fix: "
            "use the config.json that came with the weights.",
        ),
        (
            "vae",
            TINY_VAE | {"up_block_types": ["UpDecoderBlock2D"]},
            "config key 'up_block_types' has 1 entries and block_out_channels has 2. Fix: "
            "use the config.json that came with the weights.",
        ),
    ],
)
def test_configs(component: str, raw: dict[str, Any], what: str) -> None:
    assert message(lambda: normalize(component, raw, "config.json")) == f"config.json: {what}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "model", tiny_checkpoint())
    return tmp_path / "model"


def opened(folder: Path, kind: type[OnDeviceError] = CheckpointError, **options: Any) -> str:
    return message(lambda: open_checkpoint(folder, family="sd14", **options), kind)


def test_folders_without_weights(folder: Path) -> None:
    assert opened(folder, variant="int8") == (
        f"{folder}/text_encoder: no weights of variant 'int8' (found config.json, model.safetensors; "
        "expected model.int8.safetensors)."
        " Fix: leave the variant out or name one that is there."
    )
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert opened(folder) == (
        f"{folder}/vae: no weights (found config.json; expected diffusion_pytorch_model.safetensors)."
        " Fix: download the folder again, weights included."
    )
    (folder / "unet").rename(folder / "other")
    assert opened(folder) == f"{folder}: the folder unet/ is missing. Fix: give a folder in diffusers' layout."
    (folder / "text_encoder" / "config.json").unlink()
    assert opened(folder) == (
        f"{folder}/text_encoder/config.json: cannot read the file (No such file or directory). Fix: "
        "give a folder in diffusers' layout."
    )


def test_folders_without_scheduler_or_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.json").unlink()
    assert opened(folder) == (
        f"{folder}/tokenizer/vocab.json: missing (got no file, expected the tokenizer's)."
        " Fix: give a folder whose tokenizer/ holds vocab.json and merges.txt, or tokenizer.json."
    )
    (folder / "scheduler" / "scheduler_config.json").unlink()
    assert opened(folder) == (
        f"{folder}/scheduler/scheduler_config.json: cannot read the file (No such file or directory)."
        " Fix: give a folder in diffusers' layout."
    )


def test_networks_that_do_not_fit_each_other(folder: Path) -> None:
    write_json(folder / "unet" / "config.json", TINY_UNET | {"in_channels": 9})
    unet = arrays_of(tiny_checkpoint(), "unet") | {"conv_in.weight": np.zeros((12, 9, 3, 3), np.float32)}
    write_safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors", unet)
    assert opened(folder) == (
        f"{folder}: the unet's in_channels is not the vae's latent_channels (got 9, expected 4): "
        "this is Stable Diffusion inpainting. Fix: use a Stable Diffusion 1.x model."
    )
    configs = {"text_encoder": TINY_TEXT, "unet": TINY_UNET | {"cross_attention_dim": 8}, "vae": TINY_VAE}
    assert message(lambda: random_checkpoint_from_configs(**configs, seed=1)) == (
        "random weights, seed 1: the unet's cross_attention_dim is not the text_encoder's "
        "hidden_size (got 8, expected 20)."
        " Fix: use a Stable Diffusion 1.x model."
    )


def test_a_tokenizer_with_more_ids_than_rows(folder: Path) -> None:
    write_json(folder / "tokenizer" / "added_tokens.json", {"<new>": 49408})
    assert opened(folder).startswith(f"{folder}/tokenizer: it has the id 49408, and the text encoder 49408 rows. Fix: ")


def test_shard_indices(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(folder / "unet" / "part.safetensors")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    write_json(index, {})
    assert opened(folder) == f"{index}: the index has no weight_map of file names. Fix: download the file again."
    write_json(index, {"weight_map": {"a": "part.safetensors", "b": 1}})
    assert opened(folder) == f"{index}: the index has no weight_map of file names. Fix: download the file again."
    for name in ("../secret.safetensors", "/secret", "..\\secret", "..", ".", ""):
        write_json(index, {"weight_map": {"a": name}})
        assert (
            opened(folder)
            == f"{index}: the index names a file outside its folder ({name!r}). Fix: use another checkpoint."
        )
    write_json(index, {"weight_map": {"a": "part.safetensors"}})
    assert opened(folder) == (
        f"{index}: the index places a in part.safetensors, which does not hold it. Fix: download the folder again."
    )


def test_weights_that_do_not_match(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    arrays = arrays_of(tiny_checkpoint(), "vae")
    query = "encoder.mid_block.attentions.0.query.bias"
    write_safetensors(path, arrays | {query: np.zeros(12, np.float32)})
    twice = query.replace("query", "to_q")
    assert opened(folder) == f"{path}: the weight {twice} is there under two names. Fix: use another checkpoint."
    write_safetensors(path, arrays | {"quant_conv.bias": np.zeros(8, np.int64)})
    assert opened(folder) == (
        f"{path}: the weight quant_conv.bias holds INT64, not floating-point numbers. Fix: "
        "use a checkpoint that is not quantized."
    )
    extra = {f"extra.{i:02}": np.zeros(1, np.float32) for i in range(25)}
    kept = {name: array for name, array in arrays.items() if name != "quant_conv.bias"}
    write_safetensors(path, kept | extra | {"post_quant_conv.bias": np.zeros((4, 1), np.float32)})
    assert opened(folder, WeightsError) == (
        f"{path}: the vae's weights do not match its config; 1 missing: quant_conv.bias;"
        f" 25 extra: {', '.join(list(extra)[:5])} and 20 more;"
        " 1 mis-shaped: post_quant_conv.bias (got [4, 1], expected [4])."
        " Fix: use the config.json that came with the weights, or other weights."
    )


def one_file(
    tmp_path: Path, arrays: dict[str, np.ndarray], kind: type[OnDeviceError] = CheckpointError, **options: Any
) -> str:
    path, family = tmp_path / "m.safetensors", tiny_family(tmp_path / "family")
    write_safetensors(path, arrays)
    return message(lambda: open_checkpoint(path, family=family, **options), kind).removeprefix(f"{path}: ")


def test_single_files(tmp_path: Path) -> None:
    tiny, nothing = tiny_checkpoint(), np.zeros(1, np.float32)
    assert one_file(tmp_path, {"conditioner.embedders.0.w": nothing}) == (
        "this is Stable Diffusion XL, not Stable Diffusion 1.x (it has weights named conditioner.embedders....). "
        + convert_as("Stable Diffusion XL")
    )
    arrays = {
        old: arrays_of(tiny, name)[new]
        for name in tiny.components
        for new, old in original_names(name, tiny.components[name].config).items()
    }
    assert (
        one_file(tmp_path, arrays, ema=True)
        == "the file holds no averaged weights (model_ema.*). Fix: leave --ema out."
    )
    position = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
    assert one_file(tmp_path, arrays | {position.replace("text_model.", ""): arrays[position]}) == (
        f"the weight {position.removeprefix('cond_stage_model.transformer.')} is there under two names. "
        "Fix: use another checkpoint."
    )
    assert one_file(tmp_path, arrays | {"mystery.w": nothing}, WeightsError) == (
        "the file holds weights that no component uses; 1 extra: mystery.w. Fix: "
        "use a plain Stable Diffusion 1.x checkpoint."
    )


def test_sources_and_options(tmp_path: Path, folder: Path) -> None:
    assert opened(tmp_path / "nowhere.ckpt") == (
        f"{tmp_path}/nowhere.ckpt: there is no such file or folder, and it is no hub id."
        " Fix: give a diffusers folder, a folder of ONNX files, a .safetensors or .ckpt file, or a hub id"
        " such as CompVis/stable-diffusion-v1-4."
    )
    assert opened(Path("models/sd.safetensors")).startswith("models/sd.safetensors: there is no such file or folder")
    assert (
        opened(folder, UsageError, ema=True) == f"{folder}: --ema goes only with a single file. Fix: leave --ema out."
    )
    (tmp_path / "m.ckpt").write_bytes(ckpt_bytes(pickled_state({}), []))
    assert opened(tmp_path / "m.ckpt", UsageError, variant="fp16") == (
        f"{tmp_path}/m.ckpt: variant goes only with a folder or a hub id. Fix: leave variant out."
    )
    assert message(lambda: open_checkpoint(folder, family="sdxl-tubro"), UsageError) == (
        "family: no model family is called 'sdxl-tubro'. "
        "Fix: use sdxl-turbo or sd-turbo or sd35-large-turbo; ondevice convert --help names all."
    )
    assert message(lambda: open_checkpoint(folder, family="?"), UsageError).endswith(
        "Fix: use sd15 or sdxl; ondevice convert --help names all."
    )
    assert message(lambda: random_checkpoint("sd14", -1), UsageError) == (
        "--random-weights: the seed is out of range (got -1, expected 0 to 2^64 - 1). Fix: use a seed such as 0."
    )
    assert json.loads((folder / "unet" / "config.json").read_text()) == TINY_UNET


def test_a_picture_is_no_adapter(tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(64))
    said = "this is a picture, not weights. Fix: use the .safetensors or .ckpt file of the same model."
    assert message(lambda: safetensors_file.read_with_metadata(path)) == f"{path}: {said}"
