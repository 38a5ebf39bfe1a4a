"""Which kernel runs an op. One table, first fit wins, and the losers say why."""

from __future__ import annotations

from collections.abc import Mapping

from ondevice.errors import NoKernelError
from ondevice.lower.kernel_file import KernelFile

# Fastest first; a general fallback goes last.
CANDIDATES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), ("binary",)),
    **dict.fromkeys(("Sigmoid", "Erf", "Tanh", "Sin", "Cos", "Sqrt", "Exp", "Neg", "Silu", "Gelu", "GeluTanh", "QuickGelu"), ("unary",)),
    **dict.fromkeys(("Attention", "MaskedAttention"), ("attention",)),
    "GroupNorm": ("group_norm",),
    "Geglu": ("geglu",),
    **dict.fromkeys(("Transpose", "Slice", "Split", "Concat", "Expand", "Identity"), ("strided_copy",)),
    **dict.fromkeys(("MatMul", "Gemm"), ("matmul",)),
    "Cast": ("cast",),
    "Conv": ("conv2d_1x1", "conv2d_tile", "conv2d"),
    "InstanceNormalization": ("instance_norm",),
    "LayerNormalization": ("layer_norm",),
    "Softmax": ("softmax",),
    "Resize": ("resize_nearest",),
    "Gather": ("gather",),
}


def select(op: str, dims: Mapping[str, int | float], kernels: Mapping[str, KernelFile]) -> KernelFile:
    """The first candidate for `op` that fits `dims`. Raises NoKernelError with each candidate's reason."""
    reasons = []
    for name in CANDIDATES.get(op, ()):
        reason = kernels[name].misfit(dims) if name in kernels else "its file is missing"
        if reason is None:
            return kernels[name]
        reasons.append(f"{name}: {reason}")
    why = "; ".join(reasons) or "no file for this op"
    raise NoKernelError(f"no kernel fits ({why}).", where=f"{op} {dict(dims)}", fix="add a fallback kernel")
