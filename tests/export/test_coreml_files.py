"""Core ML packages of whole models: what they mean, what coremltools makes of them, and what is refused."""

import tracemalloc
from dataclasses import replace

import family_files
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from tiny_model import TINY

from ondevice import cli
from ondevice.compiler.jobs import Job, largest_jobs
from ondevice.compiler.programs import fused_graphs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.errors import GraphError, UsageError
from ondevice.export.coreml import program, writer
from ondevice.export.manifest import read_manifest
from ondevice.export.names import plain
from ondevice.export.options import FORMATS, Options
from ondevice.export.runner import feeds as feeds_of
from ondevice.export.runtimes import mil
from ondevice.export.writing import export

COREML = FORMATS["coreml"]
SIZES = {"sd14": (10, 6), "sdxl": (20, 12)}
BOUND = {"fp32": 1e-5, "fp16": 5e-3}  # of the largest number


@pytest.fixture(scope="module")
def checkpoints():
    configs = {"sd14": TINY, "sdxl": family_files.TINY["sdxl"]}
    return {name: random_checkpoint_from_configs(seed=1, family=name, **parts) for name, parts in configs.items()}


def fed(graph):
    """Inputs as a pipeline would have them: a step of the first of a thousand, sizes in pixels."""
    rng, feeds = np.random.default_rng(0), {}
    for value in graph.inputs:
        shape = tuple(value.shape)
        if value.dtype == ir.DataType.INT32:
            feeds[value.name] = rng.integers(0, 50, shape).astype(np.int32)
        elif value.name in ("timestep", "time_ids"):
            feeds[value.name] = np.full(shape, 981, np.float32)
        else:
            feeds[value.name] = rng.standard_normal(shape, dtype=np.float32)
    return feeds


@pytest.mark.parametrize(
    "family, dtype, ios", [("sd14", "fp32", 17), ("sd14", "fp16", 18), ("sdxl", "fp16", 17), ("sdxl", "fp32", 18)]
)
def test_packages_mean_what_our_graphs_do(checkpoints, tmp_path, family, dtype, ios):
    options = Options(dtype=dtype, flags={"ios": ios})
    out = export(checkpoints[family], tmp_path / "packages", COREML, options, sizes=[SIZES[family]])
    entries = {entry.component: entry for entry in read_manifest(out, tuple(FORMATS)).entries}
    model = build(checkpoints[family], published=True)
    for fused in fused_graphs(model, Recipe(without=COREML.without), largest_jobs(model, SIZES[family])):
        feeds, entry = fed(fused.graph.graph), entries.pop(fused.job.component)
        session = onnxruntime.InferenceSession(ir.to_proto(fused.graph).SerializeToString())
        wanted = dict(zip([each.name for each in session.get_outputs()], session.run(None, feeds), strict=True))
        found = mil.load(out, entry).run(feeds_of(entry, feeds))
        assert len(found) == len(wanted)
        for name, array in wanted.items():
            error = np.abs(found[entry.outputs[name].name] - array).max() / np.abs(array).max()
            assert error <= BOUND[dtype], (fused.job.component, name, error)
    assert not entries


@pytest.mark.parametrize("ios", [17, 18])
def test_coremltools_reads_every_op_and_finds_the_types_that_it_says(checkpoints, tmp_path, ios):
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.converters.mil.mil import types
    from coremltools.models import MLModel

    model = build(checkpoints["sdxl"], published=True)
    jobs = [job for job in largest_jobs(model, SIZES["sdxl"]) if job.component in ("unet", "text_encoder_2")]
    for fused in fused_graphs(model, Recipe(without=COREML.without), jobs):
        entry = writer.write(fused.graph, fused.job, tmp_path, Options(dtype="fp16", flags={"ios": ios}))
        package = MLModel(str(tmp_path / entry.files[0]), skip_model_load=True)
        spec = package.get_spec()
        said = {}
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        for op in block.operations:
            for value in op.outputs:
                tensor = value.type.tensorType
                said[value.name] = (tuple(size.constant.size for size in tensor.dimensions), tensor.dataType)
        loaded = load(spec, specification_version=spec.specificationVersion, file_weights_dir=package.weights_dir)
        found = {
            value.name: (tuple(value.shape), types.BUILTIN_TO_PROTO_TYPES[value.dtype])
            for op in loaded.functions["main"].operations
            if op.op_type != "const"
            for value in op.outputs
        }
        assert len(found) > 50 and found == {name: said[name] for name in found}
        kinds = {op.op_type for op in loaded.functions["main"].operations}
        assert ("scaled_dot_product_attention" in kinds) == (ios == 18) and {"linear", "layer_norm"} <= kinds


