"""How weights are stored: other shapes, zeros at their ends, panels, few bits.
Values are made when a bundle is written; nothing is read here.

The functions that take a value give a value, which `Lowering.operand` makes a tensor of the bundle. Names say what was
done, so that plans of several sizes share the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from ondevice.errors import GraphError
from ondevice.graph.verify import static_shape
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


def zeros(count: int) -> ir.Value:
    """A bias [count] that is not there."""
    return derived(f"zeros.{count}", None, (count,), lambda: np.zeros(count, np.float32))


def stage(low: Lowering, kernel: KernelFile, dtype: str) -> dict[str, str]:
    """What a kernel with an operand `stage` gets for it: the place to which constants are loaded, whose values are
    nothing; its size is the device's (shaders/prelude/opencl_gpu.h)."""
    return {"stage": low.operand(zeros(STAGE), dtype)} if "stage" in kernel.inputs else {}


def as_matrix(value: ir.Value, shape: tuple[int, int]) -> ir.Value:
    """A weight under another shape of two dimensions; the same weight, so the same name."""
    values = value.const_value
    assert values is not None, "only weights are seen so"
    return derived(str(value.name), value, shape, lambda: values.numpy().reshape(shape))


def padded(value: ir.Value, columns: int) -> ir.Value:
    """A weight with its last axis filled up with zeros to `columns`, so that kernels may read whole vectors.

    Raises:
        GraphError: it needs that and is no constant.
    """
    shape, values = static_shape(value), value.const_value
    if shape[-1] >= columns:
        return value
    if values is None:
        raise GraphError("it is computed (expected a constant weight).", where=f"value {value.name}")
    width = [(0, 0)] * (len(shape) - 1) + [(0, columns - shape[-1])]
    return derived(
        f"{value.name}:{columns} columns", value, (*shape[:-1], columns), lambda: np.pad(values.numpy(), width)
    )


def panels(value: ir.Value, width: int, halves: int = 1, fill: int = 0) -> ir.Value:
    """A weight [..., k, n] as [..., panels, k, width]: its columns in panels, filled up with `fill`. With two `halves`,
    a panel has as many columns of the one as of the other."""
    values, (*batch, k, n) = value.const_value, static_shape(value)
    assert values is not None, "callers ask for weights only"
    own = width // halves
    count = -(-(n // halves) // own)

    def make() -> np.ndarray:
        parts = values.numpy().reshape(-1, k, halves, n // halves)
        more = [(0, 0), (0, 0), (0, 0), (0, count * own - n // halves)]
        parts = np.pad(parts, more, constant_values=fill).reshape(-1, k, halves, count, own)
        return parts.transpose(0, 3, 1, 2, 4).reshape(*batch, count, k, width)

    return derived(
        f"{value.name}:{'x'.join(map(str, (halves, own)))} columns per panel", value, (*batch, count, k, width), make
    )


def pairs(value: ir.Value) -> ir.Value:
    """Numbers of 0..15, uint8 [..., 2 n], as [..., n]: of two neighbours the first one in a byte's low bits."""
    values, (*shape, width) = value.const_value, static_shape(value)
    assert values is not None and width % 2 == 0, "kernels' tiles are whole vectors"

    def make() -> np.ndarray:
        numbers = values.numpy()
        return numbers[..., ::2] | numbers[..., 1::2] << 4

    return derived(f"{value.name}:pairs", value, (*shape, width // 2), make)


def quantized(value: ir.Value, scheme: Scheme) -> tuple[ir.Value, ir.Value]:
    """(whole numbers [k, n], their scales [groups, n]) of a constant weight [k, n]."""
    values, (k, n), name = value.const_value, static_shape(value), str(value.name)
    assert values is not None, "callers ask for weights only"

    def lazily(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
        return lambda: make(values.numpy().astype(np.float32, copy=False))

    numbers, scales = lazily(scheme.values), lazily(scheme.scales)
    return (
        derived(f"{name}:{scheme.name}", value, (k, n), numbers, NUMBERS[scheme.dtype]),
        derived(f"{name}:{scheme.name} scales", value, (scheme.groups(k), n), scales, ir.DataType.FLOAT),
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
        stored = panels(value, width, halves, zero)
        columns = static_shape(stored)[-3] * width
        return low.operand(pairs(stored) if dtype == "u4x2" else stored, dtype), columns, {"PANELS": 1}
    # GEGLU's two halves cannot be padded as one
    stored = value if geglu else padded(value, tuning["V"])
    return low.operand(stored, dtype), static_shape(stored)[-1], {}


def packed_product(
    low: Lowering, value: ir.Value, dtype: str, tuning: Mapping[str, int], instead: str, geglu: bool = False
) -> tuple[str, str, int, dict[str, int]]:
    """`packed` of a product's [k, n], in few bits where that is asked for:
    (tensor, scales of its columns, columns, defines).

    `instead` stands in for the scales of a weight that has none.
    """
    if (scheme := scheme_of(low, static_shape(value))) is None:
        stored, columns, defines = packed(low, value, dtype, tuning, geglu)
        return stored, instead, columns, defines
    numbers, scales = quantized(value, scheme)
    right, columns, defines = packed(low, numbers, scheme.dtype, tuning, geglu, scheme.zero)
    scaled_by, _, _ = packed(low, scales, scheme.scale_dtype, tuning, geglu)
    return right, scaled_by, columns, defines | {scheme.define: 1}
