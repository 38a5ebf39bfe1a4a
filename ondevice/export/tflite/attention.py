"""Attention as two batched products around a softmax, in pieces where the scores would be large."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx_ir as ir

from ondevice.export.tflite.composites import ATTENTION, attention_attributes, composite
from ondevice.export.tflite.words import Tensor, Words
from ondevice.rewrite.rule import settings

MOST_SCORES = 1 << 25  # of one product: 128 MB, which a phone's GPU can hold twice


def attention(words: Words, node: ir.Node) -> Tensor:
    """Attention and MaskedAttention of q [n, queries, width] with k and v [n, keys, width]."""
    given, (q, k, v) = settings(node), [words.of(value) for value in node.inputs[:3]]
    heads = given["heads"][0]
    split = [words.reshape(x, (*x.shape[:2], heads, x.shape[2] // heads)) for x in (q, k, v)]
    mask = words.of(node.inputs[3]) if len(node.inputs) > 3 else None
    if words.composites:
        mixed = composite(
            words,
            ATTENTION,
            attention_attributes(given["scale"]),
            split if mask is None else [*split, mask],
            lambda inside, taken: attended(inside, taken[:3], given["scale"], taken[3] if mask else None),
        )
    else:
        mixed = attended(words, split, given["scale"], mask)
    return words.reshape(mixed, q.shape)


def attended(words: Words, heads: Sequence[Tensor], scale: float, mask: Tensor | None) -> Tensor:
    """What q [n, queries, heads, width] finds in k and v [n, keys, heads, width], shaped as q.

    Args:
        mask: is added to the scores [n, heads, queries, keys].
    """
    scaled = heads[0] if scale == 1 else words.mul(heads[0], words.constant([scale]))
    q, k, v = [words.transpose(x, 0, 2, 1, 3) for x in (scaled, *heads[1:])]
    queries, scores = q.shape[2], prod(q.shape[:3]) * k.shape[2]
    count = min(-(-scores // MOST_SCORES), queries)
    count = next(pieces for pieces in range(count, queries + 1) if queries % pieces == 0)
    if count == 1:
        return words.transpose(_mixed(words, q, (k, v), mask), 0, 2, 1, 3)
    each = [queries // count] * count
    # a mask that is the same for all queries is not split
    masks: list[Tensor | None] = [mask] * count
    if mask is not None and mask.shape[2] > 1:
        masks = [*words.split(mask, 2, each)]
    parts = [_mixed(words, part, (k, v), own) for part, own in zip(words.split(q, 2, each), masks, strict=True)]
    return words.transpose(words.concat(parts, 2), 0, 2, 1, 3)


def _mixed(words: Words, q: Tensor, others: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
    scores = words.matmul(q, others[0], turned=True)
    if mask is not None:
        scores = words.add(scores, mask)
    return words.matmul(words.softmax(scores), others[1])


def softmax(words: Words, node: ir.Node) -> Tensor:
    """Over any axis: TFLite's is over the last one."""
    x = words.of(node.inputs[0])
    axis, last = settings(node).get("axis", -1) % len(x.shape), len(x.shape) - 1
    if axis == last:
        return words.softmax(x)
    perm = [*range(len(x.shape))]
    perm[axis], perm[last] = last, axis
    return words.transpose(words.softmax(words.transpose(x, *perm)), *perm)
