"""What is said of a file that is no Stable Diffusion 1.x checkpoint:
one sentence with what it is, and what its owner can do."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import (
    message,
    original_arrays,
    safetensors_bytes,
    tiny_checkpoint,
    tiny_family,
    write_ckpt,
    write_safetensors,
)
from family_files import convert_as

from ondevice.converters.families import FAMILIES
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.kinds import file_kind
from ondevice.converters.read.names import ema_name
from ondevice.converters.read.weights_file import read_weights
from ondevice.errors import CheckpointError, OnDeviceError, WeightsError

LOG_IN = "Fix: log in where it comes from (or set a token such as HF_TOKEN), and download the file again."
UNPACK = "Fix: unpack it, and give the weight file that is in it."
PLAIN = "Fix: use the .safetensors or .ckpt file of the same model."
AGAIN = "Fix: download the file again."
ONNX = (
    "this is an ONNX file. Fix: give the folder that holds unet/model.onnx, "
    "text_encoder/model.onnx and the other parts."
)
PULL = "Fix: run `git lfs pull` in its folder."
FOLDER = "Fix: give the whole folder, the one that holds model_index.json."


def packed(kind: str) -> bytes:
    """An archive with a file in it."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.safetensors", bytes(1000))
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("model.ckpt"), io.BytesIO())
    return file.getvalue()


FILES = {
    "web page": (
        b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>\n",
        f"this is a web page, not weights. {LOG_IN}",
    ),
    "page in capitals": (
        b"\xef\xbb\xbf\r\n <HTML><BODY>503</BODY></HTML>",
        f"this is a web page, not weights. {LOG_IN}",
    ),
    "page behind a remark": (
        b"<?xml version='1.0'?>\n<!-- x -->\n<html lang='en'>",
        f"this is a web page, not weights. {LOG_IN}",
    ),
    "xml": (
        b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code></Error>',
        f"this is a server's answer in XML, not weights. {LOG_IN}",
    ),
    "json": (
        b'{"error":"no"}',
        f'this is JSON text (a server\'s answer), not weights (it begins \'{{"error":"no"}}\'). {LOG_IN}',
    ),
    "page in UTF-16": ("<html>".encode("utf-16"), f"this is a web page, not weights. {LOG_IN}"),
    "json list": (
        b'[\n {"error": 1}]',
        f"this is JSON text (a server's answer), not weights (it begins '[ {{\"error\": 1}}]'). {LOG_IN}",
    ),
    "index": (
        b'{"metadata": {}, "weight_map": {"a": "b.safetensors"}}',
        "this is a config or an index, not weights. Fix: give the folder that it is in.",
    ),
    "words": (
        "Entry not found: \u00e9\n".encode(),
        "this is text, not weights (it begins 'Entry not found: \u00e9')."
        " Fix: download the file again; log in or set a token where that asks for it.",
    ),
    "empty": (b"", "this is an empty file. Fix: download the file again, and see that the disk is not full."),
    "zeros": (bytes(4096), f"this is a download that never came to its first byte (it begins with zeros). {AGAIN}"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "this is a git-lfs pointer, not the file itself. " + PULL,
    ),
    "ggml": (
        b"lmgg\x03\0\0\0" + bytes(40),
        "this is a GGML file of before GGUF. Fix: use a .gguf or .safetensors file of the same model.",
    ),
    "onnx": (
        b"\x08\x08\x12\x07pytorch\x1a\x051.13.1" + bytes(9),
        ONNX,
    ),
    "onnx without a producer": (b"\x08\x0a\x3a\xfd\x04\x0a", ONNX),
    "core ml": (b"\x08\x04\x12\x7b\x0a\x2e\x0a\x05image", f"this is a Core ML model. {PLAIN}"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(99), f"this is an HDF5 file (Keras). {PLAIN}"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(99), f"this is a TFLite model. {PLAIN}"),
    "numpy": (b"\x93NUMPY\x01\0v\0{'descr'", f"this is a NumPy array. {PLAIN}"),
    "flax": (b"\x85\xa7conv_in\x82\xa6kernel\xc7", f"this is a Flax file (msgpack). {PLAIN}"),
    "gzip": (gzip.compress(b"x"), f"this is a gzip archive. {UNPACK}"),
    "bzip2": (b"BZh91AY&SY", f"this is a bzip2 archive. {UNPACK}"),
    "xz": (b"\xfd7zXZ\0\0\4", f"this is an xz archive. {UNPACK}"),
    "zstd": (b"\x28\xb5\x2f\xfd\x20", f"this is a Zstandard archive. {UNPACK}"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", f"this is a 7z archive. {UNPACK}"),
    "rar": (b"Rar!\x1a\x07\x01\0", f"this is a RAR archive. {UNPACK}"),
    "tar": (packed("tar"), f"this is a tar archive. {UNPACK}"),
    "zip": (
        packed("zip"),
        "this is a zip archive of other files (such as 'model.safetensors'), not one of torch.save."
        " Fix: unpack it, and give the weight file or the folder that is in it.",
    ),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", f"this is a PDF document. {PLAIN}"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", f"this is a picture, not weights. {PLAIN}"),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8 ", f"this is a picture, not weights. {PLAIN}"),
    "apple": (
        b"\0\5\x16\7\0\2\0\0Mac OS X",
        "this is macOS's side file of another (AppleDouble). Fix: give the file without the ._ before its name.",
    ),
    "elf": (b"\x7fELF\2\1\1" + bytes(9), f"this is a program. {PLAIN}"),
    "pickle": (
        pickle.dumps({"a": [1]}, protocol=4),
        "this is a Python pickle that torch did not write. Fix: use a .safetensors file of the same model.",
    ),
    "old torch": (
        pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2) + bytes(64),
        "this torch file of before 1.6 cannot be read: the pickle is damaged (at position 21, opcode b'\\x00' unknown)."
        " Fix: download the file again, or use a .safetensors file of the same model.",
    ),
}


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.parametrize("kind", sorted(FILES))
def test_what_is_no_weights_says_what_it_is(tmp_path: Path, kind: str, suffix: str) -> None:
    data, expected = FILES[kind]
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(data)
    assert message(lambda: open_checkpoint(path, family="sd14")) == f"{path}: {expected}"


