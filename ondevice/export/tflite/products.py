"""Matrix products and convolutions, with the steps that finish them.

Weights are turned to TFLite's layouts as they are written: [out, in], and [out, kh, kw, in] of convolutions.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema

from ondevice.export.tflite.arithmetic import ACTIVATIONS
from ondevice.export.tflite.moves import nearest
from ondevice.export.tflite.words import Tensor, Words
from ondevice.graph.epilogue import STEPS, Stepped, of
from ondevice.graph.verify import static_shape
from ondevice.rewrite.rule import settings


def linear(words: Words, node: ir.Node) -> Tensor:
    """Linear and ConcatLinear."""
    stepped, operands = _operands(node)
    x = words.of(operands["x"])
    if "x2" in operands:
        x = words.joined(x, words.of(operands["x2"]))
    product = _by_weight(words, x, operands["weight"], operands.get("bias"))
    return _finished(words, stepped, operands, product)


def conv_nhwc(words: Words, node: ir.Node) -> Tensor:
    """ConvNhwc and UpConvNhwc."""
    stepped, operands = _operands(node)
    given, x, weight = settings(node), words.of(operands["x"]), operands["weight"]
    assert weight is not None
    if "sizes" in given:
        x = nearest(words, x, given["sizes"][2:])
    kernel = words.kernel(weight, static_shape(weight), (3, 0, 1, 2))
    product = _conv(words, x, kernel, _vector(words, operands.get("bias")), given)
    return _finished(words, stepped, operands, product)


def conv(words: Words, node: ir.Node) -> Tensor:
    """Conv of x [n, c, h, w]: channels last inside."""
    given, x, weight = settings(node), words.of(node.inputs[0]), node.inputs[1]
    if weight is None or weight.const_value is None or len(static_shape(weight)) != 4:
        raise words.refusal("its weight is computed, or not over two dimensions.")
    if given.get("group", 1) != 1 or given.get("auto_pad", "NOTSET") != "NOTSET":
        raise words.refusal("it is grouped, or padded by rule.")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    kernel = words.kernel(weight, static_shape(weight), (0, 2, 3, 1))
    product = _conv(words, words.transpose(x, 0, 2, 3, 1), kernel, _vector(words, bias), given)
    return words.transpose(product, 0, 3, 1, 2)


def matmul(words: Words, node: ir.Node) -> Tensor:
    """MatMul: by a weight, or of two values."""
    left, right = node.inputs
    assert right is not None
    if right.const_value is not None and len(static_shape(right)) == 2:
        return _by_weight(words, words.of(left), right, None)
    return words.matmul(words.of(left), words.of(right))


def gemm(words: Words, node: ir.Node) -> Tensor:
    """alpha * a b + beta * c, each of a and b turned or not."""
    given, (left, right) = settings(node), node.inputs[:2]
    assert right is not None
    a = words.of(left)
    if given.get("transA", 0):
        a = words.transpose(a, 1, 0)
    if right.const_value is not None:
        kernel = words.kernel(right, static_shape(right), (0, 1) if given.get("transB", 0) else (1, 0))
        product = words.dense(a, kernel)
    else:
        product = words.matmul(a, words.of(right), turned=bool(given.get("transB", 0)))
    if (alpha := given.get("alpha", 1.0)) != 1.0:
        product = words.mul(product, words.constant([alpha]))
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return product
    added = words.of(node.inputs[2])
    if (beta := given.get("beta", 1.0)) != 1.0:
        added = words.mul(added, words.constant([beta]))
    return words.add(product, added)


def _operands(node: ir.Node) -> tuple[Stepped, dict[str, ir.Value | None]]:
    stepped = of(node.op_type)
    return stepped, dict(zip(stepped.operands, node.inputs, strict=True))


def _vector(words: Words, bias: ir.Value | None) -> Tensor | None:
    return None if bias is None else words.of(bias)


def _by_weight(words: Words, x: Tensor, weight: ir.Value | None, bias: ir.Value | None) -> Tensor:
    """x [..., in] by a weight [in, out]; over the pixels of a picture it is a convolution, as delegates know it."""
    assert weight is not None
    width, out = static_shape(weight)
    if len(x.shape) == 4:
        kernel = words.kernel(weight, (width, 1, 1, out), (3, 1, 2, 0))
        return _conv(words, x, kernel, _vector(words, bias), {})
    return words.dense(x, words.kernel(weight, (width, out), (1, 0)), _vector(words, bias))


def _conv(words: Words, x: Tensor, kernel: Tensor, bias: Tensor | None, given: dict[str, list[int]]) -> Tensor:
    """Of x [n, h, w, c] by a kernel [out, kh, kw, in]; `given` are ONNX's attributes.

    TFLite knows two paddings by name, and SAME has its odd row below and right; all others are an op of their own.
    """
    n, *sides, _ = x.shape
    out, *window, _ = kernel.shape
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    reach = [(size - 1) * step + 1 for size, step in zip(window, dilations, strict=True)]
    pads = [(top, bottom), (left, right)]
    same = [_same(*side) for side in zip(sides, reach, strides, strict=True)]
    padding = schema.Padding.SAME if pads == same and any(map(any, pads)) else schema.Padding.VALID
    if padding == schema.Padding.VALID and any(map(any, pads)):
        around = [(0, 0), *pads, (0, 0)]
        shape = [size + sum(pad) for size, pad in zip(x.shape, around, strict=True)]
        x = words.op("PAD", [x, words.constant(around, "int32")], shape, schema.PadOptionsT())
    after = [
        (side + sum(pad) - width) // stride + 1
        for side, pad, width, stride in zip(sides, pads, reach, strides, strict=True)
    ]
    options = schema.Conv2DOptionsT(
        padding=padding,
        strideH=strides[0],
        strideW=strides[1],
        dilationHFactor=dilations[0],
        dilationWFactor=dilations[1],
    )
    # without a bias the op has two inputs, which not every delegate takes
    bias = bias or words.constant(np.zeros(out))
    return words.op("CONV_2D", [x, kernel, bias], (n, *after, out), options)


def _same(size: int, reach: int, stride: int) -> tuple[int, int]:
    """What SAME adds before and after."""
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def _finished(words: Words, stepped: Stepped, operands: dict[str, ir.Value | None], x: Tensor) -> Tensor:
    """The steps after the bias, which the product has added."""
    for step in stepped.steps:
        if step == "ThenRelu" or step in ACTIVATIONS:
            x = ACTIVATIONS[step.removeprefix("Then")](words, x)
        elif step != "Bias":
            x = words.add(x, words.of(operands[STEPS[step].operand]))
    return x
