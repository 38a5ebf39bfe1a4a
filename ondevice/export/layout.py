"""Between our tensors and those of an export's files: order of axes, shape, dtype (docs/export.md, "export.json")."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ondevice.errors import BundleError, PeerError
from ondevice.export.manifest import MANIFEST, Port

Shape = tuple[int, ...]
AGAIN = "convert the model again"


def to_file(port: Port, ours: np.ndarray, where: str) -> np.ndarray:
    """An input of ours as the files take it.

    Raises:
        BundleError: a shape with free sizes says nothing of this one.
    """
    moved = ours.transpose(port.axes) if port.axes else ours
    shape = _resolved(port.shape, moved.shape)
    if shape is None or prod(shape) % max(ours.size, 1) or (prod(shape) != ours.size and ours.shape[0] != 1):
        what = f"{where} has the shape {list(port.shape)} there, which {list(ours.shape)} does not fill."
        raise BundleError(what, where=MANIFEST, fix=AGAIN)
    whole = np.broadcast_to(moved.reshape(-1), (prod(shape) // max(ours.size, 1), ours.size))
    return np.ascontiguousarray(whole.reshape(shape), port.dtype)


def from_file(port: Port, ours: Shape, theirs: np.ndarray, where: str) -> np.ndarray:
    """An output of the files as ours, float32 or int32.

    Args:
        ours: its shape, 0 where a size is free.

    Raises:
        PeerError: it has another shape than the manifest says.
    """
    axes = port.axes or tuple(range(len(ours)))
    shape = _resolved(tuple(ours[axis] for axis in axes), theirs.shape)
    if shape is None or _resolved(port.shape, theirs.shape) != theirs.shape or prod(shape) != theirs.size:
        what = f"it gave {list(theirs.shape)} (expected {list(port.shape)} as in {MANIFEST})."
        raise PeerError(what, where=where, fix=AGAIN)
    moved = theirs.reshape(shape).transpose(np.argsort(axes))
    return np.ascontiguousarray(moved, np.float32 if moved.dtype.kind == "f" else np.int32)


def _resolved(shape: Shape, other: Sequence[int]) -> Shape | None:
    """A shape whose free sizes are those of `other`, the same tensor in as many dimensions, or with one of them free,
    in other dimensions. None where it is neither."""
    if 0 not in shape:
        return shape
    if len(shape) == len(other):
        return tuple(size or given for size, given in zip(shape, other, strict=True))
    known, whole = prod(size for size in shape if size), prod(other)
    if shape.count(0) > 1 or whole % known:
        return None
    return tuple(size or whole // known for size in shape)
