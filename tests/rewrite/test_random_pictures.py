"""Any graph of convolutions, norms, activations, resizes,
joins and sums means the same after rewriting; on a device, too."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rewrite.graphs import by_onnxruntime, feed, on_device
from rewrite.test_pictures import Net

from ondevice.converters.architectures.layers import silu
from ondevice.rewrite import FUSIONS, rewrite
from ondevice.target import METHODS, Target, load_target

PIECES = (
    "conv", "unequal", "ragged", "one by one", "stride", "norm", "silu", "add", "join", "larger", "shift", "tokens",
    "sigmoid",
)  # fmt: skip
SHAPE = (2, 18, 5, 4)  # channels that fill a vector, and not two


def apply(b, piece, scope, x, y):
    """One more picture from two earlier ones; back to SHAPE, so that any two can be added."""
    n, c, h, w = SHAPE
    if piece == "conv":
        return b.conv(scope, x, c)
    if piece == "unequal":
        return b.conv(scope, x, c, pads=(0, 2, 2, 0))
    if piece == "ragged":  # parts whose seam lies inside a vector of channels
        wide = b.concat(scope, 1, b.conv(scope, x, 7), b.conv(f"{scope}.other", y, 5))
        return b.conv(f"{scope}.short", b.norm(f"{scope}.norm", wide), c, k=1)
    if piece == "one by one":
        return b.conv(scope, x, c, k=1)
    if piece == "stride":
        return b.resize(scope, b.conv(scope, x, c, strides=(2, 2)), h, w)
    if piece == "norm":
        return b.norm(scope, x)
    if piece == "silu":
        return silu(b, scope, x)
    if piece == "sigmoid":
        return b.unary(scope, "Sigmoid", x)
    if piece == "join":
        return b.conv(scope, b.concat(scope, 1, x, y), c, k=1)
    if piece == "larger":
        return b.conv(scope, b.resize(scope, x, 2 * h, 2 * w), c, strides=(2, 2))
    if piece == "shift":
        return b.binary(scope, "Add", b.conv(scope, x, c), b.made(f"{scope}.shift", 1, c, 1, 1))
    if piece == "tokens":  # a linear layer over pixels, and back
        rows = b.reshape(scope, b.transpose(scope, x, 0, 2, 3, 1), n, h * w, c)
        rows = b.binary(scope, "Add", b.matmul(scope, rows, b.made(f"{scope}.w", c, c)), rows)
        return b.transpose(scope, b.reshape(scope, rows, n, h, w, c), 0, 3, 1, 2)
    return b.binary(scope, "Add", x, y)


STEPS = st.lists(st.tuples(st.sampled_from(PIECES), st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=7)
OFF = st.sets(st.sampled_from((*FUSIONS, *METHODS)), max_size=3)
# 20 kB: several bands
TARGETS = {"host": load_target("host"), "any shape": Target("t", "", "portable", {}, {}, {}, 20_000, {})}


def build(steps, outputs):
    b = Net()
    values = [b.input("x", SHAPE)]
    for number, (piece, left, right) in enumerate(steps):
        values.append(apply(b, piece, f"s{number}", values[left % len(values)], values[right % len(values)]))
    last = dict.fromkeys(values[1:][-outputs:])  # inner values that are outputs, too, must survive
    return b.finish(**{f"y{i}": value for i, value in enumerate(last)})


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.integers(1, 3), OFF)
def test_any_graph_of_pictures(steps, outputs, off):
    model = build(steps, outputs)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    before = len(model.graph)
    rewrite(model, without=off)
    close(by_onnxruntime(model, inputs), expected)
    turned = sum(node.op_type in ("Transpose", "Reshape") for node in model.graph)
    assert len(model.graph) - turned <= before
    assert not any(outcome.applied for outcome in rewrite(model, without=off))


@pytest.mark.device
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, OFF, st.sampled_from(sorted(TARGETS)))
def test_any_graph_of_pictures_on_a_device(steps, off, target):
    model = build(steps, 1)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    rewrite(model, without=off)
    close(on_device(model, inputs, TARGETS[target]), expected)
