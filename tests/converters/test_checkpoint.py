"""open_checkpoint: every kind of source gives the same weights under the same names."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from checkpoint_files import (
    PARTS,
    TINY_UNET,
    Arrays,
    arrays_of,
    original_arrays,
    safetensors_header,
    tiny_family,
    write_ckpt,
    write_folder,
    write_json,
)
from checkpoint_files import write_safetensors as save

from ondevice.converters.component import Component
from ondevice.converters.families import FAMILIES, check_joints
from ondevice.converters.read.checkpoint import Checkpoint, open_checkpoint
from ondevice.converters.read.names import ema_name
from ondevice.errors import CheckpointError, WeightsError

POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


@pytest.fixture
def folder(tmp_path: Path, tiny: Checkpoint) -> Path:
    write_folder(tmp_path / "model", tiny)
    return tmp_path / "model"


def assert_same_weights(found: Checkpoint, expected: Checkpoint, half: bool = False) -> None:
    for name in PARTS:
        ours, theirs = arrays_of(found, name), arrays_of(expected, name)
        assert list(ours) == list(theirs)
        for key, array in theirs.items():
            assert ours[key].shape == array.shape
            np.testing.assert_array_equal(ours[key], array.astype(np.float16) if half else array, err_msg=key)


def test_a_diffusers_folder(folder: Path, tiny: Checkpoint) -> None:
    found = open_checkpoint(str(folder), family="sd14")
    assert_same_weights(found, tiny)
    assert found.components["unet"].config["block_out_channels"] == TINY_UNET["block_out_channels"]
    assert found.components["unet"].config["norm_eps"] == 1e-5  # diffusers' default, not in the file
    assert found.components["vae"].config["scaling_factor"] == 0.18215
    assert found.scheduler["_class_name"] == "PNDMScheduler"
    assert set(found.tokenizers["tokenizer"]) == {
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }
    assert (found.family, found.source, found.notes) == ("sd14", str(folder), ())


def test_weights_are_lazy_and_not_kept(folder: Path) -> None:
    weights = open_checkpoint(folder, family="sd14").components["unet"].weights
    tensor = weights["conv_in.weight"]
    assert isinstance(tensor, ir.LazyTensor)
    assert tensor.numpy() is not tensor.numpy()
    assert tensor.name == "conv_in.weight"
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read the file"):
        tensor.numpy()


def halves(arrays: Arrays) -> Arrays:
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def write_variant(folder: Path, tiny: Checkpoint, remove_plain: bool) -> None:
    for name in PARTS:
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        save(folder / name / f"{stem}.fp16.safetensors", halves(arrays_of(tiny, name)))
        if remove_plain:
            (folder / name / f"{stem}.safetensors").unlink()


def test_a_variant_is_taken_when_it_is_named(folder: Path, tiny: Checkpoint) -> None:
    write_variant(folder, tiny, remove_plain=False)
    assert_same_weights(open_checkpoint(folder, family="sd14"), tiny)
    found = open_checkpoint(folder, family="sd14", variant="fp16")
    assert_same_weights(found, tiny, half=True)
    assert found.components["unet"].weights["conv_in.weight"].dtype == ir.DataType.FLOAT16


def test_fp16_is_taken_with_a_note_when_there_is_nothing_else(
    folder: Path, tiny: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    write_variant(folder, tiny, remove_plain=True)
    found = open_checkpoint(folder, family="sd14")
    assert_same_weights(found, tiny, half=True)
    assert found.notes[0] == "text_encoder: only model.fp16.safetensors is there, so it was taken"
    assert "only diffusion_pytorch_model.fp16.safetensors is there" in caplog.text


@pytest.mark.parametrize(
    ("index", "shard", "variant"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-{}-of-00002.safetensors", None),
        (
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.fp16-{}-of-00002.safetensors",
            "fp16",
        ),
        (
            "diffusion_pytorch_model.fp16.safetensors.index.json",
            "diffusion_pytorch_model-{}-of-00002.fp16.safetensors",
            "fp16",
        ),
    ],
)
def test_sharded_files(folder: Path, tiny: Checkpoint, index: str, shard: str, variant: str | None) -> None:
    arrays = arrays_of(tiny, "unet")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    weight_map = {name: shard.format(f"0000{1 + i % 2}") for i, name in enumerate(arrays)}
    for file in set(weight_map.values()):
        save(folder / "unet" / file, {name: array for name, array in arrays.items() if weight_map[name] == file})
    write_json(folder / "unet" / index, {"metadata": {}, "weight_map": weight_map})
    for name, stem in (("text_encoder", "model"), ("vae", "diffusion_pytorch_model")):
        shutil.copy(folder / name / f"{stem}.safetensors", folder / name / f"{stem}.fp16.safetensors")
    assert_same_weights(open_checkpoint(folder, family="sd14", variant=variant), tiny)


def test_bin_files_go_through_the_pickle_reader(folder: Path, tiny: Checkpoint) -> None:
    for name in PARTS:
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        (folder / name / f"{stem}.safetensors").unlink()
        write_ckpt(
            folder / name / ("pytorch_model.bin" if name == "text_encoder" else f"{stem}.bin"), arrays_of(tiny, name)
        )
    assert_same_weights(open_checkpoint(folder, family="sd14"), tiny)


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_position_ids_of_either_dtype_and_both_text_encoder_spellings(
    tmp_path: Path, tiny: Checkpoint, dtype: type
) -> None:
    text = {name.removeprefix("text_model."): array for name, array in arrays_of(tiny, "text_encoder").items()}
    text["embeddings.position_ids"] = np.arange(77, dtype=dtype)[None]
    write_folder(tmp_path, tiny, {"text_encoder": text})
    assert_same_weights(open_checkpoint(tmp_path, family="sd14"), tiny)


def test_the_old_attention_spelling_of_the_vae(tmp_path: Path, tiny: Checkpoint) -> None:
    spelling = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def old(name: str) -> str:
        for new, before in spelling.items():
            name = name.replace(new, before)
        return name

    vae = {old(name): array for name, array in arrays_of(tiny, "vae").items()}
    assert sum("proj_attn" in name for name in vae) == 4
    write_folder(tmp_path, tiny, {"vae": vae})
    assert_same_weights(open_checkpoint(tmp_path, family="sd14"), tiny)


def test_a_tokenizer_without_special_tokens_map(folder: Path) -> None:
    (folder / "tokenizer" / "special_tokens_map.json").unlink()
    assert "special_tokens_map.json" not in open_checkpoint(folder, family="sd14").tokenizers["tokenizer"]


def original(tiny: Checkpoint, *, ema: bool = False, extras: bool = True) -> Arrays:
    """One file's tensors in the original layout."""
    arrays = original_arrays(tiny)
    if ema:
        averages = {
            ema_name(name): array * 2
            for name, array in arrays.items()
            if name.startswith(FAMILIES["sd14"].parts["unet"].prefix)
        }
        arrays |= averages | {"model_ema.decay": np.array(0.999, np.float32), "model_ema.num_updates": np.array(5)}
    if extras:
        arrays |= {"betas": np.ones(10, np.float32), POSITION_IDS: np.arange(77)[None]}
    return arrays


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
@pytest.mark.parametrize("extras", [False, True], ids=["minimal", "plain"])
def test_one_file_in_the_original_layout(tmp_path: Path, tiny: Checkpoint, kind: str, extras: bool) -> None:
    path = tmp_path / f"m.{kind}"
    (save if kind == "safetensors" else write_ckpt)(path, original(tiny, extras=extras))
    found = open_checkpoint(path, family=tiny_family(tmp_path / "family"))
    assert_same_weights(found, tiny)
    assert found.family == "tiny"
    assert len(found.tokenizers["tokenizer"]["merges.txt"]) > 100_000
    assert found.notes == (("tensors that are no weights were ignored: betas, " + POSITION_IDS,) if extras else ())


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_misnamed_file_is_read_by_its_content(tmp_path: Path, tiny: Checkpoint, kind: str) -> None:
    path = tmp_path / ("m.ckpt" if kind == "safetensors" else "m.safetensors")
    (save if kind == "safetensors" else write_ckpt)(path, original(tiny))
    assert_same_weights(open_checkpoint(path, family=tiny_family(tmp_path / "family")), tiny)


