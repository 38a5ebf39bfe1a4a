"""Where a loop is between two calls, kept in a file, so that a run that was killed goes on with the same result.

The file (little-endian): MAGIC; 4 bytes, the length of a header; the header, JSON: `keys`, hashes by name of all that
the state depends on, `call`, the number of the next one, `position` of the noise stream, `slots`, which of the
sampler's slots were written, and `files`, of a picture that is done; the slots that were, float32 each; SHA-256 of all
before it. Files are written beside and renamed, and read by the code below alone: nothing in them is a program.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ondevice.diffusion.files import opened, write_output
from ondevice.diffusion.mersenne import Position
from ondevice.diffusion.samplers import SamplerTable
from ondevice.errors import UsageError

MAGIC = b"ondevice run 1\n\0"
HEADER_LIMIT = 1 << 16
_DIGEST = 32
_BEGIN_ANEW = "leave --resume out to begin anew"


@dataclass(frozen=True, slots=True)
class LoopState:
    """`call`: the next one's number; `slots` float32 arrays of the sample's shape, empty where nothing was written;
    `position` of the noise stream."""

    call: int
    slots: tuple[np.ndarray, ...]
    position: Position

    def check(self, begun: Position, size: int) -> None:
        """Raise UsageError for a position that a run which is at `begun` before its loop, of samples of `size` numbers,
        cannot have come to."""
        ahead = self.position[0] - begun[0]
        if not 0 <= ahead <= 64 * self.call * max(size, 64):
            what = f"the state cannot be gone on from (its noise is at {self.position[0]})."
            raise UsageError(what, where="--resume", fix=_BEGIN_ANEW)


class Keeper(Protocol):
    """Keeps states of one picture's loop."""

    def begin(self, table: SamplerTable, shape: tuple[int, ...]) -> LoopState | None:
        """The state to go on from, of a sample of this shape; None: the run begins at its beginning.
        Raises UsageError for one that cannot be gone on from."""
        ...

    def keep(self, state: LoopState, calls: int) -> None:
        """Told after each call, of `calls` in all. Raises UsageError where it cannot be written."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file holds: a state, or the files (name -> SHA-256) of a picture that is done."""

    keys: Mapping[str, str]
    state: LoopState | None = None
    files: Mapping[str, str] = field(default_factory=dict)


def write_kept(path: Path, kept: Kept) -> None:
    """All of the file, or nothing new. Raises UsageError where the disk or the folder refuses."""
    header: dict[str, Any] = {"keys": dict(kept.keys), "files": dict(kept.files)}
    arrays: list[np.ndarray] = []
    if kept.state is not None:
        header |= {"call": kept.state.call, "position": list(kept.state.position)}
        header["slots"] = [bool(slot.size) for slot in kept.state.slots]
        arrays = [np.ascontiguousarray(slot, "<f4") for slot in kept.state.slots if slot.size]
    text = json.dumps(header, sort_keys=True).encode()
    data = b"".join([MAGIC, len(text).to_bytes(4, "little"), text, *(array.tobytes() for array in arrays)])
    write_output(path, lambda file: file.write(data + hashlib.sha256(data).digest()))


def read_kept(
    path: Path, keys: Mapping[str, str], table: SamplerTable | None = None, shape: tuple[int, ...] = ()
) -> Kept:
    """What a file holds for a run with these keys, with this sampler and samples of this shape; without a table, which
    files it says are done, and no state.

    Raises:
        UsageError: it cannot be read, is damaged, or is of another run.
    """

    def refused(why: str) -> UsageError:
        return UsageError(f"nothing can be gone on from ({why}).", where=str(path), fix=_BEGIN_ANEW)

    slots = 0 if table is None else 4 * table.slots * math.prod(shape)
    limit = len(MAGIC) + 4 + HEADER_LIMIT + slots + _DIGEST
    with opened(path, limit, refused) as (file, _):
        data = file.read(limit)
    if not data.startswith(MAGIC):
        raise refused("it is no file of --checkpoint-every")
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise refused("it is cut or damaged")
    try:
        return _read(body[len(MAGIC) :], keys, table, shape)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise refused(str(error)[:200] or "it is damaged") from None


def _read(body: bytes, keys: Mapping[str, str], table: SamplerTable | None, shape: tuple[int, ...]) -> Kept:
    """ValueError and the like where something is not as it was written."""
    length = int.from_bytes(body[:4], "little")
    if length > HEADER_LIMIT:
        raise ValueError("its header is too long")
    header = json.loads(body[4 : 4 + length])
    if not isinstance(header, dict) or not isinstance(header.get("keys"), dict):
        raise ValueError("its header is damaged")
    if other := [name for name, key in keys.items() if header["keys"].get(name) != key]:
        raise ValueError(f"it is of a run with another {' and another '.join(other)}")
    files = header["files"]
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise ValueError("its files are damaged")
    if "call" not in header or table is None:
        return Kept(keys, files=files)
    call, written, (taken, held) = header["call"], header["slots"], header["position"]
    if type(call) is not int or not 0 < call <= len(table.calls) or type(taken) is not int or not 0 <= taken < 2**62:
        raise ValueError("its numbers are damaged")
    if held is not None and (type(held) is not float or not math.isfinite(held)):
        raise ValueError("its noise is damaged")
    made = {0} | {row.slot for one in table.calls[:call] for row in one.rows}
    if written != [slot in made for slot in range(table.slots)]:
        raise ValueError("its slots are those of another sampler")
    size = 4 * math.prod(shape)
    rest = body[4 + length :]
    if len(rest) != size * sum(written):
        raise ValueError(f"its slots are of another size (got {len(rest)} bytes, expected {size * sum(written)})")
    parts = iter(np.split(np.frombuffer(rest, "<f4").astype(np.float32), sum(written)))
    slots = tuple(next(parts).reshape(shape) if one else np.empty(0, np.float32) for one in written)
    if not all(np.isfinite(slot).all() for slot in slots):
        raise ValueError("its slots hold values that are not finite")
    return Kept(keys, LoopState(call, slots, (taken, held)), files)
