"""Read a .ckpt, .pt or .bin file that torch.save wrote (a zip archive, or torch 1.5's form),
making tensors and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.component import lazy
from ondevice.converters.read.inert_pickle import follow
from ondevice.converters.read.inert_values import Inert, PickleRefused, TensorRef
from ondevice.converters.read.legacy_torch import MAGIC, read_legacy
from ondevice.converters.read.names import is_ignorable
from ondevice.converters.read.safetensors_file import AGAIN, DTYPES, FileSlice
from ondevice.converters.read.state_dict import find_state
from ondevice.converters.read.zip_directory import Entry, read_directory
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
    "Float8_e4m3fn": "F8_E4M3",
    "Float8_e5m2": "F8_E5M2",
}


@dataclass(frozen=True, slots=True)
class Ckpt:
    """The state dict of a file as lazy tensors, what else was in it, whether they are averages,
    and a .safetensors file's metadata."""

    tensors: dict[str, ir.LazyTensor]
    notes: tuple[str, ...] = ()
    averaged: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_ckpt(path: Path, *, averaged: bool = False) -> Ckpt:
    """The tensors of the file's state dict, which may lie deeper in it; of no state dict, all tensors by dotted path.

    `averaged=True` prefers moving averages where the file keeps both. Raises CheckpointError saying what was
    refused and where.
    """
    file = FileSlice(path)
    where = str(path)
    head = bytes(file.read(0, min(len(MAGIC), file.size)))
    if head == MAGIC:
        try:
            legacy = read_legacy(file, PICKLE_LIMIT)
        except PickleRefused as error:
            what = f"this torch file of before 1.6 cannot be read: {error}."
            raise CheckpointError(what, where=where, fix=f"{AGAIN}, or {DIFFERENT}") from None
        return _tensors(legacy.value, file, legacy.storages, averaged, where)
    if head[:4] != b"PK\x03\x04":
        raise CheckpointError(
            "this is neither a .safetensors file nor one that torch.save wrote.", where=where, fix=DIFFERENT
        )
    entries = read_directory(file)
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(
            f"the archive is not one of torch.save (it has {len(pickles)} entries data.pkl).",
            where=where,
            fix=DIFFERENT,
        )
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order and bytes(file.read(order.offset, min(order.size, 16))) != b"little":
        raise CheckpointError("the file is not little-endian.", where=where, fix=DIFFERENT)
    entry = entries[pickles[0]]
    if entry.size > PICKLE_LIMIT:
        raise CheckpointError(
            f"data.pkl is too large (got {entry.size:,} bytes, expected at most {PICKLE_LIMIT:,}).",
            where=where,
            fix=DIFFERENT,
        )
    try:
        value = follow(bytes(file.read(entry.offset, entry.size))).value
    except PickleRefused as error:
        raise CheckpointError(f"{error}.", where=f"{where} data.pkl", fix=DIFFERENT) from None
    inside = f"{folder}data/"
    storages = {name.removeprefix(inside): entry for name, entry in entries.items() if name.startswith(inside)}
    return _tensors(value, file, storages, averaged, where)


def _tensors(value: Any, file: FileSlice, storages: dict[str, Entry], averaged: bool, where: str) -> Ckpt:
    state = find_state(value, averaged=averaged)
    for name, maker in state.odd.items():
        if not is_ignorable(name):
            what = f"it is made by {maker.replace(' ', '.')[:100]}, which is no plain torch tensor."
            raise CheckpointError(what, where=f"{where} tensor {name[:200]}", fix=DIFFERENT)
    if not state.tensors and isinstance(value, Inert) and value.items:
        what = f"the file holds a whole object ({value.name.replace(' ', '.')[:100]}), not named tensors."
        raise CheckpointError(what, where=where, fix="load it where its class is installed, and save its state_dict()")
    if not state.tensors:
        raise CheckpointError(
            "the file holds no named tensors.", where=where, fix="use a checkpoint that holds a state dict"
        )
    return Ckpt(
        {name: _tensor(name, ref, file, storages, where) for name, ref in state.tensors.items()},
        state.notes,
        state.averaged,
    )


def _tensor(name: str, ref: TensorRef, file: FileSlice, storages: dict[str, Entry], where: str) -> ir.LazyTensor:
    """A lazy tensor of one reference, checked against its storage."""
    where = f"{where} tensor {name[:200]}"
    kind, dtype = DTYPES[_DTYPES[ref.kind]]
    entry = storages.get(ref.storage.key)
    if entry is None:
        raise CheckpointError(
            f"its storage data/{ref.storage.key[:100]} is not in the archive.", where=where, fix=AGAIN
        )
    size = ref.storage.numel * ref.storage.itemsize
    if entry.size != size:
        raise CheckpointError(
            f"its storage does not fit {ref.storage.numel:,} numbers of {_DTYPES.get(ref.storage.kind, 'bytes')} "
            f"(got {entry.size:,} bytes, expected {size:,}).",
            where=where,
            fix=AGAIN,
        )
    count = math.prod(ref.shape)
    reach = 1 + sum((size - 1) * step for size, step in zip(ref.shape, ref.stride, strict=True)) if count else 0
    most = size // dtype.itemsize
    if len(ref.shape) > 8 or ref.offset + reach > most or count > most:
        raise CheckpointError(
            f"it reaches outside its storage (got shape {_short(ref.shape)}, "
            f"strides {_short(ref.stride)}, offset {ref.offset:,}; "
            f"expected at most {most:,} numbers).",
            where=where,
            fix=AGAIN,
        )

    def read() -> np.ndarray:
        data = np.frombuffer(file.read(entry.offset + ref.offset * dtype.itemsize, reach * dtype.itemsize), dtype)
        strides = [step * dtype.itemsize for step in ref.stride]
        return (
            np.asarray(np.lib.stride_tricks.as_strided(data, ref.shape, strides), order="C")
            if count
            else data.reshape(ref.shape)
        )

    return lazy(read, kind, ref.shape, name)


def _short(numbers: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, numbers[:8])) + (", ...]" if len(numbers) > 8 else "]")
