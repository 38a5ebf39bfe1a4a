"""MIL's ops that only move numbers, in NumPy, and those that make weights of compressed ones (constexpr_*)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ondevice.export.runtimes.mil_file import Type, unpacked
from ondevice.export.runtimes.mil_ops import Evaluate, Given, along, entry, expect, numbers, scalar

MOVES: dict[str, Evaluate] = {}


@entry(MOVES, "reshape")
def _reshape(given: Given, types: Sequence[Type]) -> np.ndarray:
    x, shape = given["x"], numbers(given, "shape", ())
    for i, size in enumerate(shape):
        if size == 0:  # that of the input, counted from the end
            shape[i] = x.shape[i - len(shape)] if len(shape) - i <= x.ndim else 1
    return x.reshape(shape)


@entry(MOVES, "transpose")
def _transpose(given: Given, types: Sequence[Type]) -> np.ndarray:
    return given["x"].transpose(numbers(given, "perm", ()))


@entry(MOVES, "expand_dims")
def _expand_dims(given: Given, types: Sequence[Type]) -> np.ndarray:
    return np.expand_dims(given["x"], tuple(numbers(given, "axes", ())))


@entry(MOVES, "squeeze")
def _squeeze(given: Given, types: Sequence[Type]) -> np.ndarray:
    return given["x"].squeeze(tuple(numbers(given, "axes", ())) if "axes" in given else None)


@entry(MOVES, "concat")
def _concat(given: Given, types: Sequence[Type]) -> np.ndarray:
    parts, axis = given["values"], scalar(given, "axis", 0)
    if scalar(given, "interleave", False):
        raise ValueError("interleave")
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    expect(shape, types)
    return np.concatenate(parts, axis)


@entry(MOVES, "stack")
def _stack(given: Given, types: Sequence[Type]) -> np.ndarray:
    parts, axis = given["values"], scalar(given, "axis", 0)
    shape = list(parts[0].shape)
    shape.insert(axis % (len(shape) + 1), len(parts))
    expect(shape, types)
    return np.stack(parts, axis)


@entry(MOVES, "split")
def _split(given: Given, types: Sequence[Type]) -> list[np.ndarray]:
    x, axis = given["x"], scalar(given, "axis", 0)
    if "split_sizes" in given:
        return np.split(x, np.cumsum(numbers(given, "split_sizes", ()))[:-1], axis)
    return np.split(x, scalar(given, "num_splits", 0), axis)


@entry(MOVES, "slice_by_index")
def _slice_by_index(given: Given, types: Sequence[Type]) -> np.ndarray:
    x = given["x"]
    begin, end = numbers(given, "begin", ()), numbers(given, "end", ())
    stride = numbers(given, "stride", [1] * x.ndim)
    from_start, to_end, squeezed = (
        numbers(given, name, [0] * x.ndim) for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    return x[
        tuple(
            begin[i]
            if squeezed[i]
            else slice(None if from_start[i] else begin[i], None if to_end[i] else end[i], stride[i])
            for i in range(x.ndim)
        )
    ]


@entry(MOVES, "gather")
def _gather(given: Given, types: Sequence[Type]) -> np.ndarray:
    x, indices, axis = given["x"], given["indices"], scalar(given, "axis", 0) % given["x"].ndim
    if scalar(given, "batch_dims", 0):
        raise ValueError("batch_dims")
    expect((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), types)
    return np.take(x, indices.astype(np.int64), axis)


@entry(MOVES, "select")
def _select(given: Given, types: Sequence[Type]) -> np.ndarray:
    cond, a, b = given["cond"], given["a"], given["b"]
    expect(np.broadcast_shapes(cond.shape, a.shape, b.shape), types)
    return np.where(cond, a, b)


@entry(MOVES, "tile")
def _tile(given: Given, types: Sequence[Type]) -> np.ndarray:
    x, times = given["x"], numbers(given, "reps", ())
    expect([size * many for size, many in zip(x.shape, times, strict=True)], types)
    return np.tile(x, times)


@entry(MOVES, "pad")
def _pad(given: Given, types: Sequence[Type]) -> np.ndarray:
    x, pads = given["x"], numbers(given, "pad", ())
    if scalar(given, "mode", "constant") != "constant":
        raise ValueError("mode")
    pads = [0] * (2 * x.ndim - len(pads)) + pads
    expect([size + pads[2 * i] + pads[2 * i + 1] for i, size in enumerate(x.shape)], types)
    around = list(zip(pads[::2], pads[1::2], strict=True))
    return np.pad(x, around, constant_values=scalar(given, "constant_val", 0))


def _nearest(x: np.ndarray, height: int, width: int, types: Sequence[Type]) -> np.ndarray:
    expect((*x.shape[:-2], height, width), types)
    rows, columns = (np.arange(to) * size // to for size, to in zip(x.shape[-2:], (height, width), strict=True))
    return x[..., rows[:, None], columns]


@entry(MOVES, "upsample_nearest_neighbor")
def _upsample(given: Given, types: Sequence[Type]) -> np.ndarray:
    height, width = (
        math.floor(size * scalar(given, f"scale_factor_{name}", 1))
        for size, name in zip(given["x"].shape[-2:], ("height", "width"), strict=True)
    )
    return _nearest(given["x"], height, width, types)


@entry(MOVES, "resize_nearest_neighbor")
def _resize(given: Given, types: Sequence[Type]) -> np.ndarray:
    height, width = (scalar(given, f"target_size_{name}", 0) for name in ("height", "width"))
    return _nearest(given["x"], height, width, types)


def _per_element(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Numbers that stand for a block of elements each, as many times; what is one of an axis is left to broadcast."""
    for axis, (many, size) in enumerate(zip(x.shape, shape, strict=True)):
        if size % many:
            raise ValueError(f"{many} blocks of {size} elements")
        if 1 < many < size:
            x = x.repeat(size // many, axis)
    return x


@entry(MOVES, "constexpr_affine_dequantize")
def _affine_dequantize(given: Given, types: Sequence[Type]) -> np.ndarray:
    data, axis = given["quantized_data"].astype(np.float32), scalar(given, "axis", 0)
    for name, function in (("zero_point", np.subtract), ("scale", np.multiply)):
        number = given[name].astype(np.float32)
        function(data, along(data, [axis], number) if number.ndim else number, out=data)
    return data


@entry(MOVES, "constexpr_blockwise_shift_scale")
def _blockwise_shift_scale(given: Given, types: Sequence[Type]) -> np.ndarray:
    data, scale = given["data"].astype(np.float32), given["scale"]
    if "offset" in given:
        data -= _per_element(given["offset"].astype(np.float32), data.shape)
    data *= _per_element(scale, data.shape)
    return data


@entry(MOVES, "constexpr_lut_to_dense")
def _lut_to_dense(given: Given, types: Sequence[Type]) -> np.ndarray:
    """iOS 16: packed indices into one table, and the shape; iOS 18: a table per block of indices, of single values."""
    indices, table = given["indices"], given["lut"]
    if "shape" in given:
        expect(numbers(given, "shape", ()), types)
        whole = unpacked(indices, Type(f"uint{table.size.bit_length() - 1}", types[0].shape))
        return table[whole].reshape(types[0].shape)
    if table.ndim != indices.ndim + 2 or table.shape[-1] != 1:
        raise ValueError(f"a table of {list(table.shape)} for {list(indices.shape)}")
    tables = np.ix_(
        *(np.arange(size) // (size // many) for size, many in zip(indices.shape, table.shape, strict=False))
    )
    return table[..., 0][(*tables, indices)]


@entry(MOVES, "constexpr_cast")
def _constexpr_cast(given: Given, types: Sequence[Type]) -> np.ndarray:
    return given["source_val"]
