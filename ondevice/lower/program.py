"""What lowering gives: kernel calls over named tensors. Nothing here has an address yet; that is the planner's work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ondevice.target import FP32

if TYPE_CHECKING:
    import onnx_ir as ir

STORAGES = {"fp16": "f16", "fp32": "f32"}  # what people call those that activations are stored in
TEXEL = 4  # elements of a texel of an image
# Storage types a kernel may read or write, with bytes per element. One of "u4x2" is two numbers of 4 bits.
DTYPES = {"f32": 4, "f16": 2, "i32": 4, "i8": 1, "u4x2": 1}

# A capability that a kernel may use -> the define that tells it to. Images have one per operand: IMAGE_<name>.
USES = {"half": "HALF", "subgroups": "SUBGROUPS", "matrix_unit": "MATRIX_UNIT", "wave_constants": "WAVE_CONSTANTS"}


MATH_DEFINE = "MATH_"  # begins the define that tells a kernel which of its maths to multiply in
# Relative error at most of an operand of a product, by what it is multiplied in.
MATH_EPS = {"fp32": 2.0**-24, "bf16": 2.0**-8, "bf16x3": 2.0**-16}


def math_of(defines: Iterable[tuple[str, int]]) -> str:
    """What a program of these defines multiplies in, of `ondevice.target.MATHS`."""
    return next((name.removeprefix(MATH_DEFINE) for name, on in defines if on and name.startswith(MATH_DEFINE)), FP32)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dense row-major array that kernels read and write."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of DTYPES

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * DTYPES[self.dtype]


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel launch. `args` follow the kernel header's `in`, `out` and `args` lists, in that order."""

    kernel: str  # the kernel's name
    defines: tuple[tuple[str, int], ...]  # sorted; part of the program's identity
    inputs: tuple[str, ...]  # tensor names, in header order
    outputs: tuple[str, ...]
    scalars: tuple[int | float, ...]  # header `args`, in order
    grid: tuple[int, int, int]  # global size in work-items, a multiple of `group`
    group: tuple[int, int, int]
    node: str  # the graph node it came from
    op: str
    flops: int
    reads: int  # bytes
    writes: int
    inplace: int | None = None  # which input may be found where the output is written
    # (input, width in texels, height in rows) of each that is read as an image over its tensor
    images: tuple[tuple[int, int, int], ...] = ()


@dataclass(slots=True)
class MethodUse:
    """What became of a method, or of a way to multiply: how many nodes it computes, and why others
    that it could compute are computed another way."""

    applied: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Program:
    """A component at one size: calls in execution order. Weights stay lazy until the bundle is written."""

    component: str
    tensors: dict[str, Tensor]
    calls: list[Call]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    # tensor name -> values, converted to its dtype when written
    weights: dict[str, ir.TensorProtocol] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # batch, height, width (latent units for unet and vae)
    # nodes that run on a general kernel, or read as a buffer what could be an image, and why
    fallbacks: list[str] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)  # capabilities without which its calls, as they are built, do not run
    methods: dict[str, MethodUse] = field(default_factory=dict)  # by method, of ondevice.target.METHODS
    math: str = FP32  # what is multiplied in where a kernel does, and what became of that
    in_math: MethodUse = field(default_factory=MethodUse)
    tuned: Counter[str] = field(default_factory=Counter)  # where calls have their tunables from -> how many
    scratch: set[str] = field(default_factory=set)  # tensors between kernels of one node
