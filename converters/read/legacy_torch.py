"""Find the parts of a file that torch.save wrote before 1.6: four pickles, then the storages, each behind its length.

The pickles are the magic number, the protocol's version, facts of the machine, and the value; a fifth lists the
storages' keys in the order of their data. None is run (`inert_pickle`), and every length is checked against the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from ondevice.converters.read.inert_pickle import follow
from ondevice.converters.read.inert_values import PickleRefused, StorageRef
from ondevice.converters.read.safetensors_file import FileSlice
from ondevice.converters.read.zip_directory import Entry

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_VERSION = 1001
_LENGTH = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class Legacy:
    """The value that was saved, and where its storages' numbers lie, by key."""

    value: Any
    storages: dict[str, Entry]


def read_legacy(file: FileSlice, limit: int) -> Legacy:
    """The parts of the file; its pickles may take `limit` bytes in all.
    Raises PickleRefused, CheckpointError where it cannot be read."""
    data = bytes(file.read(0, min(file.size, limit)))
    storages: dict[str, StorageRef] = {}
    at, values = len(MAGIC), []
    for _ in range(4):
        followed = follow(data, at)
        at = followed.end
        values.append(followed.value)
        storages |= followed.storages
    version, facts, value, keys = values
    if version != _VERSION:
        raise PickleRefused(f"its second pickle is not the number {_VERSION}, torch's protocol")
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise PickleRefused("the file is not little-endian")
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise PickleRefused("the list of storages does not fit the value")
    found: dict[str, Entry] = {}
    for key in keys:
        storage = storages[key]
        if at + _LENGTH.size > file.size:
            raise PickleRefused(f"the file ends before the storage {key[:100]}; it is cut short")
        (count,) = _LENGTH.unpack(file.read(at, _LENGTH.size))
        at += _LENGTH.size
        if count != storage.numel:
            raise PickleRefused(
                f"the storage {key[:100]} is not as long as its tensors say (got {count:,}, expected {storage.numel:,})"
            )
        size = count * storage.itemsize
        if at + size > file.size:
            raise PickleRefused(f"the file ends inside the storage {key[:100]}; it is cut short")
        found[key] = Entry(at, size)
        at += size
    return Legacy(value, found)
