"""The ops that a UNet step and a VAE decode of Stable Diffusion 1 at 512x512 spend their time on, attention of Stable
Diffusion XL, and what is a step's of Stable Diffusion 3 at 512x512 and of Stable Video Diffusion at 448x256 alone, as
graphs of one op.

They are lowered and planned as in a bundle, so that a case is timed with the kernels, tunables and packed weights that
a picture gets, and an op that takes several commands is one case. FLOPs are those of the op: of a Winograd convolution
those of the direct one, so that its rate is an effective one and may pass the peak.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.graph.ops import DOMAIN, OPS, find, traffic
from ondevice.lower import lower
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.program import Program
from ondevice.target import FP32, Target

Shape = tuple[int, ...]
EPSILON = ("epsilon", 1e-6)
FRAMES_FIRST = (("perm", [0, 2, 3, 1]),)


@dataclass(frozen=True, slots=True)
class Case:
    """One op: what is computed before it and what is a weight, and the result."""

    name: str
    op: str
    inputs: tuple[Shape, ...]
    output: Shape
    weights: tuple[Shape, ...] = ()  # they follow the inputs; `residual` after them is an input again
    residual: bool = False
    attributes: tuple[tuple[str, Any], ...] = ()
    constants: tuple[np.ndarray, ...] = ()  # operands that are known, in place of weights
    method: str = ""  # of ondevice.target.METHODS: what it is computed by, wherever that pays
    without: tuple[str, ...] = ()  # methods that it is not computed by

    @property
    def shapes(self) -> list[Shape]:
        """Of all operands, in order."""
        return [*self.inputs, *self.weights, *[self.output] * self.residual]

    @property
    def flops(self) -> int:
        row = find(self.domain, self.op)
        assert row is not None, self.op
        return row.flops(self.shapes, [self.output])

    def nbytes(self, element: int) -> int:
        """The least that is read and written, at `element` bytes per number."""
        return sum(traffic(self.op, [element * prod(shape) for shape in self.shapes], [element * prod(self.output)]))

    @property
    def domain(self) -> str:
        return "" if self.op in OPS else DOMAIN

    def lowered(self, storage: str, target: Target, kernels: Mapping[str, KernelFile], math: str = FP32) -> Program:
        """The op's kernel calls: by its method at whatever sizes, else as the target chooses."""
        bounds = {
            name: limit for name, limit in target.bounds(self.method).items() if not name.startswith(("min_", "max_"))
        }
        chosen = (replace(target, **{self.method: bounds}) if self.method else target).asked(math)
        return lower(self.graph(), "case", storage=storage, kernels=kernels, target=chosen, without=self.without)

    def graph(self) -> ir.Model:
        """The op between inputs and one output; weights are made up when they are packed."""
        inputs = [_value(f"x{number}", shape) for number, shape in enumerate(self.inputs)]
        weights = [_weight(f"w{number}", shape) for number, shape in enumerate(self.weights)]
        known = [
            ir.Value(name=f"c{n}", const_value=ir.tensor(array, name=f"c{n}")) for n, array in enumerate(self.constants)
        ]
        for value, array in zip(known, self.constants, strict=True):
            value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        residual = [_value("residual", self.output)] if self.residual else []
        output = _value("y", self.output)
        attributes = ir.convenience.convert_attributes(dict(self.attributes))
        node = ir.Node(
            self.domain, self.op, [*inputs, *weights, *known, *residual], attributes, outputs=[output], name=self.op
        )
        opsets = {"": 18, DOMAIN: 1}
        graph = ir.Graph(
            [*inputs, *residual],
            [output],
            nodes=[node],
            initializers=[*weights, *known],
            opset_imports=opsets,
            name="case",
        )
        return ir.Model(graph, ir_version=10)


def _value(name: str, shape: Shape) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def _weight(name: str, shape: Shape) -> ir.Value:
    value = _value(name, shape)

    def make() -> ir.Tensor:
        return ir.Tensor(np.resize(np.random.default_rng(0).standard_normal(65_536, np.float32), shape), name=name)

    value.const_value = ir.LazyTensor(make, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)
    return value


