"""GGUF checkpoints: the values that the format's own package gives, names of both makers, and hostile headers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import (
    TINY_TEXT,
    TINY_UNET,
    TINY_VAE,
    UNET,
    arrays_of,
    message,
    original_arrays,
    same,
    tiny_checkpoint,
    tiny_family,
    write_safetensors,
)
from family_files import TINY, original, tiny_of
from family_files import same as all_same
from lower.test_quantize import written

from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read import gguf_file
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.weights_file import read_weights
from ondevice.lower import lower
from ondevice.rewrite import rewrite
from ondevice.target import load_target

gguf = pytest.importorskip("gguf")
Types = gguf.GGMLQuantizationType
FEW_BITS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]


def write_gguf(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    kinds: Mapping[str, str] = {},
    **metadata: list[int],
) -> None:
    """Arrays of their own types, or bytes of blocks of the type that `kinds` names."""
    writer = gguf.GGUFWriter(path, "sd")
    for key, values in metadata.items():
        writer.add_array(key, values)
    for name, array in arrays.items():
        writer.add_tensor(name, array, raw_dtype=Types[kinds[name]] if name in kinds else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def blocks_of(kind: str, rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Random blocks with scales that are no NaN: bytes [rows, ...]."""
    size, length = gguf.GGML_QUANT_SIZES[Types[kind]]
    raw = np.random.default_rng(seed).integers(0, 256, (rows, width // size, length), dtype=np.uint8)
    for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "IQ4_XS": (0,)}.get(kind, (0,)):
        raw[..., at : at + 2] = np.frombuffer(np.float16(0.013).tobytes(), np.uint8)
    if kind in ("Q4_1", "Q5_1", "Q4_K", "Q5_K"):
        raw[..., 2:4] = np.frombuffer(np.float16(-0.1).tobytes(), np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", FEW_BITS)
def test_blocks_are_what_the_formats_package_says(tmp_path: Path, kind: str) -> None:
    raw = blocks_of(kind, 3, 512)
    write_gguf(tmp_path / "m.gguf", {"a.weight": raw}, {"a.weight": kind})
    found = read_weights(tmp_path / "m.gguf").tensors["a.weight"]
    assert tuple(found.shape.numpy()) == (3, 512)
    np.testing.assert_array_equal(found.numpy(), gguf.dequantize(raw, Types[kind]))
    assert np.isfinite(found.numpy()).all() and found.numpy().std() > 0


def test_a_whole_checkpoint(tmp_path: Path) -> None:
    """In the names that stable-diffusion.cpp keeps of a .safetensors file, and read as late as that."""
    tiny, family = tiny_checkpoint(), tiny_family(tmp_path / "family")
    arrays = {name: array.astype(np.float16) for name, array in original_arrays(tiny).items()}
    write_gguf(tmp_path / "m.gguf", arrays)
    write_safetensors(tmp_path / "m.safetensors", arrays)
    same(
        open_checkpoint(tmp_path / "m.gguf", family=family), open_checkpoint(tmp_path / "m.safetensors", family=family)
    )


def in_sd_cpp(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names of both text encoders of Stable Diffusion XL as stable-diffusion.cpp writes them."""
    first, second = "cond_stage_model.transformer.", "cond_stage_model.1.transformer."
    found = {}
    for name, array in arrays.items():
        part, _, rest = name.partition(".")
        if name == "text_encoder_2.text_projection.weight":
            found[f"{second}text_model.text_projection"] = np.ascontiguousarray(array.T)
        else:
            found[{"text_encoder": first, "text_encoder_2": second}.get(part, f"{part}.") + rest] = array
    return found


def test_text_encoders_in_the_names_of_stable_diffusion_cpp(tmp_path: Path) -> None:
    family = tiny_of(FAMILIES["sdxl"], tmp_path / "family", TINY["sdxl"])
    tiny = random_checkpoint_from_configs(**TINY["sdxl"], seed=2, family="sdxl")
    texts = ("text_encoder", "text_encoder_2")
    arrays = {f"{part}.{name}": array for part in texts for name, array in arrays_of(tiny, part).items()}
    rest = {name: array for name, array in original(tiny, family).items() if not name.startswith("conditioner.")}
    write_gguf(tmp_path / "m.gguf", in_sd_cpp(arrays) | rest)
    all_same(open_checkpoint(tmp_path / "m.gguf", family=family), tiny)


WIDE = {
    "text_encoder": TINY_TEXT | {"hidden_size": 64, "num_attention_heads": 4},
    "unet": TINY_UNET | {"block_out_channels": [64, 128], "cross_attention_dim": 64, "attention_head_dim": 4},
    "vae": TINY_VAE,
}


def test_a_unet_alone_and_its_4_bits_in_the_plan(tmp_path: Path) -> None:
    """As ComfyUI-GGUF's converter writes it: rows of 256 where a kernel's are no whole blocks, and the shape beside it.
    What is q4_0 in the file has the file's values in a plan of 4 bits, to the last bit."""
    tiny = random_checkpoint_from_configs(**WIDE, seed=2)
    family = tiny_of(FAMILIES["sd14"], tmp_path / "family", WIDE)
    base = original_arrays(tiny)
    unet = {name.removeprefix(UNET): array for name, array in base.items() if name.startswith(UNET)}
    kinds, expected, shapes = {}, dict(unet), {}
    for seed, (name, array) in enumerate(unet.items()):
        if name.endswith("ff.net.2.weight"):
            kinds[name] = "Q4_0"
            unet[name] = blocks_of("Q4_0", *array.shape, seed)
        elif array.ndim == 4 and array.size % 256 == 0 and array.shape[1] > 4:
            kinds[name], shapes[f"comfy.gguf.orig_shape.{name}"] = "Q8_0", list(array.shape)
            unet[name] = gguf.quantize(array.reshape(-1, 256), Types.Q8_0)
        if name in kinds:
            expected[name] = gguf.dequantize(unet[name], Types[kinds[name]]).reshape(array.shape)
    assert len(set(kinds.values())) == 2
    write_gguf(tmp_path / "unet.gguf", unet, kinds, **shapes)
    write_safetensors(tmp_path / "m.safetensors", {n: a for n, a in base.items() if not n.startswith(UNET)})
    found = open_checkpoint(tmp_path / "m.safetensors", family=family, unet=tmp_path / "unet.gguf")
    write_safetensors(tmp_path / "plain.safetensors", base | {UNET + name: array for name, array in expected.items()})
    same(found, open_checkpoint(tmp_path / "plain.safetensors", family=family))

    graph, target = build(found).graph("unet", height=8, width=8), load_target("host")
    rewrite(graph)
    program = lower(graph, "unet", target=target, weights="i4", storage="f16")
    few = [n for n in program.weights if "ff.net.2.weight" in n and program.tensors[n].dtype == "u4x2"]
    assert few
    for name in few:
        weight = name.split(".T:")[0]
        scales = next(n for n in program.weights if n.startswith(f"{weight}.T:int4 scales"))
        numbers = written(program, name)  # [panels, rows, half of the columns], two per byte
        pairs = np.stack([numbers & 15, numbers >> 4], axis=-1).reshape(*numbers.shape[:-1], -1)
        values = (pairs - np.float32(8)) * written(program, scales).astype(np.float32).repeat(32, axis=-2)
        columns = values.transpose(1, 0, 2).reshape(values.shape[1], -1)
        stored = found.components["unet"].weights[weight].numpy()
        np.testing.assert_array_equal(columns[:, : len(stored)].T, stored)


def header(*tensors: bytes, pairs: bytes = b"", version: int = 3, count: int | None = None, values: int = 0) -> bytes:
    return (
        b"GGUF"
        + struct.pack("<IQQ", version, len(tensors) if count is None else count, values)
        + pairs
        + b"".join(tensors)
    )


def text(said: str | bytes) -> bytes:
    data = said if isinstance(said, bytes) else said.encode()
    return struct.pack("<Q", len(data)) + data


def tensor(name: str | bytes = "a", sizes: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


def array(key: str, kind: int, count: int, data: bytes = b"") -> bytes:
    return text(key) + struct.pack("<IIQ", 9, kind, count) + data


SHAPE = "comfy.gguf.orig_shape.a"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "version": (header(version=1), "this is GGUF of version 1 (expected 2 or 3)."),
    "byte order": (
        header(version=3 << 24),
        "this is GGUF of version 50,331,648 (expected 2 or 3), in the other byte order",
    ),
    "tensors": (header(count=1 << 60), "it announces 1,152,921,504,606,846,976 tensors and 0 values"),
    "values": (header(values=9), "the header ends before all it announces."),
    "a key": (header(pairs=struct.pack("<Q", 1 << 62), values=1), "a key is 4,611,686,018,427,387,904 bytes long"),
    "an array": (header(pairs=array("k", 4, 1 << 61), values=1), "the header ends before all it announces."),
    "strings": (header(pairs=array("k", 8, 1 << 61), values=1), "the header ends before all it announces."),
    "nested": (header(pairs=array("k", 9, 1 << 61), values=1), "an array of the type 9 is unknown."),
    "a type": (header(pairs=text("k") + struct.pack("<I", 99), values=1), "metadata of the type 99 is unknown."),
    "alignment": (
        header(pairs=text("general.alignment") + struct.pack("<II", 4, 24), values=1),
        "the alignment is 24.",
    ),
    "a name": (header(tensor("n" * 600)), "the name of a tensor is 600 bytes long (expected at most 512)."),
    "no text": (header(tensor(b"\xff\xfe")), "the name of a tensor is not UTF-8."),
    "twice": (header(tensor(), tensor(offset=32)) + bytes(99), "the tensor a is there twice."),
    "dimensions": (header(tensor(sizes=(1,) * 5)), "tensor a: it has 5 dimensions (expected at most 4)."),
    "sizes": (header(tensor(sizes=(1 << 40, 1 << 40))), "tensor a: its sizes are [1099511627776, 1099511627776]."),
    "its type": (header(tensor(kind=16)), "tensor a: its type, GGML's number 16, is not read."),
    "blocks": (header(tensor(sizes=(33,), kind=2)), "tensor a: its rows of 33 are no whole blocks of Q4_0 (32 each)."),
    "offset": (header(tensor(offset=4)) + bytes(99), "tensor a: its offset 4 is no multiple of 32."),
    "outside": (header(tensor(offset=64)) + bytes(32), "the data of a lies outside the file"),
    "overlap": (header(tensor(sizes=(9,)), tensor("b", offset=32)) + bytes(256), "the tensors a and b overlap."),
    "shape": (
        header(tensor(), pairs=array(SHAPE, 5, 2, struct.pack("<ii", 2, 3)), values=1) + bytes(99),
        "tensor a: comfy.gguf.orig_shape.... is [2, 3], and it has 4 elements.",
    ),
    "no shape": (
        header(tensor(), pairs=text(SHAPE) + struct.pack("<II", 4, 4), values=1) + bytes(99),
        "tensor a: comfy.gguf.orig_shape.... is 4, and it has 4 elements.",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused(tmp_path: Path, case: str) -> None:
    data, expected = HOSTILE[case]
    (tmp_path / "m.gguf").write_bytes(data)
    assert expected in message(lambda: read_weights(tmp_path / "m.gguf"))


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "f32.gguf", {"a": np.ones(4, np.float32)})
    write_gguf(tmp_path / "q8.gguf", {"a": blocks_of("Q8_0", 1, 32)}, {"a": "Q8_0"})
    find: Any = gguf_file.importlib.util.find_spec
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    np.testing.assert_array_equal(read_weights(tmp_path / "f32.gguf").tensors["a"].numpy(), 1)
    assert message(lambda: read_weights(tmp_path / "q8.gguf")) == (
        f"{tmp_path}/q8.gguf: reading Q8_0 needs the package gguf. "
        "Fix: pip install 'ondevice[gguf]', or use an f16 file."
    )