def test_damaged_weights_are_not_taken_for_something_else(tmp_path: Path) -> None:
    whole = safetensors_bytes({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))
    path = tmp_path / "m.ckpt"
    for cut, what in ((-1, "the data lies outside the file"), (20, "the file ends inside its header")):
        path.write_bytes(whole[:cut])
        assert what in message(lambda: read_weights(path))
    path.write_bytes(struct.pack("<Q", 1 << 40) + b'{"a"' + bytes(99))
    assert "neither" in message(lambda: read_weights(path))


FUSE = "Fix: give the checkpoint that it was trained for, and this file beside it with --lora."
ADD = "Fix: give the checkpoint that it was trained for, and this file beside it with --embedding."
SD1 = "Fix: use a Stable Diffusion 1.x file."
SD3 = "Fix: convert it as the model that it is: ondevice convert sd3."
SVD = "Fix: convert it as the model that it is: ondevice convert svd."
SD2, XL = convert_as("Stable Diffusion 2.x"), convert_as("Stable Diffusion XL")
NET = "Fix: give the checkpoint that it goes with, and this one beside it with --controlnet."
BASE = "Fix: give the checkpoint that it goes with; it is not used here."
UNQUANTIZED = "Fix: use the fp16 or fp32 file of the same model."
LORA = "a LoRA (or its kin), not a whole checkpoint"
KINDS = [
    ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", LORA, FUSE),
    ("lora_unet_down_blocks_0_attentions_0_proj_in.hada_w1_a", LORA, FUSE),
    ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", LORA, FUSE),
    ("unet.down_blocks.0.attentions.0.processor.to_q_lora.up.weight", LORA, FUSE),
    ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight", LORA, FUSE),
    ("down_blocks.0.attentions.0.to_q.lokr_w1", LORA, FUSE),
    ("base_model.model.conv_in.weight", LORA, FUSE),
    ("down_blocks.0.attentions.0.to_q.dora_scale", LORA, FUSE),
    ("emb_params", "a textual inversion embedding, not a whole checkpoint", ADD),
    ("<cat-toy>", "a textual inversion embedding, not a whole checkpoint", ADD),
    ("string_to_param.*", "a textual inversion embedding, not a whole checkpoint", ADD),
    ("768.0.linear.0.weight", "a hypernetwork, not a whole checkpoint", BASE),
    ("ip_adapter.1.to_k_ip.weight", "an IP-Adapter, not a whole checkpoint", BASE),
    ("control_model.input_blocks.0.0.weight", "a ControlNet", NET),
    ("controlnet_cond_embedding.conv_in.weight", "a ControlNet", NET),
    ("lllite_unet_input_blocks_4_1_proj_in.conditioning1.0.bias", "a ControlNet-LLLite", BASE),
    ("lora_controlnet", "a Control-LoRA, which is no whole ControlNet", BASE),
    ("down_blocks.0.ctrl_to_base.0.weight", "a ControlNet-XS", BASE),
    ("control_model.enc_zero_convs_out.0.0.weight", "a ControlNet-XS", BASE),
    ("task_embedding", "a ControlNet Union", BASE),
    ("controlnet_x_embedder.weight", "a ControlNet of a diffusion transformer", BASE),
    ("adapter.body.0.resnets.0.block1.weight", "a T2I adapter, not a whole checkpoint", BASE),
    ("down_blocks.0.motion_modules.0.norm.weight", "a motion module (AnimateDiff), not a whole checkpoint", BASE),
    ("model.diffusion_model.input_blocks.1.1.time_stack.0.w", "Stable Video Diffusion, not Stable Diffusion 1.x", SVD),
    ("conditioner.embedders.0.w", "Stable Diffusion XL, not Stable Diffusion 1.x", XL),
    ("model.diffusion_model.label_emb.0.0.weight", "Stable Diffusion XL, not Stable Diffusion 1.x", XL),
    (
        "cond_stage_model.model.ln_final.weight",
        "Stable Diffusion 2.x, not Stable Diffusion 1.x",
        SD2,
    ),
    ("model.diffusion_model.joint_blocks.0.w", "Stable Diffusion 3, not Stable Diffusion 1.x", SD3),
    ("double_blocks.0.img_attn.qkv.weight", "Flux or its kin, not Stable Diffusion 1.x", SD1),
    ("low_scale_model.w", "an upscaling model, not Stable Diffusion 1.x", SD1),
    ("depth_model.w", "a depth-to-image model, not Stable Diffusion 1.x", SD1),
    ("params_ema.conv_first.weight", "an upscaler (ESRGAN or its kin), not a checkpoint", SD1),
    ("model.1.sub.0.RDB1.conv1.0.weight", "an upscaler (ESRGAN or its kin), not a checkpoint", SD1),
    ("concept_embeds_weights", "a safety checker, not a checkpoint", "Fix: leave it out: it is not used here."),
    (
        "vision_model.embeddings.class_embedding",
        "CLIP's image encoder, not a checkpoint",
        "Fix: leave it out: it is not used here.",
    ),
    ("encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 text encoder, not a checkpoint", SD1),
    (
        "text_model.final_layer_norm.weight",
        "a CLIP text encoder alone",
        "Fix: give the checkpoint or folder that it goes with, and this one beside it with --text-encoder.",
    ),
    (
        "decoder.up_blocks.0.resnets.0.conv1.weight",
        "a VAE alone",
        "Fix: give the checkpoint or folder that it goes with, and this one beside it with --vae.",
    ),
    (
        "decoder.up.0.weight",
        "a VAE alone",
        "Fix: give the checkpoint or folder that it goes with, and this one beside it with --vae.",
    ),
    (
        "time_embedding.linear_1.bias",
        "a UNet alone, in diffusers' names",
        "Fix: give the checkpoint or folder that it goes with, and this one beside it with --unet.",
    ),
    ("0", "a list of tensors without names (as early LoRA files are), not a checkpoint", SD1),
    (
        "input_blocks.0.0.weight",
        "a UNet alone",
        "Fix: give the checkpoint or folder that it goes with, and this one beside it with --unet.",
    ),
    ("model.diffusion_model.out.2.weight.absmax", "quantized by bitsandbytes", UNQUANTIZED),
    ("model.diffusion_model.out.2.scale_weight", "a file of fp8 weights with scales beside them", UNQUANTIZED),
    ("model.diffusion_model.out.2.qweight", "quantized", UNQUANTIZED),
]


