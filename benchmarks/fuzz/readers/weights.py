"""Files of weights, indices of shards, what is in a single file, what is in a folder,
and what the hub says that it has."""

from __future__ import annotations

import json
import math
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from checkpoint_files import (
    PARTS,
    arrays_of,
    ckpt_bytes,
    legacy_bytes,
    original_names,
    pickled_state,
    safetensors_bytes,
    safetensors_header,
)

from benchmarks.fuzz.mutate.chunks import headed
from benchmarks.fuzz.mutate.data import havoc, of_files, pack, unpack
from benchmarks.fuzz.mutate.pickles import checkpoint, legacy
from benchmarks.fuzz.mutate.values import json_value
from benchmarks.fuzz.reader import Reader, holds
from benchmarks.fuzz.readers import small
from ondevice.converters.component import lazy
from ondevice.converters.read.ckpt_file import Ckpt
from ondevice.converters.read.diffusers_folder import read_folder, shards_of
from ondevice.converters.read.hub import wanted_files
from ondevice.converters.read.names import ema_name
from ondevice.converters.read.parts import read_part
from ondevice.converters.read.safetensors_file import DTYPES
from ondevice.converters.read.single_file import checkpoint_from
from ondevice.converters.read.weights_file import read_weights

_SMALL = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.ones((4,), np.float16),
    "c": np.array(3, np.int64),
    "d": np.ones((2, 2), ml_dtypes.bfloat16),
    "none": np.zeros((0, 3), np.float32),
}


def _check(tensors: Any, size: int) -> None:
    """Every tensor can be read, is what it says, and lies within a file of `size` bytes."""
    for name, tensor in tensors.items():
        count = math.prod(tensor.shape.numpy())
        holds(count * tensor.dtype.itemsize <= size, f"the tensor {name[:80]!r} is larger than its file")
        array = tensor.numpy()
        holds(array.shape == tuple(tensor.shape.numpy()), f"the tensor {name[:80]!r} has another shape than it says")
        holds(array.dtype == tensor.dtype.numpy(), f"the tensor {name[:80]!r} has another dtype than it says")


def _safetensors_seeds() -> list[bytes]:
    arrays = {name: array for name, array in _SMALL.items() if array.dtype != ml_dtypes.bfloat16} | {"d": _SMALL["d"]}
    body = b"".join(array.tobytes() for array in arrays.values())
    header = safetensors_header(arrays)
    return [
        safetensors_bytes(header, body),
        safetensors_bytes({"__metadata__": {"format": "pt"}} | header, body),
        safetensors_bytes({}, b""),
    ]


def _read_safetensors(data: bytes, folder: Path) -> None:
    path = folder / "f.safetensors"
    path.write_bytes(data)
    tensors = read_weights(path).tensors
    _check(tensors, len(data))
    total = sum(math.prod(tensor.shape.numpy()) * tensor.dtype.itemsize for tensor in tensors.values())
    holds(total + 8 + int.from_bytes(data[:8], "little") == len(data), "the tensors are not the whole file")


