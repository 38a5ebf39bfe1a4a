"""Attention as one op that carries heads and scale (paper 3.2): the scores need never be stored.

q - Reshape - Transpose 0213 - Mul c -+
k - Reshape - Transpose 0231 - Mul c -+ MatMul [- Add mask] - Softmax - MatMul - Transpose 0213 - Reshape
v - Reshape - Transpose 0213 -------------------------------------------+
->  Attention | MaskedAttention
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ondevice.rewrite.rule import Fusion, dims, fused, ints, number


class _Heads(Fusion):
    """What both rules share. The scale is the product of the factors on both sides."""

    family = "attention"

    def scores(self, op: Any, q: Any, k: Any, q_split: Any, k_split: Any, left: Any, right: Any) -> Any:
        """Scaled query times scaled, transposed key."""
        queries = op.Mul(op.Transpose(op.Reshape(q, q_split), perm=[0, 2, 1, 3]), left)
        return op.MatMul(queries, op.Mul(op.Transpose(op.Reshape(k, k_split), perm=[0, 2, 3, 1]), right))

    def mix(self, op: Any, scores: Any, v: Any, v_split: Any, join: Any) -> Any:
        """Softmax, values, heads back beside each other."""
        values = op.Transpose(op.Reshape(v, v_split), perm=[0, 2, 1, 3])
        mixed = op.MatMul(op.Softmax(scores, axis=-1), values)
        return op.Reshape(op.Transpose(mixed, perm=[0, 2, 1, 3]), join)

    def refusal(
        self, q: ir.Value, k: ir.Value, v: ir.Value, q_split: ir.Value, k_split: ir.Value, v_split: ir.Value,
        left: ir.Value, right: ir.Value, join: ir.Value, **_: Any,
    ) -> str | None:  # fmt: skip
        """Why these heads are not ours."""
        shapes = [dims(value) for value in (q, k, v)]
        if any(shape is None or len(shape) != 3 for shape in shapes) or len({(s[0], s[2]) for s in shapes if s}) != 1:
            return f"its operands are {shapes} (expected [n, tokens, width] with the same n and width)"
        splits = [ints(split) for split in (q_split, k_split, v_split)]
        if (
            any(not _is_split(shape, split) for shape, split in zip(shapes, splits, strict=True))
            or len({s[2] for s in splits if s}) != 1
        ):
            return f"its heads are split as {splits} (expected [n, tokens, heads, d] with the same heads)"
        if number(left) is None or number(right) is None:
            return "its scale is not a constant"
        if ints(join) != list(shapes[0] or ()):
            return f"it joins to {ints(join)} (expected the queries' shape {shapes[0]})"
        return None

    def settings(self, q_split: ir.Value, left: ir.Value, right: ir.Value) -> dict[str, Any]:
        """Attributes of the fused op."""
        heads, a, b = ints(q_split), number(left), number(right)
        assert heads is not None and a is not None and b is not None, "why_not has seen them"
        return {"heads": [heads[2]], "scale": a * b}


def _is_split(shape: tuple[int, ...] | None, split: list[int] | None) -> bool:
    """Whether a Reshape of [n, tokens, width] to `split` cuts rows into heads,
    and joins neither tokens nor pictures."""
    if shape is None or split is None or len(split) != 4 or split[2] < 1 or shape[2] % split[2]:
        return False
    wanted = (*shape[:2], split[2], shape[2] // split[2])
    known = [size if size or axis > 1 else shape[axis] for axis, size in enumerate(split)]  # 0: as it was
    return all(size in (-1, want) for size, want in zip(known, wanted, strict=True)) and known.count(-1) < 2


class Attention(_Heads):
    """Over [n, tokens, heads * d], every query with every key."""

    def pattern(
        self, op: Any, q: ir.Value, k: ir.Value, v: ir.Value, q_split: ir.Value, k_split: ir.Value, v_split: ir.Value,
        left: ir.Value, right: ir.Value, join: ir.Value,
    ) -> Any:  # fmt: skip
        scores = self.scores(op, q, k, q_split, k_split, left, right)
        return self.mix(op, scores, v, v_split, join)

    def why_not(self, *_: Any, **bound: Any) -> str | None:
        return self.refusal(**bound)

    def rewrite(
        self,
        op: Any,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        q_split: ir.Value,
        left: ir.Value,
        right: ir.Value,
        **_: Any,
    ) -> ir.Value:
        return fused(op, "Attention", q, k, v, **self.settings(q_split, left, right))


class MaskedAttention(_Heads):
    """With a mask added to the scores: [1, 1, queries, keys], shared by all heads; [1, heads, queries, keys]; or
    [1, 1, 1, keys], shared by all queries, too."""

    def pattern(
        self, op: Any, q: ir.Value, k: ir.Value, v: ir.Value, q_split: ir.Value, k_split: ir.Value, v_split: ir.Value,
        left: ir.Value, right: ir.Value, join: ir.Value, mask: ir.Value,
    ) -> Any:  # fmt: skip
        scores = op.Add(self.scores(op, q, k, q_split, k_split, left, right), mask)
        return self.mix(op, scores, v, v_split, join)

    def why_not(self, q: ir.Value, k: ir.Value, mask: ir.Value, q_split: ir.Value, **bound: Any) -> str | None:
        queries, keys, shape, split = dims(q), dims(k), dims(mask), ints(q_split)
        if queries is None or keys is None or split is None or len(split) != 4:
            return f"its mask is {shape}, and its heads are not known"
        if shape not in [(1, one, rows, keys[1]) for one, rows in _masks(split[2], queries[1])]:
            return f"its mask is {shape} (expected [1, 1, queries, keys], or one per head, or one row)"
        return self.refusal(q=q, k=k, q_split=q_split, **bound)

    def rewrite(
        self, op: Any, q: ir.Value, k: ir.Value, v: ir.Value, q_split: ir.Value, left: ir.Value, right: ir.Value,
        mask: ir.Value, **_: Any
    ) -> ir.Value:  # fmt: skip
        return fused(op, "MaskedAttention", q, k, v, mask, **self.settings(q_split, left, right))


def _masks(heads: int, queries: int) -> tuple[tuple[int, int], ...]:
    """Heads and rows that a mask may have."""
    return (1, queries), (heads, queries), (1, 1)
