"""Programs become plans: lives, numbering, weights apart from the arena."""

import numpy as np
import onnx_ir as ir
import pytest

from ondevice.errors import PlanError
from ondevice.lower.program import Call, Program, Tensor
from ondevice.plan import plan
from ondevice.plan.liveness import lives


def call(inputs, outputs, kernel="k", **defines):
    return Call(
        kernel, tuple(sorted(defines.items())), inputs, outputs, (1,), (1, 1, 1), (1, 1, 1), "node", "Op", 0, 0, 0
    )


def chain(*calls, weights=(), outputs=("y",)):
    names = dict.fromkeys(n for c in calls for n in (*c.inputs, *c.outputs)) | dict.fromkeys(("x",))
    tensors = {name: Tensor(name, (256,), "f32") for name in names}
    return Program(
        "unet", tensors, list(calls), ("x",), outputs, {w: ir.Tensor(np.zeros(256, np.float32)) for w in weights}
    )


def test_lives_span_first_write_to_last_read():
    program = chain(call(("x", "w"), ("a",)), call(("a",), ("b",)), call(("a", "b"), ("y",)), weights=("w",))
    assert {t.name: (t.first, t.last) for t in lives(program)} == {"x": (0, 0), "a": (0, 2), "b": (1, 2), "y": (2, 3)}


def test_plan_numbers_operands_and_shares_programs():
    program = chain(
        call(("x", "w"), ("a",), F16=0),
        call(("a",), ("y",), F16=0),
        call(("a",), ("b",), F16=1),
        weights=("w",),
        outputs=("y", "b"),
    )
    dispatch_plan = plan(program, storage="f32")
    assert [(k.file, dict(k.defines)) for k in dispatch_plan.kernels] == [("k", {"F16": 0}), ("k", {"F16": 1})]
    assert [d.kernel for d in dispatch_plan.dispatches] == [0, 0, 1]
    assert [o.weight for o in dispatch_plan.operands if o.weight] == ["unet/w"]
    assert all((o.offset is None) == (o.weight is not None) for o in dispatch_plan.operands)
    assert [dispatch_plan.operands[i].name for i in (*dispatch_plan.inputs, *dispatch_plan.outputs)] == ["x", "y", "b"]


def test_a_read_before_any_write_is_refused():
    with pytest.raises(PlanError, match=r"unet: call 0 \(node\): a is read before it is written"):
        plan(chain(call(("a",), ("y",))), storage="f32")


def test_an_output_nobody_writes_is_refused():
    with pytest.raises(PlanError, match="output z is never written"):
        plan(chain(call(("x",), ("y",)), outputs=("z",)), storage="f32")