def cases(plain: bool = False) -> Iterator[Case]:
    """Ops of the rewritten graphs; with `plain`, also those that only graphs without fusions hold."""
    yield from _products()
    yield from _convolutions()
    yield from _attentions()
    yield from _norms()
    yield from _newer()
    if plain:
        yield from _plain()


def _products() -> Iterator[Case]:
    for rows, width in ((4096, 320), (1024, 640), (256, 1280), (64, 1280)):
        yield _linear(rows, 3 * width, width, bias=False)  # queries, keys and values at once
        yield _linear(rows, width, width, add=True)
        yield _linear(rows, 4 * width, width, "Geglu")
        yield _linear(rows, width, 4 * width, add=True)
    yield _linear(77, 3072, 768, "QuickGelu")
    yield Case("matmul 8x4096x40x4096", "MatMul", ((8, 4096, 40), (8, 40, 4096)), (8, 4096, 4096))


def _convolutions() -> Iterator[Case]:
    unet = (
        (320, 64, 320),
        (960, 64, 320),
        (640, 32, 640),
        (1920, 32, 640),
        (1280, 16, 1280),
        (2560, 16, 1280),
        (1280, 8, 1280),
    )
    vae = ((512, 64, 512), (512, 128, 512), (512, 256, 256), (256, 256, 256), (256, 512, 128), (128, 512, 128))
    for ic, size, oc in (*unet, *vae):
        yield _conv(ic, size, oc)
        yield _conv(ic, size, oc, method="winograd")
    yield _conv(320, 64, 320, stride=2)
    yield _conv(4, 64, 320, add=False)
    yield _conv(128, 512, 3, add=False)


def _attentions() -> Iterator[Case]:
    sd1, sdxl = ((4096, 8, 40), (1024, 8, 80), (256, 8, 160), (64, 8, 160)), ((4096, 10, 64), (1024, 20, 64))
    for queries, heads, head in (*sd1, *sdxl):
        yield _attention(queries, queries, heads, head)
        yield _attention(queries, 77, heads, head)
    yield _attention(4096, 4096, 1, 512, method="")
    yield _attention(4096, 4096, 1, 512)


def _norms() -> Iterator[Case]:
    for side, channels in ((64, 320), (64, 960), (32, 640), (16, 1280), (512, 128)):
        shape = (1, side, side, channels)
        settings = (("groups", [32]), ("epsilon", 1e-5))
        name = f"group norm silu {_by(shape)}"
        yield Case(name, "GroupNormNhwcSilu", (shape,), shape, ((channels,), (channels,)), attributes=settings)
    for rows, width in ((4096, 320), (1024, 640), (256, 1280)):
        yield Case(
            f"layer norm {rows}x{width}",
            "LayerNormalization",
            ((1, rows, width),),
            (1, rows, width),
            ((width,), (width,)),
        )