def test_averaged_weights_are_taken_only_when_asked_for(tmp_path: Path, tiny: Checkpoint) -> None:
    save(tmp_path / "m.safetensors", original(tiny, ema=True))
    family = tiny_family(tmp_path / "family")
    last = open_checkpoint(tmp_path / "m.safetensors", family=family)
    assert_same_weights(last, tiny)
    assert last.notes[0].endswith("averaged weights (model_ema.*) were ignored; --ema takes them instead")
    averaged = open_checkpoint(tmp_path / "m.safetensors", family=family, ema=True)
    for name, array in arrays_of(tiny, "unet").items():
        np.testing.assert_array_equal(averaged.components["unet"].weights[name].numpy(), array * 2)
    assert averaged.notes[0] == "the UNet's averaged weights (model_ema.*) were taken; its last weights were ignored"


def test_bfloat16_files_keep_their_dtype(tmp_path: Path, tiny: Checkpoint) -> None:
    arrays = {name: array.astype(ml_dtypes.bfloat16) for name, array in original(tiny, extras=False).items()}
    save(tmp_path / "m.safetensors", arrays)
    found = open_checkpoint(tmp_path / "m.safetensors", family=tiny_family(tmp_path / "family"))
    weight = found.components["vae"].weights["encoder.mid_block.attentions.0.to_q.weight"]
    assert weight.dtype == ir.DataType.BFLOAT16
    assert weight.numpy().shape == tuple(weight.shape) == (12, 12)


