"""Attention that plans run on a matrix unit: which kernels they take, and what those give, against the reference."""

import numpy as np
import onnx_ir as ir
import pytest

from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.graph.ops import DOMAIN
from ondevice.lower import lower
from ondevice.lower.kernel_file import load_all
from ondevice.lower.program import Program
from ondevice.plan import plan
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

KERNELS = load_all()
MATRIX, FLASH, NEAR = ["flash_panels", "flash_matrix"], ["flash_attention"], ["flash_near"]
PAIRS = ["flash_near_bf16"]


def attention(queries, keys, heads, d, masked=False):
    """A graph of one op, and its inputs."""
    shapes = {"q": (2, queries, heads * d), "k": (2, keys, heads * d), "v": (2, keys, heads * d)}
    shapes |= {"mask": (1, 1, queries, keys)} if masked else {}
    rng, kind = np.random.default_rng(d), ir.TensorType(ir.DataType.FLOAT)
    given = [ir.Value(name=name, shape=ir.Shape(shape), type=kind) for name, shape in shapes.items()]
    told = ir.convenience.convert_attributes({"heads": [heads], "scale": d**-0.5})
    out = ir.Value(name="y", shape=ir.Shape(shapes["q"]), type=kind)
    op = "MaskedAttention" if masked else "Attention"
    node = ir.Node(DOMAIN, op, given, told, outputs=[out], name=op)
    graph = ir.Graph(given, [out], nodes=[node], opset_imports={"": 18, DOMAIN: 1}, name="g")
    return ir.Model(graph, ir_version=10), {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}


def wanted(inputs, heads, d):
    """In float64."""
    q, k, v = (inputs[n].astype(np.float64).reshape(2, -1, heads, d).transpose(0, 2, 1, 3) for n in "qkv")
    powers = np.exp(q @ k.swapaxes(-1, -2) * d**-0.5 + inputs.get("mask", 0.0))
    return (powers / powers.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(inputs["q"].shape)


def kernels(program: Program) -> list[str]:
    return [call.kernel for call in program.calls if call.op != "Cast"]


@pytest.mark.device
@pytest.mark.parametrize(
    "sizes, storage, target, math, taken, most",
    [
        ((37, 130, 2, 40), "f32", "host-bf16", "bf16", MATRIX, 8e-3),
        ((37, 130, 2, 40), "f16", "host-bf16", "bf16", MATRIX, 8e-3),
        ((5, 34, 1, 520), "f32", "host-bf16", "bf16", MATRIX, 8e-3),  # beyond what fp32 does in one command
        ((37, 77, 2, 40), "f32", "host-bf16", "bf16", PAIRS, 8e-3),
        ((37, 77, 2, 40), "f16", "host-amx", "bf16", PAIRS, 8e-3),
        ((37, 77, 2, 40), "f32", "host-bf16", "bf16x3", NEAR, 2e-5),  # which is faster there
        ((37, 77, 2, 40), "f32", "host-amx", "bf16x3", MATRIX, 2e-5),
        ((14, 14, 2, 64), "f32", "host-bf16", "bf16", ["flash_rows"], 2e-5),  # a film's frames: panels have 32
        ((7, 7, 2, 12, True), "f32", "host-bf16", "bf16", FLASH, 2e-5),
    ],
    ids=str,
)
def test_attention(sizes, storage, target, math, taken, most):
    model, inputs = attention(*sizes)
    program = lower(model, "test", storage=storage, target=load_target(target).asked(math))
    assert kernels(program) == taken
    bundle = MemoryBundle([plan(program, storage=storage)], weight_sources(program), KERNELS)
    got = Session(bundle, choose_device()).run("test", inputs)["y"]
    want = wanted(inputs, sizes[2], sizes[3])
    assert np.sqrt(((got - want) ** 2).mean() / (want**2).mean()) < most


def test_flash_attention_can_be_left_out():
    model, _ = attention(37, 77, 2, 40)
    program = lower(model, "test", target=load_target("host-bf16").asked("bf16"), without=["flash"])
    assert kernels(program)[0] == "attention_scores"
    assert program.in_math.skipped == {"Attention: --without flash": 1}
