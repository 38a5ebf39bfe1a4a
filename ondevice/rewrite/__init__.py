"""Graph -> graph: the paper's fusions. Rules are data; this list is their order, with its reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleSet

from ondevice.errors import UsageError
from ondevice.rewrite.activations import Geglu, Gelu, GeluTanh, GeluTanhHalfInside, GeluTanhHalfLast, LegacyGelu, QuickGelu, Silu
from ondevice.rewrite.attention import Attention, MaskedAttention
from ondevice.rewrite.functions import add_functions
from ondevice.rewrite.norms import GroupNorm, GroupNormSilu
from ondevice.rewrite.rule import Fusion

RULES: tuple[type[Fusion], ...] = (
    GroupNorm,
    GroupNormSilu,  # absorbs a GroupNorm; before Silu, which would take the same Sigmoid
    QuickGelu,
    Silu,
    Gelu,
    LegacyGelu,
    GeluTanh,
    GeluTanhHalfLast,
    GeluTanhHalfInside,
    Geglu,  # absorbs a Gelu
    MaskedAttention,  # before Attention only for the reader: the patterns cannot both match
    Attention,
)
FAMILIES = tuple(dict.fromkeys(rule.family for rule in RULES))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one rule: how often it applied, and why matches were left alone."""

    rule: str
    family: str
    applied: int
    skipped: Counter[str]
    off: bool = False


def rewrite(model: ir.Model, *, without: Collection[str] = ()) -> list[Outcome]:
    """Fuse what the rules recognise, in place; returns an outcome for every rule, in order.

    Each rule strictly lowers the number of nodes, so the pass ends; a second pass changes nothing. Fused ops carry their meaning as ONNX
    function bodies (functions.py).

    Args:
        without: families (`FAMILIES`) to leave out: the paper's ablation, one flag a step.

    Raises:
        UsageError: a family that there is not.
    """
    if unknown := sorted(set(without) - set(FAMILIES)):
        raise UsageError(f"rules {', '.join(unknown)} are unknown (expected some of {', '.join(FAMILIES)}).", where="--without")
    model.functions.clear()  # the rules would fuse the bodies, too; they are added again at the end
    outcomes = []
    for rule in RULES:
        if rule.family in without:
            outcomes.append(Outcome(rule.__name__, rule.family, 0, Counter(), off=True))
            continue
        reasons: list[str] = []
        applied = RewriteRuleSet([rule.rule(reasons)], commute=rule.commute).apply_to_model(model)
        outcomes.append(Outcome(rule.__name__, rule.family, applied, Counter(reasons)))
    for node in model.graph:
        node.name = node.name or f"{node.outputs[0].name}/{node.op_type}"
    add_functions(model)
    return outcomes
