"""Ops that plans run on a matrix unit: lowered, planned and run, against the reference of what bf16 makes of their
operands; and how their work is shared."""

import numpy as np
import onnx_ir as ir
import pytest
from kernels.matrix_units import as_bf16
from tolerance import rtol

from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.graph import reference
from ondevice.graph.ops import DOMAIN
from ondevice.lower import lower
from ondevice.lower.kernel_file import load_all
from ondevice.lower.program import Program
from ondevice.plan import plan
from ondevice.rewrite.functions import add_functions
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

KERNELS = load_all()
TARGET = load_target("host-amx")  # where both maths are used for all that they can


def graph(op, x, weights, y, *, x2=None, residual=None, filled=True, **attributes):
    """A graph of one op of x (and x2, residual) and weights (arrays), with the result's shape; and its inputs."""
    rng = np.random.default_rng(len(op))
    shapes = {"x": x, "x2": x2, "residual": residual}
    make = rng.standard_normal if filled else np.empty
    inputs = {name: make(shape, dtype=np.float32) for name, shape in shapes.items() if shape is not None}
    kind = ir.TensorType(ir.DataType.FLOAT)
    given = {name: ir.Value(name=name, shape=ir.Shape(array.shape), type=kind) for name, array in inputs.items()}
    known = [ir.Value(name=f"w{i}", const_value=ir.tensor(array, name=f"w{i}")) for i, array in enumerate(weights)]
    for value, array in zip(known, weights, strict=True):
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.FLOAT
    out = ir.Value(name="y", shape=ir.Shape(y), type=kind)
    operands = [*(given[name] for name in ("x", "x2") if name in given), *known]
    operands += [given["residual"]] if residual else []
    told = ir.convenience.convert_attributes(attributes)
    node = ir.Node("" if op == "MatMul" else DOMAIN, op, operands, told, outputs=[out], name=op)
    opsets = {"": 18, DOMAIN: 1}
    whole = ir.Graph(list(given.values()), [out], nodes=[node], initializers=known, opset_imports=opsets, name="g")
    model = ir.Model(whole, ir_version=10)
    add_functions(model)
    return model, inputs


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


SAME = {"pads": [1, 1, 1, 1]}
OPS = {  # graph, kernel, terms of a sum
    "matmul": (graph("MatMul", (2, 70, 300), [normal(300, 45)], (2, 70, 45)), "matmul_bf16", 300),
    "geglu": (
        graph("LinearBiasGegluAdd", (1, 40, 96), [normal(96, 140), normal(140)], (1, 40, 70), residual=(1, 40, 70)),
        "matmul_bf16",
        96,
    ),
    "two parts": (
        graph("ConcatLinearBias", (1, 40, 24), [normal(64, 33), normal(33)], (1, 40, 33), x2=(1, 40, 40)),
        "matmul_bf16",
        64,
    ),
    "stride 2": (
        graph(
            "ConvNhwcBias", (2, 9, 11, 24), [normal(3, 3, 24, 40), normal(40)], (2, 5, 6, 40), strides=[2, 2], **SAME
        ),
        "conv2d_bf16",
        216,
    ),
    "larger": (
        graph(
            "UpConvNhwcBias",
            (1, 5, 6, 40),
            [normal(3, 3, 40, 16), normal(16)],
            (1, 10, 12, 16),
            strides=[1, 1],
            sizes=[1, 40, 10, 12],
            **SAME,
        ),
        "conv2d_bf16",
        360,
    ),
}


def run(model: ir.Model, inputs: dict[str, np.ndarray], storage: str, math: str) -> tuple[Program, np.ndarray]:
    program = lower(model, "test", storage=storage, kernels=KERNELS, target=TARGET.asked(math))
    dispatch_plan = plan(program, storage=storage)
    bundle = MemoryBundle([dispatch_plan], weight_sources(program), KERNELS)
    return program, Session(bundle, choose_device()).run("test", inputs)["y"]