def _newer() -> Iterator[Case]:
    """Stable Diffusion 3: a stream's tokens are 24 heads of 64. Stable Video Diffusion: 14 frames, whose pixels are a
    row of a picture as high as there are frames."""
    tokens, width = 1024, 1536
    row, item = (1, tokens, width), (1, 1, width)
    yield _attention(tokens + 333, tokens + 333, 24, 64)  # joint: of the picture and of a text with T5
    yield _linear(tokens, 3 * width, width)
    yield _linear(tokens, 4 * width, width, "GeluTanh")
    yield Case(f"ada layer norm {tokens}x{width}", "AdaLayerNorm", (row, item, item), row, attributes=(EPSILON,))
    rms = (EPSILON, ("heads", [24]))
    yield Case(f"rms norm {tokens} 24 heads of 64", "RmsNorm", (row,), row, ((64,),), attributes=rms)
    for pixels, channels in ((1792, 320), (448, 640)):
        yield _attention(14, 14, pixels * channels // 64, 64)
        shape = (1, 14, pixels, channels)
        settings = (("strides", [1, 1]), ("pads", [1, 0, 1, 0]))
        weights = ((3, 1, channels, channels), (channels,))
        name = f"conv 3x1 14x{pixels}x{channels} -> {channels}"
        yield Case(name, "ConvNhwcBiasAdd", (shape,), shape, weights, True, settings, without=("winograd",))
    yield Case("transpose 1x4x14x1792", "Transpose", ((1, 4, 14, 1792),), (1, 14, 1792, 4), attributes=FRAMES_FIRST)


def _plain() -> Iterator[Case]:
    for ic, size, oc, k in (
        (320, 64, 320, 3),
        (1280, 16, 1280, 3),
        (128, 512, 128, 3),
        (320, 64, 320, 1),
        (512, 64, 512, 1),
    ):
        shapes, pads = ((oc, ic, k, k), (oc,)), [k // 2] * 4
        settings = (("kernel_shape", [k, k]), ("pads", pads), ("strides", [1, 1]))
        name = f"conv {k}x{k} {ic}x{size}x{size} -> {oc}"
        yield Case(name, "Conv", ((1, ic, size, size),), (1, oc, size, size), shapes, attributes=settings)
    yield _attention(4096, 4096, 8, 40, method="")
    for shape in ((8, 4096, 4096), (8, 4096, 77)):
        yield Case(f"softmax {_by(shape)}", "Softmax", (shape,), shape, attributes=(("axis", -1),))
    for elements in (40_960, 4 * 512 * 512):
        shape = (1, 32, elements)
        yield Case(f"instance norm {_by(shape)}", "InstanceNormalization", (shape,), shape, ((32,), (32,)))
    picture = (1, 320, 64, 64)
    yield Case(f"add {_by(picture)}", "Add", (picture, picture), picture)
    yield Case(f"mul {_by(picture)} by channel", "Mul", (picture, (1, 320, 1, 1)), picture)
    for op in ("Sigmoid", "Erf", "Silu"):
        yield Case(f"{op.lower()} {_by(picture)}", op, (picture,), picture)
    yield Case(
        "transpose 1x320x4096", "Transpose", ((1, 320, 4096),), (1, 4096, 320), attributes=(("perm", [0, 2, 1]),)
    )
    heads = (("perm", [0, 2, 1, 3]),)
    yield Case("transpose 1x4096x8x40", "Transpose", ((1, 4096, 8, 40),), (1, 8, 4096, 40), attributes=heads)


def _linear(m: int, n: int, k: int, activation: str = "", *, bias: bool = True, add: bool = False) -> Case:
    columns = 2 * n if activation == "Geglu" else n
    op = f"Linear{'Bias' * bias}{activation}{'Add' * add}"
    words = [word for word, have in (("bias", bias), (activation.lower(), activation), ("add", add)) if have]
    weights = ((k, columns), (columns,)) if bias else ((k, columns),)
    return Case(" ".join([f"linear {m}x{n}x{k}", *words]), op, ((1, m, k),), (1, m, n), weights, add)


def _conv(ic: int, size: int, oc: int, *, stride: int = 1, add: bool = True, method: str = "") -> Case:
    out = size // stride
    op = f"ConvNhwcBias{'Add' * add}"
    words = [*[method] * bool(method), *[f"stride {stride}"] * (stride > 1)]
    name = " ".join([f"conv 3x3 {size}x{size}x{ic} -> {oc}", *words])
    settings = (("strides", [stride, stride]), ("pads", [1, 1, 1, 1]))
    without = () if method else ("winograd",)
    shapes = ((1, size, size, ic),), (1, out, out, oc), ((3, 3, ic, oc), (oc,))
    return Case(name, op, *shapes, add, settings, method=method, without=without)


def _attention(queries: int, keys: int, heads: int, head: int, *, method: str = "flash") -> Case:
    q, kv = (1, queries, heads * head), (1, keys, heads * head)
    name = f"{'flash attention' if method else 'attention'} {queries}x{keys} {heads} heads of {head}"
    settings = (("heads", [heads]), ("scale", head**-0.5))
    return Case(
        name, "Attention", (q, kv, kv), q, attributes=settings, method=method, without=() if method else ("flash",)
    )


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape))