def _gguf_seeds() -> list[bytes]:
    """Two tensors of plain numbers and one of blocks, the shape of which stands in the metadata; and no tensor."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def tensor(name: str, sizes: tuple[int, ...], kind: int, offset: int) -> bytes:
        return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)

    values = (
        text("general.architecture") + struct.pack("<I", 8) + text("sd"),
        text("general.alignment") + struct.pack("<II", 4, 32),
        text("comfy.gguf.orig_shape.q") + struct.pack("<IIQ3i", 9, 5, 3, 2, 4, 8),
        text("words") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
    )
    tensors = (tensor("a", (3, 2), 0, 0), tensor("b.weight", (4,), 1, 32), tensor("q", (32, 2), 8, 64))
    kinds = ((values, tensors, 64 + 2 * 34), ((), (), 0))
    seeds = []
    for pairs, rows, length in kinds:
        head = b"GGUF" + struct.pack("<IQQ", 3, len(rows), len(pairs)) + b"".join((*pairs, *rows))
        seeds.append(head + bytes(-len(head) % 32) + bytes(range(256))[:length])
    return seeds


def _read_gguf(data: bytes, folder: Path) -> None:
    """Blocks widen to at most sixteen times their bytes."""
    path = folder / "f.gguf"
    path.write_bytes(data)
    _check(read_weights(path).tensors, 16 * len(data))


def _ckpt_seeds() -> list[bytes]:
    arrays = {name: array for name, array in _SMALL.items() if array.size}
    storages = [array.tobytes() for array in arrays.values()]
    plain = pickled_state(arrays)
    nested = b"\x80\x02}(X\x05\x00\x00\x00epochK\x01X\x0a\x00\x00\x00state_dict" + plain[2:-1] + b"u."
    shared = plain.replace(b"X\x01\x00\x00\x001X\x03", b"X\x01\x00\x00\x000X\x03")
    return [ckpt_bytes(pickled, storages) for pickled in (plain, nested, shared)]


def _read_ckpt(data: bytes, folder: Path) -> None:
    path = folder / "f.ckpt"
    path.write_bytes(data)
    for averaged in (False, True):
        _check(read_weights(path, averaged=averaged).tensors, len(data))


def _legacy_seeds() -> list[bytes]:
    return [legacy_bytes({name: array for name, array in _SMALL.items() if array.size})]


def _part_seeds() -> list[bytes]:
    """A VAE alone, in diffusers' names and in the original ones, and one inside a checkpoint."""
    arrays = arrays_of(small.checkpoint(), "vae")
    original = original_names("vae", small.checkpoint().components["vae"].config)
    spelled = (arrays, {original[name].removeprefix("first_stage_model."): array for name, array in arrays.items()})
    spelled += (
        {original[name]: array for name, array in arrays.items()}
        | {"model.diffusion_model.x": np.zeros(2, np.float32)},
    )
    return [
        safetensors_bytes(safetensors_header(kind), b"".join(array.tobytes() for array in kind.values()))
        for kind in spelled
    ]


def _read_part(data: bytes, folder: Path) -> None:
    path = folder / "vae.safetensors"
    path.write_bytes(data)
    _check(read_part(small.family(), "vae", path, small.family().config("vae")).weights, len(data))


def _index_seeds() -> list[bytes]:
    shards = {"unet.a": "model-00001-of-00002.safetensors", "unet.b": "model-00002-of-00002.safetensors"}
    return [json.dumps({"metadata": {"total_size": 12}, "weight_map": shards}).encode(), b'{"weight_map": {}}']


