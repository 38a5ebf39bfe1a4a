"""Where a lazy weight comes from: weights of a checkpoint, bytes of a file, and what is done with them.

Nothing needs it to read the weight. Who writes graphs can refer to the file instead of copying it, as long as every
step from the bytes to the weight is known; who writes bundles says how a stored weight comes from the checkpoint's, so
that an adapter can change it. A weight that was made otherwise has no origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import onnx_ir as ir

_KEY = "origin"
Tensor = TypeVar("Tensor", bound=ir.TensorProtocol)


@dataclass(frozen=True, slots=True)
class InFile:
    """A tensor as a file holds it: `length` bytes from `offset`, little-endian, in ONNX's order."""

    path: Path
    offset: int
    length: int
    name: str  # there
    dtype: ir.DataType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight of the checkpoint: `name` is its part's and its own, as `unet/conv_in.weight`; `of`: where that comes
    from, if it is known."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    of: Origin | None


@dataclass(frozen=True, slots=True)
class Made:
    """What the ONNX op `op` makes of other tensors: Cast, Mul (by `value`), Reshape, Transpose or Concat. Or an op of
    how weights are stored (`ondevice.lower.stored`).

    Args:
        value: of the one thing that the op is told: a type, a number, a shape, a permutation, an axis; all that an op
            of the latter is told, by name.
    """

    op: str
    of: tuple[Origin, ...]
    value: Any
    dtype: ir.DataType
    shape: tuple[int, ...]


Origin = InFile | Weight | Made


def with_origin(tensor: Tensor, origin: Origin | None) -> Tensor:
    """The tensor, which now knows where it comes from."""
    if origin is not None:
        tensor.meta[_KEY] = origin
    return tensor


def origin_of(tensor: ir.TensorProtocol | None) -> Origin | None:
    """Where it comes from; None where that is not known."""
    found: Origin | None = None if tensor is None else tensor.meta.get(_KEY)
    return found


def file_origin_of(tensor: ir.TensorProtocol | None) -> Origin | None:
    """How it comes from nothing but bytes of files; None where it does not, or that is not known."""
    return _from_files(origin_of(tensor))


def _from_files(origin: Origin | None) -> Origin | None:
    if isinstance(origin, Weight):
        return _from_files(origin.of)
    if not isinstance(origin, Made):
        return origin
    of = [_from_files(part) for part in origin.of]
    known = [part for part in of if part is not None]
    return replace(origin, of=tuple(known)) if len(known) == len(of) else None


def in_files(origin: Origin) -> Iterator[InFile]:
    """Every tensor of a file that it is made of."""
    if isinstance(origin, InFile):
        yield origin
    elif isinstance(origin, Made):
        for part in origin.of:
            yield from in_files(part)


def cast(origin: Origin | None, dtype: ir.DataType) -> Origin | None:
    """The same in another type."""
    if origin is None or origin.dtype == dtype:
        return origin
    return Made("Cast", (origin,), dtype, dtype, origin.shape)


def scaled(origin: Origin | None, factor: float) -> Origin | None:
    """The same times a number."""
    if origin is None or factor == 1.0:
        return origin
    return Made("Mul", (origin,), factor, origin.dtype, origin.shape)


def reshaped(origin: Origin | None, shape: tuple[int, ...]) -> Origin | None:
    """The same numbers in another shape."""
    if origin is None or origin.shape == shape:
        return origin
    return Made("Reshape", (origin,), shape, origin.dtype, shape)


def transposed(origin: Origin | None, perm: tuple[int, ...]) -> Origin | None:
    """With its axes in another order."""
    if origin is None:
        return None
    return Made("Transpose", (origin,), perm, origin.dtype, tuple(origin.shape[axis] for axis in perm))


def stored_as(origin: Origin | None, op: str, told: Mapping[str, Any], shape: tuple[int, ...]) -> Origin | None:
    """What an op of how weights are stored makes of it."""
    return None if origin is None else Made(op, (origin,), tuple(sorted(told.items())), origin.dtype, shape)


def rows(origin: Origin | None, part: int, parts: int) -> Origin | None:
    """The `part`-th of `parts` equal parts of its rows: bytes of the file, too."""
    if not isinstance(origin, InFile):
        return None
    length, shape = origin.length // parts, (origin.shape[0] // parts, *origin.shape[1:])
    name = f"{origin.name}[{part}]"
    return replace(origin, offset=origin.offset + part * length, length=length, name=name, shape=shape)


def joined(origins: list[Origin | None], axis: int) -> Origin | None:
    """Several, side by side along an axis."""
    known = [origin for origin in origins if origin is not None]
    if len(known) < len(origins):
        return None
    first = known[0]
    axis %= len(first.shape)
    shape = (*first.shape[:axis], sum(one.shape[axis] for one in known), *first.shape[axis + 1 :])
    return Made("Concat", tuple(known), axis, first.dtype, shape)
