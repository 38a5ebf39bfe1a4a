"""How weights are stored: other shapes, zeros at their ends, panels, int8.
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
from ondevice.lower import int8
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.lowering import Lowering

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


def panels(value: ir.Value, width: int, halves: int = 1) -> ir.Value:
    """A weight [..., k, n] as [..., panels, k, width]: its columns in panels, filled up with zeros. With two `halves`,
    a panel has as many columns of the one as of the other."""
    values, (*batch, k, n) = value.const_value, static_shape(value)
    assert values is not None, "callers ask for weights only"
    own = width // halves
    count = -(-(n // halves) // own)

    def make() -> np.ndarray:
        parts = values.numpy().reshape(-1, k, halves, n // halves)
        parts = np.pad(parts, [(0, 0), (0, 0), (0, 0), (0, count * own - n // halves)]).reshape(
            -1, k, halves, count, own
        )
        return parts.transpose(0, 3, 1, 2, 4).reshape(*batch, count, k, width)

    return derived(
        f"{value.name}:{'x'.join(map(str, (halves, own)))} columns per panel", value, (*batch, count, k, width), make
    )


def quantized(value: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(int8 [k, n], float32 scales [1, n]) of a constant weight [k, n]."""
    values, (k, n), name = value.const_value, static_shape(value), str(value.name)
    assert values is not None, "callers ask for weights only"

    def lazily(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
        return lambda: make(values.numpy().astype(np.float32, copy=False))

    small = derived(
        f"{name}:int8", value, (k, n), lazily(lambda w: int8.rounded(w, int8.scales_of(w))), ir.DataType.INT8
    )
    return small, derived(f"{name}:scales", value, (1, n), lazily(lambda w: int8.scales_of(w)[None]), ir.DataType.FLOAT)


def as_int8(low: Lowering, shape: Sequence[int]) -> bool:
    """Whether a constant weight [k, n] becomes int8:
    large ones do, the first and the last convolutions of a picture do not."""
    k, n = shape
    return low.weights == "i8" and k >= int8.ROWS and n >= int8.COLUMNS and k * n >= int8.ELEMENTS


def packed(
    low: Lowering, value: ir.Value, dtype: str, tuning: Mapping[str, int], geglu: bool = False
) -> tuple[str, int, dict[str, int]]:
    """(tensor, columns as they are stored, what the kernel is built with) of a weight [..., k, n], or of a bias [n].

    In panels, or in rows of at least one vector.
    """
    if low.panels:
        halves = 2 if geglu else 1
        width = tuning["V"] * (-(-tuning["NV"] // halves) * halves)
        if len(static_shape(value)) == 1:
            value = as_matrix(value, (1, prod(static_shape(value))))
        stored = low.operand(panels(value, width, halves), dtype)
        return stored, low.program.tensors[stored].shape[-3] * width, {"PANELS": 1}
    # GEGLU's two halves cannot be padded as one
    stored = low.operand(value if geglu else padded(value, tuning["V"]), dtype)
    return stored, low.program.tensors[stored].shape[-1], {}


def packed_product(
    low: Lowering, value: ir.Value, dtype: str, tuning: Mapping[str, int], instead: str, geglu: bool = False
) -> tuple[str, str, int, dict[str, int]]:
    """`packed` of a product's [k, n], as int8 where that is asked for:
    (tensor, scales of its columns, columns, defines).

    `instead` stands in for the scales of a weight that is not int8.
    """
    if not as_int8(low, static_shape(value)):
        stored, columns, defines = packed(low, value, dtype, tuning, geglu)
        return stored, instead, columns, defines
    values, scales = quantized(value)
    right, columns, defines = packed(low, values, "i8", tuning, geglu)
    return right, packed(low, scales, "f32", tuning, geglu)[0], columns, defines | {"W8": 1}
