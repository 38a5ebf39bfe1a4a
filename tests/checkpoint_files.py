"""Small checkpoints and the files they are stored in, written by hand so that tests need no torch."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ondevice.converters.component import Checkpoint
from ondevice.converters.families import FAMILIES, Family
from ondevice.converters.families.sd1 import sd1
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.safetensors_file import read_with_metadata
from ondevice.errors import CheckpointError, OnDeviceError

DATA = Path(__file__).parent / "data"
Arrays = dict[str, np.ndarray]
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
PARTS, ROLES = tuple(FAMILIES["sd14"].parts), tuple(FAMILIES["sd14"].roles)
KEYS = {name: part.architecture.keys for name, part in FAMILIES["sd14"].parts.items()}

TINY_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 20,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
}
TINY_UNET = {
    "block_out_channels": [12, 24],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 20,
    "attention_head_dim": 3,
    "norm_num_groups": 4,
}
TINY_VAE = {
    "block_out_channels": [8, 12],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
}
SCHEDULER = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"}
STORAGES = {
    "<f8": "DoubleStorage",
    "<f4": "FloatStorage",
    "<f2": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "<i8": "LongStorage",
    "|u1": "ByteStorage",
}


def normalize(part: str, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config of Stable Diffusion 1.x with its defaults."""
    return FAMILIES["sd14"].normalize(part, raw, where)


def canonical(part: str, name: str) -> str:
    """A weight's name as it is on disk today, from any spelling."""
    return FAMILIES["sd14"].parts[part].architecture.canonical(name)