@pytest.mark.parametrize(("name", "what", "fix"), KINDS, ids=[name for name, _, _ in KINDS])
def test_what_is_no_whole_checkpoint_says_what_it_is(tmp_path: Path, name: str, what: str, fix: str) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {name: np.zeros((2, 2), np.float32)})
    said = message(lambda: open_checkpoint(path, family="sd14"))
    assert said.startswith(f"{path}: this is {what} (it has weights named ")
    assert said.endswith(f"). {fix}")
    assert len(said) < 500


def test_no_name_of_a_checkpoint_is_one_of_another_kind() -> None:
    names = list(original_arrays(tiny_checkpoint()))
    assert file_kind(names, dict.fromkeys(names, (1,)), FAMILIES["sd14"]) is None
    # one tensor of a token's width
    assert file_kind(["k" * 100_000], {"k" * 100_000: (768,)}, FAMILIES["sd14"]) is not None
    assert file_kind(["k"], {"k": (767,)}, FAMILIES["sd14"]) is None
    assert file_kind(["lora_unet_" + "k" * 100_000], {}, FAMILIES["sd14"]) is not None


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return original_arrays(tiny_checkpoint())


UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
FIRST, TOKENS, QUERY = (
    f"{UNET}input_blocks.0.0.weight",
    f"{TEXT}text_model.embeddings.token_embedding.weight",
    ".attn2.to_k.weight",
)


