"""Graph -> graph: the paper's fusions. Rules are data; this list is their order, with its reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ondevice.errors import UsageError
from ondevice.rewrite.activations import (
    Geglu,
    Gelu,
    GeluTanh,
    GeluTanhHalfInside,
    GeluTanhHalfLast,
    LegacyGelu,
    QuickGelu,
    Silu,
)
from ondevice.rewrite.attention import Attention, MaskedAttention
from ondevice.rewrite.channels_last import ChannelsLast
from ondevice.rewrite.epilogue import Activation, Gate, RectifiedSum, Residual, TimeShift
from ondevice.rewrite.functions import add_functions
from ondevice.rewrite.joint_tokens import JointTokens
from ondevice.rewrite.linear import Bias, Gemm
from ondevice.rewrite.modulation import AdaLayerNorm, GatedAdd
from ondevice.rewrite.norms import GroupNorm, GroupNormSilu, HeadsRmsNorm, RmsNorm
from ondevice.rewrite.pictures import ConcatParts, Upsample
from ondevice.rewrite.projections import Projections
from ondevice.rewrite.rule import Rule
from ondevice.rewrite.time_embedding import CosSin, FlippedSinCos, SinCos
from ondevice.rewrite.weights import FoldWeights
from ondevice.target import ALL, METHODS

RULES: tuple[type[Rule], ...] = (
    FoldWeights,  # weights that a graph itself puts beside each other are one, for the rules that look for weights
    # The paper's ops, out of primitives.
    GroupNorm,
    GroupNormSilu,  # absorbs a GroupNorm; before Silu, which would take the same Sigmoid
    RmsNorm,
    HeadsRmsNorm,  # absorbs a RmsNorm
    AdaLayerNorm,
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
    SinCos,
    CosSin,
    FlippedSinCos,
    # Fewer and wider matrix products.
    Bias,
    Gemm,
    FoldWeights,  # a weight that Gemm turned is a weight
    # after Bias, so that biases are joined with their weights; after Attention, which tells what belongs together
    Projections,
    JointTokens,  # of what Projections made
    Gate,
    GatedAdd,  # of what no product makes; before Residual, which would take a sum for its own
    # Layout, and what can be done only in it.
    ChannelsLast,  # after all that turns norms and attention into ops that know no layout but their own
    Upsample,
    TimeShift,
    Activation,  # after TimeShift: in the order in which a kernel finishes its result
    Residual,
    RectifiedSum,
    ConcatParts,  # after Residual, which prefers the convolution beside a shortcut that reads two parts
    FoldWeights,  # what the rules above did to weights is done once, when the bundle is written
)
ALWAYS = frozenset({FoldWeights.family})  # not a choice: other rules rely on it
FUSIONS = tuple(dict.fromkeys(rule.family for rule in RULES if rule.family not in ALWAYS))
# of `--without`: fusions, methods that lowering leaves out, and the paper's baseline
CHOICES = (*FUSIONS, *METHODS, ALL)


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

    Each rule lowers the number of nodes or of bytes moved, so the pass ends; a second pass changes nothing. Fused ops
    carry their meaning as ONNX function bodies (functions.py). The result is the same for all targets.

    Args:
        without: families (`FUSIONS`) to leave out: the paper's ablation, one flag per step. "all" leaves out every
            one; METHODS are lowering's to leave out.

    Raises:
        UsageError: a word that is none of CHOICES.
    """
    if unknown := sorted(set(without) - set(CHOICES)):
        raise UsageError(
            f"rules {', '.join(unknown)} are unknown (expected some of {', '.join(CHOICES)}).", where="--without"
        )
    off = FUSIONS if ALL in without else without
    model.functions.clear()  # the rules would fuse the bodies, too; they are added again at the end
    RemoveUnusedNodesPass()(model)  # a reader whose result nobody wants must not stop a rule
    outcomes = []
    for rule in RULES:
        if rule.family in off:
            outcomes.append(Outcome(rule.__name__, rule.family, 0, Counter(), off=True))
            continue
        applied, reasons = rule.run(model)
        outcomes.append(Outcome(rule.__name__, rule.family, applied, reasons))
    for node in model.graph:
        node.name = node.name or f"{node.outputs[0].name}/{node.op_type}"
    RemoveUnusedNodesPass()(model)
    add_functions(model)
    return outcomes
