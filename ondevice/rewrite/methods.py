"""Which method computes an op, where a target has a choice. The meaning stays: only the name, and so the kernels, change.

Attention              ->  FlashAttention      (family flash: the scores are never stored; else partially fused softmax, paper 3.2)
ConvNhwc*, 3x3         ->  WinogradConvNhwc*   (family winograd: F(4x4, 3x3), a quarter of the multiplications, paper 3.3)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod

import onnx_ir as ir

from ondevice.graph.ops import CONV
from ondevice.rewrite.edit import Edit
from ondevice.rewrite.functions import DOMAIN
from ondevice.rewrite.rule import Rule, dims, settings
from ondevice.target import Target

ATTENTION = {"Attention": "FlashAttention", "MaskedAttention": "FlashMaskedAttention"}


class _Method(Rule):
    """Renames ops within the target's bounds."""

    @classmethod
    def better(cls, node: ir.Node, target: Target) -> tuple[str, str | None] | None:
        """(the op that computes it otherwise, why it must not); None for an op that has no other method."""
        raise NotImplementedError

    @classmethod
    def run(cls, model: ir.Model, target: Target) -> tuple[int, Counter[str]]:
        """Every op that has the method and is within its bounds."""
        edit, applied, reasons = Edit(model), 0, Counter[str]()
        for node in list(model.graph):
            found = cls.better(node, target) if node.domain == DOMAIN else None
            if found is None:
                continue
            name, reason = found
            if reason is not None:
                reasons[reason] += 1
                continue
            out = node.outputs[0]
            (new,) = edit.emit(node, name, node.inputs, dims(out) or (), name=f"{out.name}:{cls.family}", ours=True, **settings(node))
            edit.replace(out, new)
            applied += 1
        edit.finish()
        return applied, reasons


class Flash(_Method):
    """Off, or outside its bounds, attention stores its scores, and softmax is applied to them as they are read."""

    family = "flash"

    @classmethod
    def better(cls, node: ir.Node, target: Target) -> tuple[str, str | None] | None:
        if node.op_type not in ATTENTION:
            return None
        bounds, (_, queries, width), (_, keys, _) = target.flash, *(dims(value) or (0, 0, 0) for value in node.inputs[:2])
        head = width // node.attributes["heads"].as_ints()[0]
        reason = None
        if head > bounds.get("max_head", head):
            reason = f"its heads have more than {bounds['max_head']} columns"
        elif queries < bounds.get("min_queries", 0):
            reason = f"it has fewer than {bounds['min_queries']} queries"
        elif keys < bounds.get("min_keys", 0):
            reason = f"it has fewer than {bounds['min_keys']} keys"
        return ATTENTION[node.op_type], reason


class Winograd(_Method):
    """Transforms of patches, weights and products cost what channels and tiles must repay."""

    family = "winograd"

    @classmethod
    def better(cls, node: ir.Node, target: Target) -> tuple[str, str | None] | None:
        kernel, out = dims(node.inputs[1]) if node.op_type in CONV else None, dims(node.outputs[0])
        if kernel is None or out is None or CONV[node.op_type].method:
            return None
        n, height, width, _ = out
        if kernel[:2] != (3, 3) or list(node.attributes["strides"].as_ints()) != [1, 1]:
            return None
        bounds, tiles = target.winograd, n * prod(-(-size // 4) for size in (height, width))
        reason = None
        if kernel[2] < bounds.get("min_channels", 0):
            reason = f"it has fewer than {bounds['min_channels']} channels"
        elif kernel[3] < bounds.get("min_outputs", 0):
            reason = f"it makes fewer than {bounds['min_outputs']} channels"
        elif tiles < bounds.get("min_tiles", 0):
            reason = f"it has fewer than {bounds['min_tiles']} tiles of 4x4"
        return replace(CONV[node.op_type], method="Winograd").name("ConvNhwc"), reason
