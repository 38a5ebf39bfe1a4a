"""Norms that take their statistics from outside: the same numbers when they are given their own."""

import numpy as np
import onnx_ir as ir
import pytest

from ondevice.converters.architectures.vae_bands import STATISTICS_OF
from ondevice.errors import UsageError
from ondevice.graph import reference
from ondevice.graph.ops import DOMAIN
from ondevice.rewrite.functions import add_functions
from ondevice.rewrite.statistics import given_statistics

SHAPE = (1, 3, 4, 6)


def normed(op):
    rng = np.random.default_rng(0)
    constants = {name: ir.tensor(rng.normal(size=6).astype(np.float32), name=name) for name in ("scale", "bias")}
    weights = [
        ir.Value(name=n, shape=t.shape, type=ir.TensorType(t.dtype), const_value=t) for n, t in constants.items()
    ]
    x, y = (ir.Value(name=name, shape=ir.Shape(SHAPE), type=ir.TensorType(ir.DataType.FLOAT)) for name in "xy")
    node = ir.node(
        op, [x, *weights], domain=DOMAIN, attributes={"groups": [2], "epsilon": 0.1}, outputs=[y], name="norm"
    )
    graph = ir.Graph([x], [y], nodes=[node], initializers=weights, opset_imports={"": 18}, name="g")
    model = ir.Model(graph, ir_version=10)
    add_functions(model)
    return model


@pytest.mark.parametrize("op", ["GroupNormNhwc", "GroupNormNhwcSilu"])
def test_with_its_own_statistics_a_picture_is_what_it_was(op):
    x = np.random.default_rng(1).normal(2.0, 3.0, SHAPE).astype(np.float32)
    want = reference.run(normed(op), {"x": x})["y"]
    model = normed(op)
    model.metadata_props[STATISTICS_OF] = "x"
    given_statistics(model)
    assert [node.op_type for node in model.graph] == [op.replace("GroupNorm", "Normalize")]
    assert [value.name for value in model.graph.inputs] == ["x", "x:mean", "x:variance"]
    parts = x.astype(np.float64).reshape(-1, 2, 3)
    got = reference.run(model, {"x": x, "x:mean": parts.mean((0, 2)), "x:variance": parts.var((0, 2))})["y"]
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_nothing_changes_where_no_statistics_are_asked_for():
    model = normed("GroupNormNhwc")
    given_statistics(model)
    assert [node.op_type for node in model.graph] == ["GroupNormNhwc"]


def test_a_norm_that_no_rule_made_is_refused():
    model = normed("GroupNorm")
    model.metadata_props[STATISTICS_OF] = "x"
    with pytest.raises(UsageError, match="a picture in bands needs the rules group_norm and channels_last"):
        given_statistics(model)