def _read_index(data: bytes, folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_bytes(data)
    for name in shards_of(folder, "model.safetensors.index.json"):
        holds((folder / name).parent == folder, f"the shard {name[:80]!r} is outside the folder")


def _hub_seeds() -> list[bytes]:
    plain = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"]
    for component, stem in (
        ("text_encoder", "model"),
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
    ):
        plain += [f"{component}/config.json", f"{component}/{stem}.safetensors", f"{component}/{stem}.fp16.safetensors"]
    sharded = [
        name.replace("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors.index.json")
        for name in plain
    ]
    return [
        json.dumps({"variant": variant, "files": files}).encode()
        for variant, files in ((None, plain), ("fp16", plain), (None, sharded))
    ]


def _read_hub(data: bytes, folder: Path) -> None:
    """File names are texts, as huggingface_hub promises; what they say is anybody's."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, list):
        return
    names = [name for name in files if isinstance(name, str)]
    variant = value.get("variant") if isinstance(value.get("variant"), str) else None
    wanted = wanted_files(names, small.family(), variant, "organisation/name")
    holds(set(wanted) <= set(names), "a file is wanted that the hub does not have")


def _single_seeds() -> list[bytes]:
    """{name: [dtype, shape]} of the tensors in a file."""
    rows: dict[str, Any] = {}
    for component in PARTS:
        config = small.checkpoint().components[component].config
        shapes = {
            name: list(tensor.shape.numpy())
            for name, tensor in small.checkpoint().components[component].weights.items()
        }
        rows |= {original: ["F16", shapes[name]] for name, original in original_names(component, config).items()}
    trained = rows | {"model_ema.decay": ["F32", []], "betas": ["F32", [1000]], "global_step": ["I64", []]}
    averaged = trained | {ema_name(name): row for name, row in rows.items() if name.startswith("model.")}
    foreign = {f"lora_unet_{i}.weight": ["F16", [4, 4]] for i in range(3)}
    return [json.dumps(kind).encode() for kind in (rows, trained, averaged, foreign)]


def _read_single(data: bytes, folder: Path) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    tensors: dict[str, ir.TensorProtocol] = {}
    for name, row in value.items() if isinstance(value, dict) else ():
        match row:
            case [str(dtype), [*shape]] if (
                dtype in DTYPES and all(type(x) is int and 0 <= x < 1 << 48 for x in shape) and len(shape) <= 8
            ):
                kind, numpy_dtype = DTYPES[dtype]
                tensors[name] = lazy(lambda shape=shape, form=numpy_dtype: np.zeros(shape, form), kind, shape, name)
    for ema in (False, True) if any(name.startswith("model_ema.") for name in tensors) else (False,):
        found = checkpoint_from(Ckpt(tensors), folder / "f.safetensors", small.family(), ema=ema)
        holds(set(found.components) == set(PARTS), "a component is missing")


_FILES = ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt")
_FILES += (
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "text_encoder/config.json",
    "unet/config.json",
)


def _folder_seeds() -> list[bytes]:
    """Files that are small; weights stand in the folder as they were written."""
    with tempfile.TemporaryDirectory() as folder:
        small.write_small(Path(folder))
        files = {
            name: (Path(folder) / name).read_bytes()
            for name in (*_FILES, "vae/config.json")
            if (Path(folder) / name).exists()
        }
    index = {"weight_map": dict.fromkeys(("conv_in.weight", "conv_in.bias"), "diffusion_pytorch_model.safetensors")}
    return [
        pack(files),
        pack(files | {"vae/diffusion_pytorch_model.safetensors.index.json": json.dumps(index).encode()}),
    ]


def _read_folder(data: bytes, folder: Path) -> None:
    """The folder has all weights; configs, tokenizer, scheduler and indices are the input's."""
    base, root = folder.parent / f"{folder.name}-base", folder / "model"
    if not base.exists():
        small.write_small(base)
    if not root.exists():
        for component in PARTS:
            (root / component).mkdir(parents=True)
            for file in (base / component).glob("*.safetensors"):
                (root / component / file.name).symlink_to(file)
    kept = [file for file in unpack(data).items() if _is_plain(file[0])]
    for name in ("scheduler", "tokenizer"):
        shutil.rmtree(root / name, ignore_errors=True)
    for file in (*root.glob("*.json"), *root.glob("*/*.json")):
        file.unlink()
    for name, content in kept:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    found = read_folder(root, small.family(), None)
    holds(found.components["unet"].weights, "a component without weights was taken")


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return (
        len(parts) <= 2
        and name.endswith((".json", ".txt"))
        and all(part.strip(".") and "\0" not in part and len(part) < 99 for part in parts)
    )


READERS = (
    Reader("safetensors", _safetensors_seeds, headed, _read_safetensors),
    Reader("gguf", _gguf_seeds, havoc, _read_gguf),
    Reader("ckpt", _ckpt_seeds, checkpoint, _read_ckpt),
    Reader("torch_legacy", _legacy_seeds, legacy, _read_ckpt),
    Reader("part", _part_seeds, headed, _read_part),
    Reader("index", _index_seeds, json_value, _read_index),
    Reader("hub", _hub_seeds, json_value, _read_hub),
    Reader("single_file", _single_seeds, json_value, _read_single),
    Reader("folder", _folder_seeds, of_files(lambda _: json_value, optional=True), _read_folder),
)