def product(*weights):
    """x @ w @ w ..., lazy weights of one size."""
    size = weights[0].shape[0]
    x = ir.Value(name="x", shape=ir.Shape([3, size]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes, values, y = [], [], x
    for i, tensor in enumerate(weights):
        values.append(
            ir.Value(name=f"w{i}", shape=tensor.shape, type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor)
        )
        out = ir.Value(name=f"y{i}", shape=ir.Shape([3, size]), type=ir.TensorType(ir.DataType.FLOAT))
        nodes.append(ir.node("MatMul", [y, values[-1]], outputs=[out], name=f"product {i}"))
        y = out
    return ir.Model(ir.Graph([x], [y], nodes=nodes, initializers=values, opset_imports={"": 18}), ir_version=10)


def lazy(make, size):
    return ir.LazyTensor(lambda: ir.Tensor(make()), dtype=ir.DataType.FLOAT, shape=ir.Shape([size, size]), name="w")


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_one_weight_is_in_memory_at_a_time(tmp_path, dtype):
    model = product(*(lazy(lambda: np.full((600, 600), 0.5, np.float32), 600) for _ in range(12)))
    tracemalloc.start()
    writer.write(model, Job("net", {"batch": 1}), tmp_path, Options(dtype=dtype))
    assert tracemalloc.get_traced_memory()[1] < 4 * 600 * 600 * 4
    tracemalloc.stop()


def test_what_float16_cannot_hold_is_refused(tmp_path):
    large = np.eye(400, dtype=np.float32)
    large[0, 0] = 1e5
    said = "net: node product 0 (MatMul): w0 holds 1e+05, which float16 has no place for. Fix: use --dtype fp32."
    with pytest.raises(GraphError) as caught:
        writer.write(product(lazy(lambda: large, 400)), Job("net", {"batch": 1}), tmp_path, Options(dtype="fp16"))
    assert str(caught.value) == said


def test_what_core_ml_has_no_op_for_leaves_nothing_behind(checkpoints, tmp_path):
    first = replace(COREML, without=[name for name in COREML.without if name != "channels_last"])
    with pytest.raises(
        GraphError, match=r"unet: node .* \(ConvNhwcBias\): op ConvNhwcBias cannot be written as a Core"
    ):
        export(checkpoints["sd14"], tmp_path / "p", first, sizes=[SIZES["sd14"]])
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_names_the_package(checkpoints, tmp_path, monkeypatch):
    class Full(program.BlobWriter):
        def write_fp16_data(self, data):
            raise RuntimeError("[MIL FileWriter]: Unknown error occurred while writing to the file.")

    monkeypatch.setattr(program, "BlobWriter", Full)
    with pytest.raises(GraphError, match=r"TextEncoder.mlpackage/weight.bin: cannot be written .* Fix: free space"):
        export(checkpoints["sd14"], tmp_path / "p", COREML, sizes=[SIZES["sd14"]])
    assert not list(tmp_path.iterdir())


def test_ios_is_said_to_core_ml_alone(tmp_path, capsys):
    words = ["convert", "demo", "--format", "onnx", "--out", str(tmp_path / "g"), "--ios", "18"]
    assert cli.main(words) == UsageError.exit_code
    assert "--ios: it is not of ONNX files. Fix: leave --ios out" in capsys.readouterr().err


def test_names_stay_apart():
    names = ["a", "a_b", "a/b", "a:b", "a b", "/a_b", "_a", "1", "", "fp16", "state", "v_a_b"]
    made = [plain(name) for name in names]
    assert len(set(made)) == len(names) and made[:2] == ["a", "a_b"] and all(name.isidentifier() for name in made)
