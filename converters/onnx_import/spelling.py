"""One spelling for what exporters write in many:
that of our own graphs (components/layers.py), so that one set of fusion rules serves all.

Ops that opsets 20 to 25 made native are spelled out (GroupNormalization, Gelu, Attention), and what differs between the
exporters is brought to one form (transposed keys, where attention is scaled, masks, halves, padding). Shapes are static
here and constants folded; new constants are folded by the walk that follows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase, RewriteRuleSet

from ondevice.converters.onnx_import.evaluate import array_of, shape_of

Rules = tuple[tuple[type[RewriteRuleClassBase], ...], ...]


def respell(model: ir.Model, stages: Rules) -> None:
    """Apply `NATIVE` or `FORMS`, in place. Values that rules make have no shape until the next walk of `evaluate`."""
    for rules in stages:
        RewriteRuleSet([rule.rule() for rule in rules], commute=True).apply_to_model(model)
    for node in list(model.graph):
        if node.op_type == "Slice":
            _join_halves(model.graph, node)


def _one(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds."""
    array = array_of(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.dtype.kind in "fi" else None


def _attribute(value: ir.Value, name: str, default: Any) -> Any:
    """An attribute of the node that made `value`."""
    node = value.producer()
    assert node is not None, "the pattern bound a node's output"
    return node.attributes[name].value if name in node.attributes else default


def _scaled(op: Any, q: ir.Value, k: ir.Value, scale: float) -> ir.Value:
    """Scores of [n, heads, queries, d] with keys of [n, heads, d, keys];
    the scale on both sides keeps half-precision scores small."""
    root = op.Constant(value_float=math.sqrt(scale))
    return op.MatMul(op.Mul(q, root), op.Mul(k, root))


# Ops that are newer than opset 18 -------------------------------------------------------------------------------------


class GroupNormalization(RewriteRuleClassBase):
    """Opset 21: scale and bias are one per channel."""

    def pattern(self, op: Any, x: ir.Value, scale: ir.Value, bias: ir.Value) -> Any:
        return op.GroupNormalization(x, scale, bias, _allow_other_attributes=True, _outputs=["normal"])

    def check(self, op: Any, x: ir.Value, scale: ir.Value, **_: Any) -> bool:
        shape = shape_of(x)
        return shape is not None and shape_of(scale) == (shape[1],)

    def rewrite(self, op: Any, x: ir.Value, scale: ir.Value, bias: ir.Value, normal: ir.Value) -> Any:
        shape, groups = shape_of(x), int(_attribute(normal, "num_groups", 1))
        assert shape is not None, "check has seen it"
        ones, zeros = (op.Constant(value_floats=[number] * groups) for number in (1.0, 0.0))
        split = op.Reshape(x, op.Constant(value_ints=[shape[0], groups, math.prod(shape[1:]) // groups]))
        inner = op.InstanceNormalization(split, ones, zeros, epsilon=float(_attribute(normal, "epsilon", 1e-5)))
        channel = op.Constant(value_ints=[shape[1], *(1 for _ in shape[2:])])
        wide = op.Reshape(inner, op.Constant(value_ints=list(shape)))
        return op.Add(op.Mul(wide, op.Reshape(scale, channel)), op.Reshape(bias, channel))


class Gelu(RewriteRuleClassBase):
    """Opset 20, exact or by tanh."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Gelu(x, _allow_other_attributes=True, _outputs=["y"])

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value) -> Any:
        one, half = op.Constant(value_float=1.0), op.Constant(value_float=0.5)
        if _attribute(y, "approximate", "none") == "tanh":
            cubed = op.Mul(op.Mul(op.Mul(x, x), x), op.Constant(value_float=0.044715))
            inner = op.Mul(op.Add(x, cubed), op.Constant(value_float=math.sqrt(2 / math.pi)))
            return op.Mul(op.Mul(x, half), op.Add(op.Tanh(inner), one))
        erf = op.Erf(op.Div(x, op.Constant(value_float=math.sqrt(2))))
        return op.Mul(x, op.Mul(op.Add(erf, one), half))


class Attention(RewriteRuleClassBase):
    """Opset 23, over [n, heads, tokens, d]; no mask, a mask to add, or one of booleans."""

    masked = False

    def pattern(self, op: Any, q: ir.Value, k: ir.Value, v: ir.Value) -> Any:
        return op.Attention(q, k, v, _allow_other_attributes=True, _outputs=["y"])

    def check(self, op: Any, q: ir.Value, k: ir.Value, v: ir.Value, y: ir.Value, **_: Any) -> bool:
        shapes = [shape_of(value) for value in (q, k, v)]
        plain = all(not _attribute(y, name, 0) for name in ("softcap", "qk_matmul_output_mode"))
        return (
            plain
            and all(shape is not None and len(shape) == 4 for shape in shapes)
            and len({s[1] for s in shapes if s}) == 1
        )

    def rewrite(self, op: Any, q: ir.Value, k: ir.Value, v: ir.Value, y: ir.Value, mask: ir.Value | None = None) -> Any:
        queries, keys = shape_of(q), shape_of(k)
        assert queries is not None and keys is not None, "check has seen both"
        scale = float(_attribute(y, "scale", 0.0)) or queries[3] ** -0.5
        scores = _scaled(op, q, op.Transpose(k, perm=[0, 1, 3, 2]), scale)
        if _attribute(y, "is_causal", 0):
            later = np.triu(np.full((1, 1, queries[2], keys[2]), -np.inf, np.float32), 1)
            scores = op.Add(scores, op.Constant(value=ir.tensor(later)))
        if mask is not None:
            scores = op.Add(scores, mask if mask.dtype != ir.DataType.BOOL else _additive(op, mask))
        return op.MatMul(op.Softmax(scores, axis=-1), v)


class AttentionWithMask(Attention):
    """The same with a fourth input."""

    def pattern(self, op: Any, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value) -> Any:
        return op.Attention(q, k, v, mask, _allow_other_attributes=True, _outputs=["y"])


def _additive(op: Any, mask: ir.Value) -> ir.Value:
    return op.Where(mask, op.Constant(value_float=0.0), op.Constant(value=ir.tensor(np.array(-np.inf, np.float32))))


class LayerNorm(RewriteRuleClassBase):
    """Spelled out by exporters before opset 17."""

    def pattern(self, op: Any, x: ir.Value, two: ir.Value, epsilon: ir.Value, scale: ir.Value, bias: ir.Value) -> Any:
        centred = op.Sub(x, op.ReduceMean(x, axes=[-1], _allow_other_attributes=True, _outputs=["mean"]))
        variance = op.ReduceMean(op.Pow(centred, two), axes=[-1], _allow_other_attributes=True, _outputs=["variance"])
        return op.Add(op.Mul(op.Div(centred, op.Sqrt(op.Add(variance, epsilon))), scale), bias)

    def check(
        self, op: Any, x: ir.Value, two: ir.Value, epsilon: ir.Value, scale: ir.Value, bias: ir.Value,
        mean: ir.Value, variance: ir.Value, **_: Any,
    ) -> bool:  # fmt: skip
        shape = shape_of(x)
        if shape is None or shape_of(scale) != shape[-1:] or shape_of(bias) != shape[-1:]:
            return False
        kept = all(_attribute(value, "keepdims", 1) for value in (mean, variance))
        return kept and _one(two) == 2 and _one(epsilon) is not None

    def rewrite(self, op: Any, x: ir.Value, epsilon: ir.Value, scale: ir.Value, bias: ir.Value, **_: Any) -> Any:
        return op.LayerNormalization(x, scale, bias, axis=-1, epsilon=_one(epsilon))


class Power(RewriteRuleClassBase):
    """Squares and cubes as products, which every device has exactly."""

    def pattern(self, op: Any, x: ir.Value, exponent: ir.Value) -> Any:
        return op.Pow(x, exponent)

    def check(self, op: Any, x: ir.Value, exponent: ir.Value, **_: Any) -> bool:
        return _one(exponent) in (2.0, 3.0) and len(shape_of(exponent) or ()) <= len(shape_of(x) or ())

    def rewrite(self, op: Any, x: ir.Value, exponent: ir.Value) -> Any:
        square = op.Mul(x, x)
        return square if _one(exponent) == 2 else op.Mul(square, x)


class EqualSplit(RewriteRuleClassBase):
    """Opset 17 lists the sizes of equal halves, or leaves them out."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Split(x, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["first", "second"])

    def check(self, op: Any, first: ir.Value, second: ir.Value, **_: Any) -> bool:
        node = first.producer()
        old = node is not None and (len(node.inputs) > 1 or "num_outputs" not in node.attributes)
        return old and shape_of(first) == shape_of(second) and shape_of(first) is not None

    def rewrite(self, op: Any, x: ir.Value, first: ir.Value, **_: Any) -> Any:
        return op.Split(x, axis=int(_attribute(first, "axis", 0)), num_outputs=2, _outputs=2)


class PaddedConv(RewriteRuleClassBase):
    """Zeros around the picture belong to the convolution (the VAE's way down pads below and right only)."""

    def pattern(self, op: Any, x: ir.Value, pads: ir.Value, w: ir.Value) -> Any:
        padded = op.Pad(x, pads, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["padded"])
        return op.Conv(padded, w, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["y"])

    def check(self, op: Any, pads: ir.Value, padded: ir.Value, y: ir.Value, **_: Any) -> bool:
        around, pad, conv = array_of(pads), padded.producer(), y.producer()
        if (
            around is None
            or around.shape != (8,)
            or (around < 0).any()
            or around[[0, 1, 4, 5]].any()
            or pad is None
            or conv is None
        ):
            return False
        fill = [value for value in pad.inputs[2:] if value is not None]
        explicit = (
            _attribute(y, "auto_pad", "NOTSET") == "NOTSET" and _attribute(padded, "mode", "constant") == "constant"
        )
        return explicit and len(fill) < 2 and all(_one(value) == 0 for value in fill)

    def rewrite(self, op: Any, x: ir.Value, pads: ir.Value, w: ir.Value, y: ir.Value, **_: Any) -> Any:
        around, conv = array_of(pads), y.producer()
        assert around is not None and conv is not None, "check has seen both"
        settings = {name: attribute.value for name, attribute in conv.attributes.items() if name != "pads"}
        own = list(_attribute(y, "pads", [0, 0, 0, 0]))
        both = [int(a) + int(b) for a, b in zip(own, around[[2, 3, 6, 7]], strict=True)]
        return op.Conv(x, w, *conv.inputs[2:], pads=both, **settings)


NATIVE: Rules = (
    (LayerNorm,),  # before Power, which would take its square
    (GroupNormalization, Gelu, AttentionWithMask, Attention, Power, EqualSplit, PaddedConv),
)


# Attention, as exporters write it before opset 23 ---------------------------------------------------------------------


class TurnedKeys(RewriteRuleClassBase):
    """[n, h, t, d] - Reshape [n*h, t, d] - Transpose - Reshape [n, h, d, t]: one Transpose."""

    def pattern(self, op: Any, k: ir.Value, flat: ir.Value, wide: ir.Value) -> Any:
        return op.Reshape(
            op.Transpose(op.Reshape(k, flat, _outputs=["rows"]), perm=[0, 2, 1]), wide, _outputs=["turned"]
        )

    def check(self, op: Any, k: ir.Value, rows: ir.Value, turned: ir.Value, **_: Any) -> bool:
        shape = shape_of(k)
        if shape is None or len(shape) != 4:
            return False
        n, heads, tokens, width = shape
        return shape_of(rows) == (n * heads, tokens, width) and shape_of(turned) == (n, heads, width, tokens)

    def rewrite(self, op: Any, k: ir.Value, **_: Any) -> Any:
        return op.Transpose(k, perm=[0, 1, 3, 2])


class GuardedSoftmax(RewriteRuleClassBase):
    """Where(IsNaN(p), 0, p) is p if the mask leaves every query a key."""

    def pattern(self, op: Any, scores: ir.Value, mask: ir.Value, zero: ir.Value) -> Any:
        weights = op.Softmax(op.Add(scores, mask), _allow_other_attributes=True, _outputs=["weights"])
        return op.Where(op.IsNaN(weights), zero, weights)

    def check(self, op: Any, mask: ir.Value, zero: ir.Value, weights: ir.Value, **_: Any) -> bool:
        values, axis = array_of(mask), _attribute(weights, "axis", -1)
        last = axis in (-1, len(shape_of(weights) or ()) - 1)
        return last and _one(zero) == 0 and values is not None and bool(np.isfinite(values).any(axis=-1).all())

    def rewrite(self, op: Any, scores: ir.Value, mask: ir.Value, **_: Any) -> Any:
        return op.Softmax(op.Add(scores, mask), axis=-1)


class ScaledScores(RewriteRuleClassBase):
    """A scale on the scores (transformers' own attention), or on one side: on both."""

    def pattern(self, op: Any, q: ir.Value, k: ir.Value, scale: ir.Value) -> Any:
        return op.Mul(op.MatMul(q, k, _outputs=["scores"]), scale, _outputs=["y"])

    def check(self, op: Any, q: ir.Value, k: ir.Value, scale: ir.Value, y: ir.Value, **_: Any) -> bool:
        factor, shapes = self.factor(scale), (shape_of(q), shape_of(k))
        heads = all(shape is not None and len(shape) == 4 for shape in shapes)
        return heads and factor is not None and factor > 0 and _softened(y)

    def factor(self, scale: ir.Value) -> float | None:
        """What the scores are multiplied by."""
        return _one(scale)

    def rewrite(self, op: Any, q: ir.Value, k: ir.Value, scale: ir.Value, **_: Any) -> Any:
        factor = self.factor(scale)
        assert factor is not None, "check has seen it"
        return _scaled(op, q, k, factor)


class DividedScores(ScaledScores):
    """The same as a division by the root of d."""

    def pattern(self, op: Any, q: ir.Value, k: ir.Value, scale: ir.Value) -> Any:
        return op.Div(op.MatMul(q, k, _outputs=["scores"]), scale, _outputs=["y"])

    def factor(self, scale: ir.Value) -> float | None:
        """One over it."""
        number = _one(scale)
        return 1 / number if number else None


class ScaledQueries(ScaledScores):
    """A scale on the queries alone, after the heads were split."""

    def pattern(self, op: Any, q: ir.Value, k: ir.Value, scale: ir.Value) -> Any:
        return op.MatMul(op.Mul(q, scale), k, _outputs=["y"])

    def check(self, op: Any, q: ir.Value, k: ir.Value, scale: ir.Value, y: ir.Value, **_: Any) -> bool:
        node = k.producer()
        return node is not None and node.op_type == "Transpose" and super().check(op, q, k, scale, y)


class ScaledBeforeHeads(RewriteRuleClassBase):
    """A scale on the queries before the heads are split moves behind the split."""

    def pattern(self, op: Any, x: ir.Value, split: ir.Value, scale: ir.Value, k: ir.Value) -> Any:
        queries = op.Transpose(op.Reshape(op.Mul(x, scale), split), perm=[0, 2, 1, 3])
        return op.MatMul(queries, k, _outputs=["y"])

    def check(self, op: Any, scale: ir.Value, k: ir.Value, y: ir.Value, **_: Any) -> bool:
        factor, node = _one(scale), k.producer()
        return factor is not None and factor > 0 and node is not None and node.op_type == "Transpose" and _softened(y)

    def rewrite(self, op: Any, x: ir.Value, split: ir.Value, scale: ir.Value, k: ir.Value, **_: Any) -> Any:
        factor = _one(scale)
        assert factor is not None, "check has seen it"
        return _scaled(op, op.Transpose(op.Reshape(x, split), perm=[0, 2, 1, 3]), k, factor)


class WideMask(RewriteRuleClassBase):
    """A constant mask of [queries, keys], of [1, queries, keys], or the same for every picture:
    [1, 1, queries, keys]."""

    def pattern(self, op: Any, q: ir.Value, k: ir.Value, mask: ir.Value) -> Any:
        return op.Softmax(
            op.Add(op.MatMul(q, k, _outputs=["scores"]), mask), _allow_other_attributes=True, _outputs=["y"]
        )

    def check(self, op: Any, mask: ir.Value, scores: ir.Value, **_: Any) -> bool:
        values, wanted = array_of(mask), shape_of(scores)
        if (
            values is None
            or wanted is None
            or len(wanted) != 4
            or values.shape == (1, 1, *wanted[-2:])
            or values.shape[-2:] != wanted[-2:]
        ):
            return False
        each = values.reshape(-1, *wanted[-2:])
        return bool((each == each[0]).all())

    def rewrite(self, op: Any, q: ir.Value, k: ir.Value, mask: ir.Value, y: ir.Value, **_: Any) -> Any:
        values = array_of(mask)
        assert values is not None, "check has seen it"
        wide = op.Constant(value=ir.tensor(values.reshape(-1, 1, 1, *values.shape[-2:])[0]))
        return op.Softmax(op.Add(op.MatMul(q, k), wide), axis=int(_attribute(y, "axis", -1)))


FORMS: Rules = ((TurnedKeys, GuardedSoftmax, ScaledScores, DividedScores, ScaledQueries, ScaledBeforeHeads, WideMask),)


def _softened(scores: ir.Value) -> bool:
    """Whether a softmax follows, with a mask between or without: these are attention's scores."""
    for node in (use.node for use in scores.uses()):
        if node.op_type == "Softmax" or (
            node.op_type == "Add" and any(use.node.op_type == "Softmax" for use in node.outputs[0].uses())
        ):
            return True
    return False


def _join_halves(graph: ir.Graph, node: ir.Node) -> None:
    """Two Slices that take the first and the second half of the last axis become one Split,
    as newer exporters write it."""
    source = node.inputs[0]
    first = None if source is None else _half(node, source)
    if source is None or first != 0 or node.outputs[0].is_graph_output():
        return
    for other in (use.node for use in source.uses() if use.node.op_type == "Slice"):
        if _half(other, source) == 1 and not other.outputs[0].is_graph_output():
            split = ir.node(
                "Split", [source], attributes={"axis": -1, "num_outputs": 2}, num_outputs=2, name=f"{node.name}/halves"
            )
            for value, part in zip(split.outputs, (node, other), strict=True):
                value.name, value.shape, value.type = (
                    f"{part.outputs[0].name}/half",
                    part.outputs[0].shape,
                    part.outputs[0].type,
                )
                part.outputs[0].replace_all_uses_with(value)
            graph.insert_before(min((node, other), key=list(graph).index), split)
            graph.remove([node, other], safe=True)
            return


def _half(node: ir.Node, source: ir.Value) -> int | None:
    """0 or 1 for a Slice of the first or the second half of the last axis."""
    shape, bounds = shape_of(source), [array_of(value) for value in node.inputs[1:]]
    if shape is None or len(bounds) < 3 or shape[-1] % 2 or any(bound is None or bound.size != 1 for bound in bounds):
        return None
    start, end, axis, *step = (int(bound.reshape(-1)[0]) for bound in bounds if bound is not None)
    if axis % len(shape) != len(shape) - 1 or step not in ([], [1]):
        return None
    taken, half = slice(start, end).indices(shape[-1])[:2], shape[-1] // 2
    return 0 if taken == (0, half) else 1 if taken == (half, 2 * half) else None
