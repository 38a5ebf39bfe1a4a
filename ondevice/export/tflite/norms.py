"""Norms from means, differences and reciprocal square roots, in the order in which float32 loses least: numbers are
centred before they are squared, and means over pictures are taken of the means over rows.

GPU delegates take at most four axes and one broadcast operand per op, and no BROADCAST_TO: what a group has in common
is repeated for its channels by a product with zeros and ones, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod

import numpy as np
import onnx_ir as ir

from ondevice.export.tflite.arithmetic import ACTIVATIONS
from ondevice.export.tflite.composites import GROUP_NORM, composite, group_norm_attributes
from ondevice.export.tflite.words import Tensor, Words
from ondevice.graph.epilogue import of
from ondevice.rewrite.rule import settings


def layer_norm(words: Words, node: ir.Node) -> Tensor:
    """LayerNormalization over the axes from `axis` on."""
    given, x = settings(node), words.of(node.inputs[0])
    axis = given.get("axis", -1) % len(x.shape)
    flat = words.reshape(x, (*x.shape[:axis], prod(x.shape[axis:])))
    normal = words.reshape(_normalised(words, flat, given.get("epsilon", 1e-5)), x.shape)
    return _affine(words, normal, [words.of(value) for value in node.inputs[1:] if value is not None])


def instance_norm(words: Words, node: ir.Node) -> Tensor:
    """InstanceNormalization of x [n, c, ...]."""
    x = words.of(node.inputs[0])
    n, channels, *space = x.shape
    flat = words.reshape(x, (n, channels, prod(space)))
    normal = words.reshape(_normalised(words, flat, settings(node).get("epsilon", 1e-5)), x.shape)
    wide = (channels, *(1 for _ in space))
    return _affine(words, normal, [words.weight(value, wide) for value in node.inputs[1:]])


def group_norm(words: Words, node: ir.Node) -> Tensor:
    """GroupNorm of x [n, c, ...], then its activation."""
    given, x = settings(node), words.of(node.inputs[0])
    flat = words.reshape(x, (x.shape[0], given["groups"][0], prod(x.shape[1:]) // given["groups"][0]))
    normal = words.reshape(_normalised(words, flat, given["epsilon"]), x.shape)
    return _finished(words, node, _affine(words, normal, [words.of(value) for value in node.inputs[1:]]))


def group_norm_nhwc(words: Words, node: ir.Node) -> Tensor:
    """GroupNormNhwc and ConcatGroupNormNhwc of x [n, ..., c], then their activation."""
    given, operands = settings(node), dict(zip(of(node.op_type).operands, node.inputs, strict=True))
    x = words.of(operands["x"])
    if "x2" in operands:
        x = words.joined(x, words.of(operands["x2"]))
    scale, bias = words.of(operands["scale"]), words.of(operands["bias"])
    return _finished(words, node, grouped(words, x, (scale, bias), given["groups"][0], given["epsilon"]))


def grouped(words: Words, x: Tensor, affine: tuple[Tensor, Tensor], groups: int, epsilon: float) -> Tensor:
    """Group norm of x [n, ..., c]; `affine` is scale and bias, [c] both."""
    n, *space, channels = x.shape
    rows = space if len(space) == 2 else _rows(prod(space))
    picture = words.reshape(x, (n, *rows, channels))
    if words.composites:
        normal = composite(
            words,
            GROUP_NORM,
            group_norm_attributes(groups, epsilon),
            [picture, *affine],
            lambda inside, given: _grouped(inside, given[0], (given[1], given[2]), groups, epsilon),
        )
    else:
        normal = _grouped(words, picture, affine, groups, epsilon)
    return words.reshape(normal, x.shape)


def _grouped(words: Words, picture: Tensor, affine: tuple[Tensor, Tensor], groups: int, epsilon: float) -> Tensor:
    """Of [n, h, w, c]."""
    channels = picture.shape[-1]
    centred = words.sub(picture, _per_channel(words, _means(words, picture, groups), channels))
    variance = _means(words, words.mul(centred, centred), groups)
    factor = words.unary("RSQRT", words.add(variance, words.constant([epsilon])))
    scale = words.mul(_per_channel(words, factor, channels), affine[0])
    return words.add(words.mul(centred, scale), affine[1])


def _rows(pixels: int) -> tuple[int, int]:
    """Rows and columns, as near to each other as `pixels` allow."""
    rows = next(rows for rows in range(isqrt(pixels), 0, -1) if pixels % rows == 0)
    return rows, pixels // rows


def _means(words: Words, x: Tensor, groups: int) -> Tensor:
    """Of x [n, h, w, c], over a picture's pixels and a group's channels: [n, groups]."""
    n, *_, channels = x.shape
    each = words.mean(words.mean(x, 2), 1)
    return words.reshape(words.mean(words.reshape(each, (n, groups, channels // groups)), 2), (n, groups))


def _per_channel(words: Words, x: Tensor, channels: int) -> Tensor:
    """[n, groups], each repeated for its channels: [n, 1, 1, c]."""
    n, groups = x.shape
    if groups < channels:
        x = words.dense(x, words.constant(np.repeat(np.eye(groups), channels // groups, axis=0)))
    return words.reshape(x, (n, 1, 1, channels))


def _normalised(words: Words, x: Tensor, epsilon: float) -> Tensor:
    """Over the last axis."""
    last = len(x.shape) - 1
    centred = words.sub(x, words.mean(x, last))
    variance = words.mean(words.mul(centred, centred), last)
    return words.mul(centred, words.unary("RSQRT", words.add(variance, words.constant([epsilon]))))


def _affine(words: Words, x: Tensor, affine: Sequence[Tensor]) -> Tensor:
    """Times the first, plus the second if there is one."""
    scaled = words.mul(x, affine[0])
    return words.add(scaled, affine[1]) if len(affine) > 1 else scaled


def _finished(words: Words, node: ir.Node, x: Tensor) -> Tensor:
    activation = of(node.op_type).activation
    return ACTIVATIONS[activation](words, x) if activation else x
