"""Which kernel runs an op. One table, first fit wins, and the losers say why."""

from __future__ import annotations

from collections.abc import Mapping

from ondevice.errors import NoKernelError
from ondevice.lower.kernel_file import KernelFile

# Fastest first; a general fallback goes last.
CANDIDATES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), ("binary",)),
    **dict.fromkeys(("Sigmoid", "Erf", "Tanh", "Sin", "Cos", "Sqrt", "Exp", "Neg", "Silu", "Gelu", "GeluTanh", "QuickGelu"), ("unary",)),
    **dict.fromkeys(("FlashAttention", "FlashMaskedAttention"), ("flash_attention",)),
    "AttentionScores": ("attention_scores",),
    "SoftmaxStats": ("softmax_stats",),
    "AttentionMix": ("attention_mix",),
    "WinogradStrips": ("winograd_strips",),
    "WinogradInput": ("winograd_input",),
    "WinogradOutput": ("winograd_output",),
    "GroupNorm": ("group_norm",),
    "GroupNormNhwc": ("group_norm_nhwc", "group_norm_nhwc_any"),
    "GroupNormSums": ("group_norm_sums",),
    "GroupNormApply": ("group_norm_apply",),
    "NormalizeNhwc": ("normalize_nhwc",),
    "ConvNhwc": ("conv2d_nhwc",),
    **dict.fromkeys(("SinCos", "CosSin"), ("sin_cos",)),
    "Geglu": ("geglu",),
    **dict.fromkeys(("Transpose", "Slice", "Split", "Concat", "Expand", "Identity"), ("strided_copy",)),
    **dict.fromkeys(("MatMul", "Linear"), ("matmul",)),
    "Cast": ("cast",),
    "Conv": ("conv2d_1x1", "conv2d_tile", "conv2d"),
    "InstanceNormalization": ("instance_norm",),
    "LayerNormalization": ("layer_norm",),
    "Softmax": ("softmax",),
    "Resize": ("resize_nearest",),
    "ResizeNhwc": ("resize_nearest_nhwc",),
    "Gather": ("gather",),
}
# Correct for every shape, and slow: where one of these runs, an op fell through what was made for it. --strict refuses that.
GENERAL = frozenset({"conv2d", "group_norm_nhwc_any"})


def select(op: str, dims: Mapping[str, int | float], kernels: Mapping[str, KernelFile], losers: list[str] | None = None) -> KernelFile:
    """The first candidate for `op` that fits `dims`. Raises NoKernelError with each candidate's reason.

    losers: gets the reasons of the candidates before it.
    """
    reasons = [] if losers is None else losers
    for name in CANDIDATES.get(op, ()):
        reason = kernels[name].misfit(dims) if name in kernels else "its file is missing"
        if reason is None:
            return kernels[name]
        reasons.append(f"{name}: {reason}")
    why = "; ".join(reasons) or "no file for this op"
    raise NoKernelError(f"no kernel fits ({why}).", where=f"{op} {dict(dims)}", fix="add a fallback kernel")