def test_opening_reads_headers_only(tmp_path: Path, tiny: Checkpoint) -> None:
    """A full-size file is opened without its data: here the data is a hole in a sparse file."""
    arrays = original(tiny, extras=False)
    header = safetensors_header(arrays)
    text = json.dumps(header).encode()
    with open(tmp_path / "m.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + sum(array.nbytes for array in arrays.values()))
    found: Component = open_checkpoint(tmp_path / "m.safetensors", family=tiny_family(tmp_path / "family")).components[
        "unet"
    ]
    assert not found.weights["conv_in.weight"].numpy().any()


def test_missing_extra_and_misshaped_weights_are_listed_together(folder: Path, tiny: Checkpoint) -> None:
    arrays = arrays_of(tiny, "unet")
    del arrays["conv_in.bias"]
    arrays["conv_out.bias"] = np.zeros(5, np.float32)
    arrays["mystery.weight"] = np.zeros(1, np.float32)
    save(folder / "unet" / "diffusion_pytorch_model.safetensors", arrays)
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(folder, family="sd14")
    assert (
        "1 missing: conv_in.bias; 1 extra: mystery.weight; 1 mis-shaped: conv_out.bias (got [5], expected [4])"
        in caught.value.what
    ), caught.value


@pytest.mark.parametrize(
    ("component", "key", "what"),
    [
        ("unet", "in_channels", "the unet's in_channels is not the vae's latent_channels (got 6, expected 4)."),
        ("unet", "out_channels", "the unet's out_channels is not the vae's latent_channels (got 6, expected 4)."),
        (
            "unet",
            "cross_attention_dim",
            "the unet's cross_attention_dim is not the text_encoder's hidden_size (got 6, expected 20).",
        ),
        ("vae", "in_channels", "the vae's in_channels is not that of RGB pictures (got 6, expected 3)."),
        ("vae", "out_channels", "the vae's out_channels is not that of RGB pictures (got 6, expected 3)."),
    ],
)
def test_networks_that_do_not_fit_each_other(tiny: Checkpoint, component: str, key: str, what: str) -> None:
    family, configs = FAMILIES["sd14"], {name: part.config for name, part in tiny.components.items()}
    check_joints(family, configs, "m")
    with pytest.raises(CheckpointError) as caught:
        check_joints(family, configs | {component: configs[component] | {key: 6}}, "m")
    assert str(caught.value) == f"m: {what} Fix: use a Stable Diffusion 1.x model."