def without(arrays: dict[str, Any], *prefixes: str) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if not name.startswith(prefixes)}


def wider(arrays: dict[str, Any], channels: int) -> dict[str, Any]:
    first = arrays[FIRST]
    return arrays | {FIRST: np.zeros((len(first), channels, 3, 3), np.float32)}


GIVE = " Fix: give a Stable Diffusion 1.x checkpoint."
BY_SHAPES = " (by the shapes of its UNet's weights). Fix: use a Stable Diffusion 1.x model."
LACKING = {
    "no VAE": (
        lambda a: without(a, VAE),
        "the file holds no VAE (no weights named first_stage_model....). Fix: "
        "add --vae PATH, or use the whole checkpoint.",
    ),
    "no text encoder": (
        lambda a: without(a, TEXT),
        "the file holds no text encoder (no weights named cond_stage_model.transformer....)."
        " Fix: add --text-encoder PATH, or use the whole checkpoint.",
    ),
    "a UNet": (
        lambda a: without(a, TEXT, VAE),
        "the file holds no text encoder and no VAE (no weights named cond_stage_model.transformer.... "
        "or first_stage_model....)."
        " Fix: add --text-encoder PATH and --vae PATH, or use the whole checkpoint.",
    ),
    "no UNet": (
        lambda a: without(a, UNET),
        "the file holds no UNet (no weights named model.diffusion_model....)."
        " Fix: add --unet PATH, or use the whole checkpoint.",
    ),
    "nothing": (lambda a: {}, "this is no Stable Diffusion checkpoint (it holds no weights)." + GIVE),
    "another network": (
        lambda a: {f"layer{i}.weight": np.zeros(1, np.float32) for i in range(9)},
        "this is no Stable Diffusion checkpoint (its weights are named layer0.weight, layer1.weight, "
        "layer2.weight and 6 more)." + GIVE,
    ),
    "averages": (
        lambda a: {ema_name(name) if name.startswith(UNET) else name: array for name, array in a.items()},
        "the file holds the UNet's averaged weights (model_ema.*) and not its last ones. Fix: "
        "add --ema, which takes them.",
    ),
    "inpainting": (
        lambda a: wider(a, 9),
        "this is Stable Diffusion inpainting, not Stable Diffusion 1.x" + BY_SHAPES,
    ),
    "pix2pix": (
        lambda a: wider(a, 8),
        "this is Stable Diffusion InstructPix2Pix, not Stable Diffusion 1.x" + BY_SHAPES,
    ),
    "context": (
        lambda a: {
            name: np.zeros((len(array), 1024), np.float16) if name.endswith(QUERY) else array
            for name, array in a.items()
        },
        "this is Stable Diffusion 2.x, not Stable Diffusion 1.x (by the shapes of its UNet's weights). " + SD2,
    ),
    "two tokens": (
        lambda a: a | {TOKENS: np.zeros((49410, 20), np.float16)},
        "its text encoder knows 2 added tokens (textual inversion), and not their words."
        " Fix: give the diffusers folder of the same model, whose tokenizer/ has them.",
    ),
    "another size": (
        lambda a: a | {FIRST: np.zeros((320, 4, 3, 3), np.float16), TOKENS: np.zeros((49408, 768), np.float16)},
        "it is no model of the size of tiny (its UNet begins with 320 channels, expected 12). Fix: "
        "convert it as sd14 or sd15.",
    ),
}


