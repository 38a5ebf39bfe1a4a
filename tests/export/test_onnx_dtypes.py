"""ONNX files in float16 and with int8 weights: what they are told apart from the float32 ones by, and nothing else."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from tiny_model import TINY

from ondevice.converters import build
from ondevice.converters.onnx_export import save_onnx
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.errors import GraphError
from ondevice.export.manifest import read_manifest
from ondevice.export.onnx.half import halve
from ondevice.export.onnx.quantized import quantize
from ondevice.export.options import FORMATS, Options
from ondevice.export.writing import export
from ondevice.graph.ops import DOMAIN
from ondevice.lower.quantize import int8_scales, int8_values, pays
from ondevice.rewrite import rewrite
from ondevice.rewrite.functions import add_functions

WIDER = {
    "text_encoder": TINY["text_encoder"] | {"hidden_size": 72, "intermediate_size": 80},
    "unet": TINY["unet"] | {"block_out_channels": [12, 48], "cross_attention_dim": 72, "time_embedding_dim": 96},
    "vae": TINY["vae"] | {"block_out_channels": [12, 18]},
}
UNET = {"batch": 2, "height": 3, "width": 5}


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint_from_configs(**WIDER, seed=1)


@pytest.fixture(scope="module")
def plain(checkpoint):
    """What each component gives in float32, without fusions, by its name; and what it was given."""
    found, rng, model = {}, np.random.default_rng(0), build(checkpoint, whole=True)
    for component in model.roles:
        graph = model.graph(component, **({} if component == "text_encoder" else UNET))
        inputs = {str(v.name): rng.standard_normal(v.shape.numpy(), dtype=np.float32) for v in graph.graph.inputs}
        inputs |= {"input_ids": np.arange(7, dtype=np.int32)[np.newaxis]} if component == "text_encoder" else {}
        inputs |= {"timestep": np.array([981], np.float32)} if component == "unet" else {}
        found[component] = inputs, run(ir.to_proto(graph).SerializeToString(), inputs)
    return found


def run(model, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # of casts that onnxruntime's own kernels need
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # or activations are rounded, too
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    types = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(int32)": np.int32}
    given = {port.name: inputs[port.name].astype(types[port.type]) for port in session.get_inputs()}
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, given), strict=True))


def furthest(found, expected):
    return max(np.abs(found[n].astype(np.float64) - e).max() / np.abs(e).max() for n, e in expected.items())


@pytest.mark.parametrize("without", [(), ("all",)], ids=["fused", "plain"])
@pytest.mark.parametrize("dtype, weights, bound", [("fp32", "int8", 0.1), ("fp16", "", 2e-3), ("fp16", "int8", 0.1)])
def test_every_component_in_every_type(checkpoint, plain, tmp_path, dtype, weights, bound, without):
    folder = export(checkpoint, tmp_path / "g", FORMATS["onnx"], Options(dtype, weights, without), sizes=[(10, 6)])
    results = {}
    for entry in read_manifest(folder, ("onnx",)).entries:
        path = folder / entry.files[0]
        onnx.checker.check_model(str(path), full_check=True)
        inputs, expected = plain[entry.component]
        results[entry.component] = run(path, {n: x[: entry.shapes[n][0]] for n, x in inputs.items()})
        expected = {name: result[: len(results[entry.component][name])] for name, result in expected.items()}
        assert furthest(results[entry.component], expected) <= bound
        half = dtype == "fp16" and entry.component != "text_encoder"  # whose rounding would reach every step
        given = {name: port.dtype for name, port in (entry.inputs | entry.outputs).items()}
        assert given.pop("input_ids", "int32") == "int32" and given.pop("timestep", "float32") == "float32"
        assert set(given.values()) == {"float16" if half else "float32"}
    proto = onnx.load(folder / "unet" / "model.onnx", load_external_data=False)
    assert bool(weights) == any(node.op_type == "DequantizeLinear" for node in proto.graph.node)
    numbers = sum(tensor.size for tensor in checkpoint.components["unet"].weights.values())
    assert (folder / "unet" / "model.onnx.data").stat().st_size < numbers * {"fp32": 2, "fp16": 2.1}[dtype]


@pytest.mark.parametrize("without", [(), ("all",)], ids=["fused", "plain"])
def test_int8_rounds_as_bundles_do(checkpoint, plain, without):
    """Against float32 weights that were rounded so by themselves."""
    graph, rounded = (build(checkpoint, whole=True).graph("unet", **UNET) for _ in range(2))
    for one in (graph, rounded):
        rewrite(one, without=[*without, *FORMATS["onnx"].without])
    count, found = quantize(graph), [node for node in graph.graph if node.op_type == "DequantizeLinear"]
    for node in found:
        value, axis = rounded.graph.initializers[node.outputs[0].name], node.attributes["axis"].as_int()
        weight = np.moveaxis(value.const_value.numpy(), axis, -1)  # its output channels last
        matrix = weight.reshape(-1, weight.shape[-1])
        readers = {use.node.op_type for use in node.outputs[0].uses()}
        assert pays(*matrix.shape) and axis == (0 if readers & {"Conv", "Gemm"} else len(value.shape) - 1)
        whole = (int8_values(matrix) * int8_scales(matrix)).reshape(weight.shape)
        value.const_value = ir.tensor(np.ascontiguousarray(np.moveaxis(whole, -1, axis)))
    inputs, exact = plain["unet"]
    results = run(ir.to_proto(graph).SerializeToString(), inputs)
    assert len(found) == count > 10
    assert furthest(results, run(ir.to_proto(rounded).SerializeToString(), inputs)) <= 1e-5
    assert furthest(results, exact) > 1e-4


def one_op(op, shapes, constants=(), domain=DOMAIN, out=(1, 4, 6), **attributes):
    """A graph of one op; the shapes named in `constants` are weights of ones."""
    values = {
        name: ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        for name, shape in shapes.items()
    }
    for name in constants:
        number = np.full(shapes[name], -3e38 if name == "mask" else 1, np.float32)
        values[name].const_value = ir.tensor(number, name=name)
    y = ir.Value(name="y", shape=ir.Shape(out), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node(op, [*values.values()], attributes=attributes, outputs=[y], domain=domain)
    inputs = [value for name, value in values.items() if name not in constants]
    graph = ir.Graph(
        inputs, [y], nodes=[node], initializers=[values[n] for n in constants], opset_imports={"": 18}, name="g"
    )
    model = ir.Model(graph, ir_version=10)
    add_functions(model)
    return model


def halved(model, **inputs):
    """In true half precision, which onnxruntime's kernels for CPUs do not work in: (float16, float32 results)."""
    exact = ReferenceEvaluator(ir.to_proto(model)).run(None, inputs)[0]
    halve(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    types = {1: np.float32, 10: np.float16}
    given = {p.name: inputs[p.name].astype(types[p.type.tensor_type.elem_type]) for p in proto.graph.input}
    return ReferenceEvaluator(proto).run(None, given)[0], exact


LARGE = np.linspace(-3e4, 6e4, 24, dtype=np.float32).reshape(1, 4, 6)  # their squares are no halves


@pytest.mark.parametrize(
    "op, shapes, constants, given",
    [
        ("GroupNormNhwcSilu", {"x": (1, 4, 6), "s": (6,), "b": (6,)}, ("s", "b"), {"groups": [3], "epsilon": 1e-5}),
        ("GroupNorm", {"x": (1, 4, 6), "s": (4, 1), "b": (4, 1)}, ("s", "b"), {"groups": [2], "epsilon": 1e-5}),
        ("Attention", {"x": (1, 4, 6), "k": (1, 4, 6), "v": (1, 4, 6)}, ("v",), {"heads": [2], "scale": 1e-4}),
        (
            "MaskedAttention",  # every score is masked: only float32 can tell them apart from none
            {"x": (1, 4, 6), "k": (1, 4, 6), "v": (1, 4, 6), "mask": (1, 1, 4, 4)},
            ("v", "mask"),
            {"heads": [2], "scale": 1e-4},
        ),
    ],
)
def test_large_activations_do_not_overflow(op, shapes, constants, given):
    with np.errstate(over="raise", invalid="raise"):
        half, exact = halved(one_op(op, shapes, constants, **given), x=LARGE, k=LARGE[:, ::-1] / 3e4)
    assert half.dtype == np.float16 and np.abs(half - exact).max() <= 2e-3 * np.abs(exact).max()


def test_plain_norms_and_masked_softmaxes_too():
    text = """<ir_version: 10, opset_import: ["": 18]> g (float[1,4,6] x, float[1] t) => (float[1,4,6] y, float[1] z)
        <int64[3] s = {0, 2, -1}, int64[3] j = {1, 4, 6}, float[2] o = {1, 1}, float[2] n = {0, 0},
         float[4,1] w = {1, 2, 3, 4}, float[6] mask = {0, 0, 0, 0, 0, -3e38}, float[1] f = {0.37}> {
        a = Reshape(x, s) b = InstanceNormalization<epsilon=0.001>(a, o, n) c = Reshape(b, j) d = Mul(c, w)
        e = Add(d, w) m = Add(e, mask) y = Softmax<axis=-1>(m) u = Mul(t, f) z = Sin(u) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    ir.passes.common.ShapeInferencePass()(model)
    with np.errstate(over="raise", invalid="raise"):
        half, exact = halved(model, x=LARGE, t=np.array([981], np.float32))
    assert np.abs(half - exact).max() <= 2e-3 and (half[..., -1] == 0).all()
    types = {str(v.name): v.dtype for node in model.graph for v in node.outputs}
    assert types["y"] == types["z"] == ir.DataType.FLOAT16 and types["u"] == ir.DataType.FLOAT


@pytest.mark.parametrize(
    "value, message",
    [
        (7e4, r"w: holds 70000\.0 at \[1\], too large for float16 \(expected -65504\.\.65504\)\. Fix: .*--dtype fp32"),
        (np.nan, r"w: holds NaN at \[1\]\. Fix: use another checkpoint"),
    ],
)
@pytest.mark.parametrize("count", [2, 2000])  # in the graph's own file, and beside it
def test_weights_that_are_no_halves_are_refused(tmp_path, value, message, count):
    model = one_op("Add", {"x": (count,), "w": (count,)}, ("w",), domain="", out=(count,))
    model.graph.initializers["w"].const_value = ir.tensor(np.array([1, value, *[-np.inf] * (count - 2)], np.float32))
    halve(model)
    with pytest.raises(GraphError, match=message):
        save_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_int8_refuses_what_is_not_finite(tmp_path):
    model = one_op("MatMul", {"x": (1, 64), "w": (64, 64)}, ("w",), domain="", out=(1, 64))
    weight = np.ones((64, 64), np.float32)
    weight[3, 5] = np.inf
    model.graph.initializers["w"].const_value = ir.tensor(weight)
    assert quantize(model) == 1
    with pytest.raises(GraphError, match=r"w: holds numbers that are not finite\. Fix: use another checkpoint"):
        save_onnx(model, tmp_path / "m.onnx")
