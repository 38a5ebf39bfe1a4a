"""A row of the manifest's `weights`."""

from __future__ import annotations

from dataclasses import dataclass

from ondevice.lower.stored import Expression


@dataclass(frozen=True, slots=True)
class WeightEntry:
    """A tensor in a shard: little-endian, row-major, at a multiple of ALIGN bytes. `made`: how it comes from weights of
    the checkpoint, of those that adapters may change."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    bytes: int
    made: Expression | None = None