@pytest.mark.parametrize("case", sorted(LACKING))
def test_a_file_that_lacks_a_part_or_has_another_shape(tmp_path: Path, arrays: dict[str, Any], case: str) -> None:
    change, expected = LACKING[case]
    path = tmp_path / "m.safetensors"
    write_safetensors(path, change(arrays))
    assert message(lambda: open_checkpoint(path, family=tiny_family(tmp_path / "family"))) == f"{path}: {expected}"


def test_a_damaged_checkpoint_still_lists_what_is_missing(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "m.ckpt"
    write_ckpt(path, without(arrays, f"{VAE}quant_conv.bias", f"{UNET}out.2.bias"))
    assert message(lambda: open_checkpoint(path, family=tiny_family(tmp_path / "family")), WeightsError) == (
        f"{path}: the unet's weights do not match its config; 1 missing: conv_out.bias. Fix: "
        "download the file again, or use another file."
    )


def refused(path: Path, folder: Path, kind: type[OnDeviceError] = CheckpointError, **options: Any) -> str:
    return message(lambda: open_checkpoint(path, family=tiny_family(folder), **options), kind)


def test_parts_that_are_something_else(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path, part, family = tmp_path / "m.safetensors", tmp_path / "part.safetensors", tmp_path / "family"
    write_safetensors(path, without(arrays, VAE))
    assert refused(path, family, vae=tmp_path / "no") == (
        f"--vae {tmp_path}/no: there is no such file or folder (expected a VAE)."
        " Fix: give the VAE's .safetensors, .ckpt, .pt or .bin file, or its folder."
    )
    write_safetensors(part, {"diffusion_model.input_blocks.0.weight": np.zeros(1, np.float32)})
    assert refused(path, family, vae=part) == (
        f"--vae {part}: this is a UNet alone (it has weights named diffusion_model.input_blocks....), and no VAE."
        " Fix: give a VAE of Stable Diffusion 1.x."
    )
    part.write_text(json.dumps({"message": "no"}))
    assert refused(path, family, vae=part).startswith(
        f"{part}: this is JSON text (a server's answer), not weights (it begins "
    )
    write_safetensors(part, {"decoder.conv_in.weight": np.zeros(1, np.float32)})
    assert refused(path, family, WeightsError, vae=part).startswith(
        f"--vae {part}: the vae's weights do not match its config; "
    )
    assert refused(path, family, text_encoder=part).startswith(
        f"--text-encoder {part}: this is a VAE alone (it has weights named"
    )
