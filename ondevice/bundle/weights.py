"""Weights on their way into shards: layout first, then values, one tensor in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ondevice.bundle import format as f
from ondevice.bundle.weight_entry import WeightEntry
from ondevice.errors import BundleError
from ondevice.lower.stored import Expression
from ondevice.plan.plan import ALIGN, Plan, home

if TYPE_CHECKING:
    import onnx_ir as ir

STORED: dict[str, np.dtype] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "i32": np.dtype("<i4"),
    "i8": np.dtype("i1"),
    "u4x2": np.dtype("u1"),
}
LIMITS = {"f32": ("-3.4e38", "3.4e38"), "f16": ("-65504", "65504"), "i32": f.INT32, "i8": (-128, 127), "u4x2": (0, 255)}
# elements converted at once: source and result stay in the cache, and a large tensor is not copied whole
CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class WeightSource:
    """A weight to store as `dtype`[`shape`]. `values` is read once, when its bytes are written, and not kept. `made`:
    how it comes from weights of the checkpoint, where that is known."""

    values: ir.TensorProtocol | Callable[[], np.ndarray]
    dtype: str
    shape: tuple[int, ...]
    made: Expression | None = None


def lay_out(
    plans: Iterable[Plan],
    weights: Mapping[str, WeightSource],
    shard_bytes: int,
    readers: Mapping[str, frozenset[str]] | None = None,
) -> dict[str, WeightEntry]:
    """A place in a shard for each weight the plans read, in the order they are first read.

    A shard is named after the component that reads its weights first, and closed before it would pass `shard_bytes`; a
    larger tensor gets a shard of its own. Weights that no plan reads get no place. Raises BundleError for a weight that
    is missing or that a plan reads with another dtype or shape.

    Args:
        readers: the targets whose plans read a weight, which all weights of a shard have alike.
    """
    placed: dict[str, WeightEntry] = {}
    counts: Counter[str] = Counter()  # component -> shards that it has
    shards: dict[tuple[str, frozenset[str]], tuple[int, int]] = {}  # of a component and readers: the last's number, end
    for plan in plans:
        read = [home(plan.operands, index) for call in plan.dispatches for index in call.operands]
        for index in dict.fromkeys([*read, *range(len(plan.operands))]):  # order of use, then operands nothing uses
            operand = plan.operands[index]
            if (key := operand.weight) is None:
                continue
            if (source := weights.get(key)) is None:
                fix = "give write_bundle every weight that the plans name"
                raise BundleError("no values were given for this weight.", where=key, fix=fix)
            if (source.dtype, source.shape) != (operand.dtype, operand.shape):
                got = f"{source.dtype}{list(source.shape)}"
                what = (
                    f"has two layouts (got {got}, expected {operand.dtype}{list(operand.shape)} as the plan of "
                    f"{plan.component} reads it)."
                )
                raise BundleError(what, where=key, fix="give each layout its own key")
            if key in placed:
                continue
            size = f.nbytes(source.shape, source.dtype)
            group = plan.component, (readers or {}).get(key, frozenset())
            number, end = shards.get(group, (0, 0))
            offset = -(-end // ALIGN) * ALIGN
            if group not in shards or (offset and offset + size > shard_bytes):
                number, offset = counts[plan.component], 0
                counts[plan.component] += 1
            placed[key] = WeightEntry(
                source.dtype, source.shape, f"weights/{plan.component}-{number:03d}.bin", offset, size
            )
            shards[group] = number, offset + size
    return placed


def in_shards(sources: Mapping[str, WeightSource], stem: str, shard_bytes: int) -> dict[str, WeightEntry]:
    """A place for each of these in shards of their own, `weights/STEM-000.bin`..., in their order."""
    placed: dict[str, WeightEntry] = {}
    number, end = 0, 0
    for key, source in sources.items():
        size, offset = f.nbytes(source.shape, source.dtype), -(-end // ALIGN) * ALIGN
        if offset and offset + size > shard_bytes:
            number, offset = number + 1, 0
        placed[key] = WeightEntry(source.dtype, source.shape, f"weights/{stem}-{number:03d}.bin", offset, size)
        end = offset + size
    return placed


def shard_sizes(placed: Mapping[str, WeightEntry]) -> dict[str, int]:
    """Bytes of each shard: up to the end of its last weight, rounded up to ALIGN."""
    sizes: dict[str, int] = {}
    for entry in placed.values():
        end = -(-(entry.offset + entry.bytes) // ALIGN) * ALIGN
        sizes[entry.file] = max(sizes.get(entry.file, 0), end)
    return sizes


def shard_chunks(
    file: str, placed: Mapping[str, WeightEntry], weights: Mapping[str, WeightSource]
) -> Iterator[memoryview | bytes]:
    """The bytes of one shard, in order, padding included."""
    end = 0
    for key, entry in placed.items():
        if entry.file == file:
            yield bytes(entry.offset - end)
            yield from stored(key, weights[key])
            end = entry.offset + entry.bytes
    yield bytes(-end % ALIGN)


def stored(key: str, source: WeightSource) -> Iterator[memoryview]:
    """A weight's values converted to its stored dtype, in chunks. Raises BundleError where a value does not fit."""
    values = source.values() if callable(source.values) else source.values.numpy()
    if values.shape != source.shape:
        what = f"has the wrong shape (got {list(values.shape)}, expected {list(source.shape)})."
        raise BundleError(
            what, where=key, fix="report this with the checkpoint's name: the graph and the weights disagree"
        )
    wanted = STORED[source.dtype]
    if (values.dtype.kind in "iub") != (wanted.kind in "iu") or values.dtype.kind in "cOSUMm":
        what = f"cannot be stored as {source.dtype} (got {values.dtype})."
        raise BundleError(what, where=key, fix="convert the weight before it is given to write_bundle")
    flat = np.ascontiguousarray(values).reshape(-1)
    del values
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        with np.errstate(over="ignore", invalid="ignore"):
            out = part.astype(wanted, copy=False)
        if wanted.kind in "iu":
            bad = out != part
        else:  # an infinity that was there before stays: it is a mask. What became one, or is not a number, is an error
            bad = ~np.isfinite(out)
            bad = bad & ~np.isinf(part) if bad.any() else bad
        if bad.any():
            first = int(np.argmax(bad))
            _refuse(key, source, part[first], start + first)
        yield out.data.cast("B")


def _refuse(key: str, source: WeightSource, value: np.generic, flat_index: int) -> None:
    index = [int(i) for i in np.unravel_index(flat_index, source.shape)]
    if value != value:
        raise BundleError(f"holds NaN at {index}.", where=key, fix="use another checkpoint: this one is broken")
    low, high = LIMITS[source.dtype]
    fix = "convert with `--dtype fp32`" if source.dtype == "f16" else "use another checkpoint: this one is broken"
    fix = "convert without `--weights int4`" if ":int4 scales" in key else fix  # in half, whatever the dtype
    raise BundleError(
        f"holds {value} at {index}, too large for {source.dtype} (expected {low}..{high}).", where=key, fix=fix
    )