def expected_weights(part: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """{weight: shape} that such a config asks for."""
    return FAMILIES["sd14"].parts[part].architecture.weights(config)


def original_names(part: str, config: Mapping[str, Any]) -> dict[str, str]:
    """{diffusers name: name in the original layout}."""
    return {name: place.name for name, place in FAMILIES["sd14"].parts[part].original_names(config).items()}


def manifest(name: str) -> dict[str, tuple[int, ...]]:
    """{weight: shape} of tests/data/manifests/<name>.jsonl."""
    rows = [json.loads(line) for line in (DATA / "manifests" / f"{name}.jsonl").read_text().splitlines()]
    return {row["name"]: tuple(row["shape"]) for row in rows}


def tiny_checkpoint(seed: int = 3) -> Checkpoint:
    """A Stable Diffusion of 40,000 weights."""
    return random_checkpoint_from_configs(text_encoder=TINY_TEXT, unet=TINY_UNET, vae=TINY_VAE, seed=seed)


def arrays_of(checkpoint: Checkpoint, component: str) -> dict[str, np.ndarray]:
    """All weights of one component."""
    return {name: tensor.numpy() for name, tensor in checkpoint.components[component].weights.items()}


def original_arrays(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """All weights under their names in the original layout, whose VAE has 1x1 convolutions for its attention."""
    arrays = {}
    for component in checkpoint.components:
        names = original_names(component, checkpoint.components[component].config)
        for name, array in arrays_of(checkpoint, component).items():
            conv = component == "vae" and ".attentions." in name and array.ndim == 2
            arrays[names[name]] = array.reshape(*array.shape, 1, 1) if conv else array
    return arrays


def tiny_family(folder: Path) -> Family:
    """A family whose configs are the tiny ones, for single files."""
    for component, config in {"text_encoder": TINY_TEXT, "unet": TINY_UNET, "vae": TINY_VAE}.items():
        write_json(folder / component / "config.json", config)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        write_json(folder / "tokenizer" / name, {})
    return sd1("tiny", None, folder=folder)


def write_json(path: Path, value: Any) -> None:
    """JSON in a file whose folder may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_folder(
    folder: Path, checkpoint: Checkpoint, weights: Mapping[str, Mapping[str, np.ndarray]] | None = None
) -> None:
    """`checkpoint` in diffusers' layout, with `weights` (by component) instead of its own where given."""
    tiny_family(folder)
    for tokenizer, files in checkpoint.tokenizers.items():
        for name, data in files.items():
            (folder / tokenizer / name).write_bytes(data)
    for component in checkpoint.components:
        arrays = (weights or {}).get(component, arrays_of(checkpoint, component))
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        write_safetensors(folder / component / f"{stem}.safetensors", arrays)


_SAFE_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "uint8": "U8",
    "bool": "BOOL",
}


def safetensors_header(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The header of a file that holds `arrays` in order."""
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _SAFE_NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    return header


def safetensors_bytes(header: Any, data: bytes) -> bytes:
    """A file with any header, well-formed or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A well-formed file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        safetensors_bytes(safetensors_header(arrays), b"".join(array.tobytes() for array in arrays.values()))
    )


class Op:
    """Bytes of single pickle opcodes, for pickles that the pickle module would not write."""

    STOP = b"."

    @staticmethod
    def text(value: str) -> bytes:
        """BINUNICODE"""
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data

    @staticmethod
    def number(value: int) -> bytes:
        """LONG1"""
        data = pickle.encode_long(value)
        return b"\x8a" + bytes([len(data)]) + data

    @staticmethod
    def named(module: str, name: str) -> bytes:
        """GLOBAL"""
        return f"c{module}\n{name}\n".encode()

    @staticmethod
    def tuple(*items: bytes) -> bytes:
        """MARK ... TUPLE"""
        return b"(" + b"".join(items) + b"t"

    @staticmethod
    def dict(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
        """EMPTY_DICT MARK ... SETITEMS"""
        return b"}(" + b"".join(key + value for key, value in pairs) + b"u"

    @classmethod
    def storage(cls, kind: str, key: str, numel: int) -> bytes:
        """torch's persistent id"""
        return (
            cls.tuple(cls.text("storage"), cls.named("torch", kind), cls.text(key), cls.text("cpu"), cls.number(numel))
            + b"Q"
        )

    @classmethod
    def tensor(cls, storage: bytes, offset: int, shape: Iterable[int], stride: Iterable[int]) -> bytes:
        """torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, False, OrderedDict())"""
        hooks = cls.named("collections", "OrderedDict") + b")R"
        numbers = [cls.tuple(*map(cls.number, values)) for values in (shape, stride)]
        return (
            cls.named("torch._utils", "_rebuild_tensor_v2")
            + cls.tuple(storage, cls.number(offset), *numbers, b"\x89", hooks)
            + b"R"
        )


def pickled_state(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A pickle of a state dict as torch.save writes it: protocol 2, storage i for the i-th array."""
    return b"\x80\x02" + pickled_dict(arrays) + Op.STOP


def pickled_dict(arrays: Mapping[str, np.ndarray], first: int = 0) -> bytes:
    """The dictionary alone, to build pickles around it; its storages are numbered from `first`."""
    items = []
    for i, (name, array) in enumerate(arrays.items(), first):
        kind = STORAGES["bfloat16" if array.dtype == ml_dtypes.bfloat16 else array.dtype.str]
        stride = [step // array.itemsize for step in np.empty(array.shape, array.dtype).strides]
        items.append((Op.text(name), Op.tensor(Op.storage(kind, str(i), array.size), 0, array.shape, stride)))
    return Op.dict(items)


def ckpt_bytes(
    data_pkl: bytes,
    storages: Iterable[bytes],
    folder: str = "archive",
    compression: int = zipfile.ZIP_STORED,
    extra: Mapping[str, bytes] | None = None,
) -> bytes:
    """A zip archive as torch.save writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", data_pkl)
        archive.writestr(f"{folder}/byteorder", b"little")
        for i, data in enumerate(storages):
            archive.writestr(f"{folder}/data/{i}", data)
        archive.writestr(f"{folder}/version", b"3\n")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return file.getvalue()


def write_ckpt(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A .ckpt whose top level is the state dict."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ckpt_bytes(pickled_state(arrays), [array.tobytes() for array in arrays.values()]))


def write_webui(path: Path, vectors: np.ndarray) -> None:
    """Vectors of a token as AUTOMATIC1111's training leaves them."""
    inner = pickled_dict({"*": vectors})
    tokens = Op.dict([(Op.text("*"), Op.number(265))])
    pairs = [
        ("string_to_token", tokens),
        ("string_to_param", inner),
        ("name", Op.text("other")),
        ("step", Op.number(9)),
    ]
    data = b"\x80\x02" + Op.dict([(Op.text(name), value) for name, value in pairs]) + Op.STOP
    path.write_bytes(ckpt_bytes(data, [vectors.tobytes()]))


def legacy_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file as torch.save wrote it before 1.6: four pickles, the storages' keys,
    and each storage behind its length."""
    sizes = Op.dict([(Op.text("short"), Op.number(2))])
    facts = Op.dict(
        [
            (Op.text("protocol_version"), Op.number(1001)),
            (Op.text("little_endian"), b"\x88"),
            (Op.text("type_sizes"), sizes),
        ]
    )
    keys = b"](" + b"".join(Op.text(str(i)) for i in range(len(arrays))) + b"e"
    magic = Op.number(0x1950A86A20F9469CFC6C)
    pickles = [b"\x80\x02" + body + Op.STOP for body in (magic, Op.number(1001), facts, pickled_dict(arrays), keys)]
    return b"".join(pickles) + b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values())


def default_family() -> Family:
    """Stable Diffusion 1.4."""
    return FAMILIES["sd14"]


AGAIN = "Fix: download the file again."
DIFFERENT = "Fix: use a .safetensors file of the same model."


def message(call: Callable[[], Any], kind: type[OnDeviceError] = CheckpointError) -> str:
    """What `call` says as it raises exactly `kind`."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def read_safetensors(path):
    """The tensors of a file, without its metadata."""
    return read_with_metadata(path)[0]


def same(found, expected, *components):
    """Weights are equal, in the same order; of all components where none is named."""
    for name in components or PARTS:
        ours, theirs = arrays_of(found, name), arrays_of(expected, name)
        assert list(ours) == list(theirs)
        for key, array in theirs.items():
            np.testing.assert_array_equal(ours[key], array, err_msg=key)


def diffusers_names(checkpoint):
    return {f"{part}.{name}": array for part in PARTS for name, array in arrays_of(checkpoint, part).items()}
