"""The sinusoidal embedding of a timestep as one op instead of four to six.

t - Mul frequencies - (Sin, Cos) - Concat    ->  SinCos, or CosSin
SinCos - (Slice, Slice) - Concat             ->  CosSin      (diffusers' flip_sin_to_cos, as exporters write it)
"""

from __future__ import annotations

from math import prod
from typing import Any

import onnx_ir as ir

from ondevice.rewrite.functions import DOMAIN
from ondevice.rewrite.rule import Fusion, dims, fused, ints


class SinCos(Fusion):
    """Sines first."""

    family = "time_embedding"

    def pattern(self, op: Any, t: ir.Value, frequencies: ir.Value) -> Any:
        angle = op.Mul(t, frequencies)
        return op.Concat(op.Sin(angle), op.Cos(angle), _allow_other_attributes=True, _outputs=["joined"])

    def why_not(self, t: ir.Value, frequencies: ir.Value, joined: ir.Value, **_: Any) -> str | None:
        node, times, rates, shape = joined.producer(), dims(t), dims(frequencies), dims(joined)
        if node is None or shape is None or node.attributes["axis"].as_int() % len(shape) != len(shape) - 1:
            return "it does not join along the last axis"
        if (
            not rates
            or frequencies.const_value is None
            or times is None
            or len(times) != 2
            or times[1] != 1
            or rates[-1] != prod(rates)
            or shape != (times[0], 2 * rates[-1])
        ):
            return f"its operands are {times} and {rates} (expected [n, 1] and one constant row of frequencies)"
        return None

    def rewrite(self, op: Any, t: ir.Value, frequencies: ir.Value, **_: Any) -> ir.Value:
        return fused(op, type(self).__name__, t, frequencies)


class CosSin(SinCos):
    """Cosines first."""

    def pattern(self, op: Any, t: ir.Value, frequencies: ir.Value) -> Any:
        angle = op.Mul(t, frequencies)
        return op.Concat(op.Cos(angle), op.Sin(angle), _allow_other_attributes=True, _outputs=["joined"])


class FlippedSinCos(Fusion):
    """Halves changed over afterwards."""

    family = "time_embedding"

    def pattern(
        self,
        op: Any,
        t: ir.Value,
        frequencies: ir.Value,
        from1: ir.Value,
        to1: ir.Value,
        from2: ir.Value,
        to2: ir.Value,
        axes: ir.Value,
    ) -> Any:
        wave = op.SinCos(t, frequencies, _domain=DOMAIN, _outputs=["wave"])
        right = op.Slice(wave, from1, to1, axes, _allow_other_inputs=True)
        left = op.Slice(wave, from2, to2, axes, _allow_other_inputs=True)
        return op.Concat(right, left, _allow_other_attributes=True, _outputs=["joined"])

    def why_not(
        self,
        from1: ir.Value,
        to1: ir.Value,
        from2: ir.Value,
        to2: ir.Value,
        axes: ir.Value,
        wave: ir.Value,
        joined: ir.Value,
        **_: Any,
    ) -> str | None:
        width, bounds = (dims(wave) or (0,))[-1], [ints(value) for value in (from1, to1, from2, to2, axes)]
        if any(bound is None or len(bound) != 1 for bound in bounds):
            return "its slices are not constant"
        first, _last, second, middle, axis = (bound[0] for bound in bounds if bound)
        if axis not in (-1, 1) or (first, second, middle) != (width // 2, 0, width // 2) or dims(joined) != dims(wave):
            return "its slices are not the two halves"
        return None

    def rewrite(self, op: Any, t: ir.Value, frequencies: ir.Value, **_: Any) -> ir.Value:
        return fused(op, "CosSin", t, frequencies)
