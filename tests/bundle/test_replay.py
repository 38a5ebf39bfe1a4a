"""The golden bundle computes on a device what its expected.json says; and plans of the real planner pass the reader."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from bundle.test_golden import GOLDEN
from bundle.tiny_bundle import MODEL
from metal.device import MetalOnCpu

from ondevice.bundle import Contents, WeightSource, open_bundle, write_bundle
from ondevice.errors import NoDeviceError
from ondevice.lower import lower
from ondevice.plan import plan, weight_key
from ondevice.run.device import Device
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

GOLDENS = [("tiny", "expected.json"), ("images", "expected_images.json")]


def replay(bundle: str, expected: str, device: Device) -> None:
    """Every plan of a golden bundle computes what its file of expected values says."""
    session = Session(open_bundle(GOLDEN / f"{bundle}.ondevice", verify=True), device)
    for row in json.loads((GOLDEN / expected).read_text())["plans"]:
        inputs = {name: np.array(values, np.float32) for name, values in row["inputs"].items()}
        for _ in range(2):  # a second run must not see what the first left in the arena
            outputs = session.run(row["component"], inputs, **row["sizes"])
            assert outputs.keys() == row["outputs"].keys()
            for name, values in row["outputs"].items():
                np.testing.assert_allclose(outputs[name], values, rtol=row["tolerance"], atol=row["tolerance"])


@pytest.mark.device
@pytest.mark.parametrize("bundle, expected", GOLDENS)
def test_golden_bundle_on_a_device(bundle: str, expected: str) -> None:
    try:
        device = choose_device()
    except NoDeviceError as exc:
        pytest.skip(str(exc))
    if bundle == "images" and "image2d" not in device.facts()["caps"]:
        pytest.skip(f"{device.name} has no images over buffers")
    replay(bundle, expected, device)


@pytest.mark.parametrize("bundle, expected", GOLDENS)
def test_golden_bundle_in_metal(bundle: str, expected: str, tmp_path: Path) -> None:
    """Buffers, textures and numbers as the page says that Metal is given them, on the CPU."""
    if not shutil.which("g++"):
        pytest.skip("there is no g++ here: install your system's g++ package")
    replay(bundle, expected, MetalOnCpu(tmp_path))


def mlp(rows: int) -> ir.Model:
    """y = sigmoid(x @ w @ c + b) + x over f32[rows, 8]; c is narrower than a tile, so it is stored wider."""

    def value(name: str, width: int = 8) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape((rows, width)), type=ir.TensorType(ir.DataType.FLOAT))

    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(shape, np.float32) for name, shape in {"w": (8, 16), "c": (16, 8), "b": (8,)}.items()
    }
    initializers = {
        name: ir.Value(
            name=name,
            const_value=ir.tensor(array, name=name),
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        for name, array in weights.items()
    }
    x, product, biased, squashed, y = map(value, ("x", "product", "biased", "squashed", "y"))
    wide = value("wide", 16)
    nodes = [
        ir.Node("", "MatMul", [x, initializers["w"]], outputs=[wide], name="widen"),
        ir.Node("", "MatMul", [wide, initializers["c"]], outputs=[product], name="matmul"),
        ir.Node("", "Add", [product, initializers["b"]], outputs=[biased], name="bias"),
        ir.Node("", "Sigmoid", [biased], outputs=[squashed], name="sigmoid"),
        ir.Node("", "Add", [squashed, x], outputs=[y], name="residual"),
    ]
    graph = ir.Graph(
        [x], [y], nodes=nodes, initializers=list(initializers.values()), opset_imports={"": 18}, name="mlp"
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("storage", ["f32", "f16"])
def test_plans_of_the_planner_pass_the_reader(tmp_path: Path, storage: str) -> None:
    plans, weights = [], {}
    for rows in (3, 5):
        program = lower(mlp(rows), "mlp", storage=storage)
        program.sizes["batch"] = rows
        plans.append(plan(program, storage=storage))
        for name, tensor in program.weights.items():
            weights[weight_key("mlp", name)] = WeightSource(
                tensor, program.tensors[name].dtype, program.tensors[name].shape
            )
    bundle = open_bundle(
        write_bundle(tmp_path / "mlp", Contents(plans=plans, weights=weights, scheduler={}, model=MODEL)), verify=True
    )
    for planned in plans:
        assert bundle.plan("mlp", **planned.sizes) == planned
    stored, weights = bundle.array("mlp/c:1x16 columns per panel"), mlp(3).graph.initializers["c"].const_value.numpy()
    np.testing.assert_array_equal(stored[0, :, :8], weights.astype(stored.dtype))
    assert not stored[..., 8:].any()
