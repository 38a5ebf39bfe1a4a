"""Read a .ckpt, .pt or .bin file that torch.save wrote (zip format, torch 1.6 and later), making tensors and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.component import lazy, listed
from ondevice.converters.inert_pickle import PickleRefused, TensorRef, follow
from ondevice.converters.safetensors_file import AGAIN, DTYPES, FileSlice
from ondevice.converters.zip_directory import Entry, read_directory
from ondevice.errors import CheckpointError

PICKLE_LIMIT = 32 << 20  # names and shapes only; the numbers are in entries of their own
DIFFERENT = "use a .safetensors file of the same model"

_DTYPES = {
    "Double": "F64",
    "Float": "F32",
    "Half": "F16",
    "BFloat16": "BF16",
    "Long": "I64",
    "Int": "I32",
    "Short": "I16",
    "Char": "I8",
    "Byte": "U8",
    "Bool": "BOOL",
}


@dataclass(frozen=True, slots=True)
class Ckpt:
    """The state dict of a file as lazy tensors, and what else was in it."""

    tensors: dict[str, ir.LazyTensor]
    notes: tuple[str, ...]


def read_ckpt(path: Path) -> Ckpt:
    """The tensors of the file's "state_dict", or of its top level. Raises CheckpointError saying what was refused and where."""
    file = FileSlice(path)
    where = str(path)
    if bytes(file.read(0, min(4, file.size))) != b"PK\x03\x04":
        raise CheckpointError(
            "this is neither a .safetensors file nor a zip archive of torch 1.6 or later; older files can run code and are not read.",
            where=where,
            fix=DIFFERENT,
        )
    entries = read_directory(file)
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"the archive is not one of torch.save (it has {len(pickles)} entries data.pkl).", where=where, fix=DIFFERENT)
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order and bytes(file.read(order.offset, min(order.size, 16))) != b"little":
        raise CheckpointError("the file is not little-endian.", where=where, fix=DIFFERENT)
    entry = entries[pickles[0]]
    if entry.size > PICKLE_LIMIT:
        raise CheckpointError(
            f"data.pkl is too large (got {entry.size:,} bytes, expected at most {PICKLE_LIMIT:,}).", where=where, fix=DIFFERENT
        )
    try:
        value = follow(bytes(file.read(entry.offset, entry.size)))
    except PickleRefused as error:
        raise CheckpointError(f"{error}.", where=f"{where} data.pkl", fix=DIFFERENT) from None
    return _tensors(value, file, entries, folder, where)


def _tensors(value: Any, file: FileSlice, entries: dict[str, Entry], folder: str, where: str) -> Ckpt:
    outer = value if isinstance(value, dict) else {}
    inner = outer.get("state_dict")
    state = inner if isinstance(inner, dict) else outer
    found = {name: ref for name, ref in state.items() if isinstance(name, str) and isinstance(ref, TensorRef)}
    if not found:
        raise CheckpointError("the file holds no named tensors.", where=where, fix="use a checkpoint that holds a state dict")
    beside = [name for name in outer if name != "state_dict"] if state is inner else []
    ignored = [name if isinstance(name, str) else type(name).__name__ for name in (*beside, *state) if name not in found]
    notes = (f"entries that are no tensors were ignored: {listed(ignored, most=3)}",) if ignored else ()
    return Ckpt({name: _tensor(name, ref, file, entries, folder, where) for name, ref in found.items()}, notes)


def _tensor(name: str, ref: TensorRef, file: FileSlice, entries: dict[str, Entry], folder: str, where: str) -> ir.LazyTensor:
    """A lazy tensor of one reference, checked against its storage."""
    where = f"{where} tensor {name[:200]}"
    kind, dtype = DTYPES[_DTYPES[ref.storage.kind]]
    entry = entries.get(f"{folder}data/{ref.storage.key}")
    if entry is None:
        raise CheckpointError(f"its storage data/{ref.storage.key[:100]} is not in the archive.", where=where, fix=AGAIN)
    if entry.size != ref.storage.numel * dtype.itemsize:
        raise CheckpointError(
            f"its storage does not fit {ref.storage.numel:,} numbers of {_DTYPES[ref.storage.kind]} "
            f"(got {entry.size:,} bytes, expected {ref.storage.numel * dtype.itemsize:,}).",
            where=where,
            fix=AGAIN,
        )
    count = math.prod(ref.shape)
    reach = 1 + sum((size - 1) * step for size, step in zip(ref.shape, ref.stride, strict=True)) if count else 0
    if len(ref.shape) > 8 or ref.offset + reach > ref.storage.numel or count > ref.storage.numel:
        raise CheckpointError(
            f"it reaches outside its storage (got shape {_short(ref.shape)}, strides {_short(ref.stride)}, offset {ref.offset:,}; "
            f"expected at most {ref.storage.numel:,} numbers).",
            where=where,
            fix=AGAIN,
        )

    def read() -> np.ndarray:
        data = np.frombuffer(file.read(entry.offset + ref.offset * dtype.itemsize, reach * dtype.itemsize), dtype)
        strides = [step * dtype.itemsize for step in ref.stride]
        return np.asarray(np.lib.stride_tricks.as_strided(data, ref.shape, strides), order="C") if count else data.reshape(ref.shape)

    return lazy(read, kind, ref.shape, name)


def _short(numbers: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, numbers[:8])) + (", ...]" if len(numbers) > 8 else "]")