def rounded(model: ir.Model, inputs: dict[str, np.ndarray], storage: str) -> np.ndarray:
    """The reference of the operands of products rounded to storage, then to bf16."""
    stored = np.float16 if storage == "f16" else np.float32
    weight = model.graph.initializers["w0"]
    own, values = weight.const_value, weight.const_value.numpy().astype(stored).astype(np.float32)
    weight.const_value = ir.tensor(as_bf16(values).astype(np.float32), name="w0")
    sides = {name: inputs[name].astype(stored).astype(np.float32) for name in ("x", "x2") if name in inputs}
    sides = {name: as_bf16(side).astype(np.float32) for name, side in sides.items()}
    found = reference.run(model, inputs | sides)["y"]
    weight.const_value = own
    return found


@pytest.mark.device
@pytest.mark.parametrize("storage", ["f32", "f16"])
@pytest.mark.parametrize("case, kernel, terms", OPS.values(), ids=OPS)
def test_ops(case, kernel, terms, storage):
    model, inputs = case
    program, got = run(model, inputs, storage, "bf16")
    assert [call.kernel for call in program.calls if call.op != "Cast"] == [kernel]
    want = rounded(model, inputs, storage)
    np.testing.assert_allclose(got, want, rtol=0, atol=rtol(storage, terms) * 2 * np.abs(want).max())


@pytest.mark.device
def test_halves_keep_the_digits():
    model, inputs = OPS["geglu"][0]
    program, got = run(model, inputs, "f32", "bf16x3")
    assert [call.kernel for call in program.calls] == ["matmul_bf16"]
    want = reference.run(model, inputs)["y"]
    assert np.sqrt(((got - want) ** 2).mean() / (want**2).mean()) < 2e-5


@pytest.mark.parametrize("math", ["bf16", "bf16x3"])
@pytest.mark.parametrize(
    "m, k, n", [(16, 8, 8), (64, 1280, 1280), (256, 5120, 1280), (4096, 320, 2560), (77, 768, 320)]
)
def test_shares_of_a_product(m, k, n, math):
    """All rows and all columns have a work-item, few are idle, and scratch stays within what a target gives it."""
    model, _ = graph("MatMul", (1, m, k), [np.zeros((k, n), np.float32)], (1, m, n), filled=False)
    (call,) = lower(model, "test", kernels=KERNELS, target=TARGET.asked(math)).calls
    told = dict(zip(KERNELS[call.kernel].arg_types, call.scalars, strict=True))
    strips, panels = -(-m // told["strip"]), told["ldb"] // 32
    assert told["groups"] == call.grid[0] == min(8, strips * -(-panels // told["share"]))
    assert told["groups"] >= min(8, strips * panels) / 2
    assert 4 * told["groups"] * told["slot"] <= 1.3 * TARGET.scratch
    assert call.writes == 4 * m * n, "scratch is no traffic"


def test_a_few_rows_stay_in_fp32():
    """They do not pay for what a block of the weight takes to become bf16."""
    model, _ = graph("MatMul", (1, 15, 64), [np.zeros((64, 32), np.float32)], (1, 15, 32))
    (call,) = lower(model, "test", kernels=KERNELS, target=TARGET.asked("bf16")).calls
    assert call.kernel == "matmul"


@pytest.mark.parametrize("size, ic, oc", [(64, 320, 320), (16, 2560, 1280), (8, 1280, 1280), (512, 256, 128)])
def test_shares_of_a_convolution(size, ic, oc):
    shapes = (1, size, size, ic), [np.zeros((3, 3, ic, oc), np.float32)], (1, size, size, oc)
    model, _ = graph("ConvNhwc", *shapes, strides=[1, 1], filled=False, **SAME)
    (call,) = lower(model, "test", kernels=KERNELS, target=TARGET.asked("bf16")).calls
    told = dict(zip(KERNELS[call.kernel].arg_types, call.scalars, strict=True))
    rectangles = -(-size // told["rows"]) * -(-size // told["cols"])
    panels = told["ldb"] // 32
    assert told["groups"] == min(8, rectangles * -(-panels // told["share"]))
    assert told["groups"] >= min(8, rectangles * panels) / 2
    assert told["rows"] == 1 or 4 * told["groups"] * told["slot"] <= TARGET.scratch
