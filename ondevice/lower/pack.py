"""How weights are stored: other shapes, zeros at their ends, panels, few bits.
Values are made when a bundle is written; nothing is read here.

The functions that take a value give a value, which `Lowering.operand` makes a tensor of the bundle. Names say what was
done, so that plans of several sizes share the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.errors import GraphError
from ondevice.graph.origin import origin_of, stored_as, with_origin
from ondevice.graph.verify import static_shape
from ondevice.lower import stored
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.lowering import Lowering
from ondevice.lower.quantize import SCHEMES, Scheme, pays

NUMBERS = {"i8": ir.DataType.INT8, "u4x2": ir.DataType.UINT8}  # of a weight in few bits, before they are packed
STAGE = 3072  # elements


def derived(
    name: str,
    source: ir.Value | None,
    shape: Sequence[int],
    make: Callable[[], np.ndarray],
    dtype: ir.DataType | None = None,
) -> ir.Value:
    """A value computed from weights, of the source's type or of `dtype`."""
    dtype = dtype or (ir.DataType.FLOAT if source is None or source.dtype is None else source.dtype)
    fixed = ir.Shape(list(shape))
    tensor = ir.LazyTensor(lambda: ir.Tensor(np.ascontiguousarray(make())), dtype=dtype, shape=fixed, name=name)
    return ir.Value(name=name, shape=fixed, type=ir.TensorType(dtype), const_value=tensor)


def done(value: ir.Value, op: str, name: str, dtype: ir.DataType | None = None, **told: Any) -> ir.Value:
    """What an op of `stored.OPS` makes of a constant weight, which remembers it."""
    values = value.const_value
    assert values is not None, "callers ask for weights only"
    shape = stored.shape_of_step(op, [static_shape(value)], told)
    made = derived(name, value, shape, lambda: stored.OPS[op].values(values.numpy(), **told), dtype)
    assert made.const_value is not None
    with_origin(made.const_value, stored_as(origin_of(values), op, told, shape))
    return made


def zeros(count: int) -> ir.Value:
    """A bias [count] that is not there."""
    return derived(f"zeros.{count}", None, (count,), lambda: np.zeros(count, np.float32))


def stage(low: Lowering, kernel: KernelFile, dtype: str) -> dict[str, str]:
    """What a kernel with an operand `stage` gets for it: the place to which constants are loaded, whose values are
    nothing; its size is the device's (shaders/prelude/opencl_gpu.h)."""
    return {"stage": low.operand(zeros(STAGE), dtype)} if "stage" in kernel.inputs else {}


def as_matrix(value: ir.Value, shape: tuple[int, int]) -> ir.Value:
    """A weight under another shape of two dimensions; the same weight, so the same name."""
    return done(value, "reshape", str(value.name), shape=shape)


def padded(value: ir.Value, columns: int) -> ir.Value:
    """A weight with its last axis filled up with zeros to `columns`, so that kernels may read whole vectors.

    Raises:
        GraphError: it needs that and is no constant.
    """
    if static_shape(value)[-1] >= columns:
        return value
    if value.const_value is None:
        raise GraphError("it is computed (expected a constant weight).", where=f"value {value.name}")
    return done(value, "pad", f"{value.name}:{columns} columns", columns=columns)


def panels(value: ir.Value, width: int, halves: int = 1, fill: int = 0) -> ir.Value:
    """A weight [..., k, n] as [..., panels, k, width]: its columns in panels, filled up with `fill`. With two `halves`,
    a panel has as many columns of the one as of the other."""
    name = f"{value.name}:{'x'.join(map(str, (halves, width // halves)))} columns per panel"
    return done(value, "panels", name, width=width, halves=halves, fill=fill)


def pairs(value: ir.Value) -> ir.Value:
    """Numbers of 0..15, uint8 [..., 2 n], as [..., n]: of two neighbours the first one in a byte's low bits."""
    return done(value, "pairs", f"{value.name}:pairs")


def quantized(value: ir.Value, scheme: Scheme) -> tuple[ir.Value, ir.Value]:
    """(whole numbers [k, n], their scales [groups, n]) of a constant weight [k, n]."""
    name = str(value.name)
    return (
        done(value, scheme.name, f"{name}:{scheme.name}", NUMBERS[scheme.dtype]),
        done(value, f"{scheme.name}_scales", f"{name}:{scheme.name} scales", ir.DataType.FLOAT),
    )


def scheme_of(low: Lowering, shape: Sequence[int]) -> Scheme | None:
    """How a constant weight [k, n] is stored in few bits: large ones as was asked for, others not at all."""
    return SCHEMES[low.weights] if low.weights and pays(*shape) else None


def packed(
    low: Lowering, value: ir.Value, dtype: str, tuning: Mapping[str, int], geglu: bool = False, zero: int = 0
) -> tuple[str, int, dict[str, int]]:
    """(tensor, columns as they are stored, what the kernel is built with) of a weight [..., k, n], or of a bias [n].

    In panels, or in rows of at least one vector; filled up with `zero`.
    """
    if low.panels:
        halves = 2 if geglu else 1
        width = tuning["V"] * (-(-tuning["NV"] // halves) * halves)
        if len(static_shape(value)) == 1:
            value = as_matrix(value, (1, prod(static_shape(value))))
        in_panels = panels(value, width, halves, zero)
        columns = static_shape(in_panels)[-3] * width
        return low.operand(pairs(in_panels) if dtype == "u4x2" else in_panels, dtype), columns, {"PANELS": 1}
    # GEGLU's two halves cannot be padded as one
    in_rows = value if geglu else padded(value, tuning["V"])
    return low.operand(in_rows, dtype), static_shape(in_rows)[-1], {}


def packed_product(
    low: Lowering, value: ir.Value, dtype: str, tuning: Mapping[str, int], instead: str, geglu: bool = False
) -> tuple[str, str, int, dict[str, int]]:
    """`packed` of a product's [k, n], in few bits where that is asked for:
    (tensor, scales of its columns, columns, defines).

    `instead` stands in for the scales of a weight that has none.
    """
    if (scheme := scheme_of(low, static_shape(value))) is None:
        plain, columns, defines = packed(low, value, dtype, tuning, geglu)
        return plain, instead, columns, defines
    numbers, scales = quantized(value, scheme)
    right, columns, defines = packed(low, numbers, scheme.dtype, tuning, geglu, scheme.zero)
    scaled_by, _, _ = packed(low, scales, scheme.scale_dtype, tuning, geglu)
    return right, scaled_by, columns, defines | {scheme.define: 1}
