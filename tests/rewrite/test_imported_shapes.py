"""Shapes that only imported graphs have, on the device: rewritten, and as onnxruntime has them."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from rewrite.graphs import by_onnxruntime, feed, fused_ops, graph, on_device
from rewrite.test_pictures import ANYWHERE, Net
from rewrite.test_refusals import close, made

from ondevice.converters.architectures.layers import group_norm, silu
from ondevice.errors import GraphError
from ondevice.lower import lower
from ondevice.rewrite import rewrite
from ondevice.target import load_target

SHAPES = {"cpu": load_target("host"), "portable": replace(ANYWHERE, kernel_class="portable")}


@pytest.mark.device
@pytest.mark.parametrize("target", SHAPES)
@pytest.mark.parametrize("pads", [(0, 1, 2, 1), (2, 0, 0, 2), (0, 0, 1, 1), (1, 2, 1, 0)], ids=str)
def test_winograd_with_unequal_pads(target, pads):
    b = Net()
    x = b.input("x", (1, 32, 9, 10))
    model = b.finish(out=b.conv("c", x, 32, pads=pads))
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    rewrite(model)
    anywhere = replace(SHAPES[target], winograd={})
    assert {call.kernel for call in lower(model, "net", target=anywhere).calls} & {"winograd_strips", "winograd_input"}
    close(on_device(model, inputs, anywhere), expected)


@pytest.mark.device
@pytest.mark.parametrize("parts", [(24, 40), (16, 48), (8, 8), (30, 2)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_norms_of_two_ragged_parts(parts, groups):
    """Vectors of channels must not reach over the seam."""
    b = Net()
    x, y = (b.input(name, (1, c, 3, 4)) for name, c in zip("xy", parts, strict=True))
    for part in ("weight", "bias"):
        b._weights[f"n.{part}"] = ir.tensor(made(sum(parts)))
    z = b.concat("j", 1, b.conv("c", x, parts[0]), b.conv("d", y, parts[1]))
    model = b.finish(out=b.conv("e", silu(b, "s", group_norm(b, "n", z, groups, 1e-5)), 4))
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    rewrite(model)
    assert "ConcatGroupNormNhwcSilu" in fused_ops(model)
    close(on_device(model, inputs), expected)


SLICE = """(float[3,8] x) => (float[{y}] y)
    <int64[1] f = {{{f}}}, int64[1] t = {{{t}}}, int64[1] a = {{{a}}}, int64[1] s = {{{s}}}>
    {{ y = Slice(x, f, t, a, s) }}"""
SLICES = {
    "from minus the size": ("3,8", -8, 8, 1, 1),
    "from before the beginning": ("3,8", -11, 8, 1, 1),
    "from the last but three": ("3,3", -3, 99, 1, 1),
    "from minus one": ("3,1", -1, 99, 1, 1),
    "a negative axis": ("3,6", 2, 8, -1, 1),
    "rows by a negative axis": ("2,8", -2, 3, -2, 1),
    "every third": ("3,2", 2, 8, 1, 3),
    "every second from minus the size": ("3,4", -8, 8, 1, 2),
}


@pytest.mark.device
@pytest.mark.parametrize("y, f, t, a, s", SLICES.values(), ids=SLICES)
def test_slices(y, f, t, a, s):
    model = graph(SLICE.format(y=y, f=f, t=t, a=a, s=s))
    inputs = feed(model)
    np.testing.assert_array_equal(on_device(model, inputs), by_onnxruntime(model, inputs))


@pytest.mark.device
@pytest.mark.parametrize(
    "how, x, why",
    [("beta=2.0", "3,6", "beta=1"), ("alpha=0.5", "3,6", "alpha=1"), ("transA=1", "6,3", "transA=0")],
)
def test_a_gemm_that_is_no_product_and_bias_is_refused(how, x, why):
    model = graph(
        f"(float[{x}] x, float[6,8] w, float[8] b) => (float[3,8] y) {{ y = Gemm<{how}>(x, w, b) }}",
        w=made(6, 8),
        b=made(8),
    )
    with pytest.raises(GraphError, match=why):
        on_device(model, feed(model))


@pytest.mark.device
@pytest.mark.parametrize("bias", ["8", "3,1", "1", "3,8"])
def test_a_plain_gemm_adds_whatever_shape_fits(bias):
    text = f"(float[3,6] x, float[6,8] w, float[{bias}] b) => (float[3,8] y) {{ y = Gemm(x, w, b) }}"
    model = graph(text, w=made(6, 8))
    inputs = feed(model)
    close(on_device(model, inputs), by_onnxruntime(model, inputs))
