"""Saved graphs: onnxruntime reads them, weights are written one by one, a failure leaves what was there."""

import weakref

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from checkpoint_files import tiny_checkpoint

from ondevice.converters import build
from ondevice.converters.onnx_export import save_onnx
from ondevice.errors import GraphError


def text_graph():
    return build(tiny_checkpoint()).graph("text_encoder", batch=2)


def hidden_states(model_or_path, ids):
    options = {"providers": ["CPUExecutionProvider"]}
    return onnxruntime.InferenceSession(model_or_path, **options).run(None, {"input_ids": ids})[0]


def test_onnxruntime_reads_what_was_saved(tmp_path):
    model, ids = text_graph(), np.arange(154, dtype=np.int32).reshape(2, 77) % 50
    path = save_onnx(model, tmp_path / "text.onnx")
    assert path == tmp_path / "text.onnx" and sorted(p.name for p in tmp_path.iterdir()) == [
        "text.onnx",
        "text.onnx.data",
    ]
    onnx.checker.check_model(str(path), full_check=True)
    expected = hidden_states(ir.to_proto(model).SerializeToString(), ids)
    np.testing.assert_array_equal(hidden_states(str(path), ids), expected)
    (tmp_path / "elsewhere").mkdir()
    for file in list(tmp_path.glob("text.onnx*")):
        file.rename(tmp_path / "elsewhere" / file.name)
    np.testing.assert_array_equal(hidden_states(str(tmp_path / "elsewhere" / "text.onnx"), ids), expected)


def test_the_model_stays_lazy_and_can_be_saved_again(tmp_path):
    model = text_graph()
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    save_onnx(model, tmp_path / "a.onnx")
    save_onnx(model, tmp_path / "b.onnx")
    assert {name: value.const_value for name, value in model.graph.initializers.items()} == before
    assert (tmp_path / "a.onnx.data").read_bytes() == (tmp_path / "b.onnx.data").read_bytes()


def big_weights(count, read):
    """A graph that adds `count` weights of 4 MB; `read(i)` makes their values."""
    shape = [1 << 20]
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    values, nodes, y = [], [], x
    for i in range(count):
        tensor = ir.LazyTensor(
            lambda i=i: ir.Tensor(read(i)), dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=f"w{i}"
        )
        values.append(
            ir.Value(name=f"w{i}", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor)
        )
        nodes.append(ir.node("Add", [y, values[-1]]))
        y = nodes[-1].outputs[0]
        y.name, y.shape, y.type = f"y{i}", ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    return ir.Model(
        ir.Graph([x], [y], nodes=nodes, initializers=values, opset_imports={"": 18}, name="big"), ir_version=10
    )


def test_memory_holds_few_weights_at_a_time(tmp_path):
    alive, most = 0, 0

    def freed():
        nonlocal alive
        alive -= 1

    def read(i):
        nonlocal alive, most
        array = np.full(1 << 20, i, np.float32)
        weakref.finalize(array, freed)
        alive += 1
        most = max(most, alive)
        return array

    save_onnx(big_weights(12, read), tmp_path / "big.onnx")
    assert (tmp_path / "big.onnx.data").stat().st_size == 12 << 22
    assert most <= 2  # the one being written, and perhaps the one before it


def test_a_failure_leaves_the_old_model_whole(tmp_path):
    save_onnx(big_weights(1, lambda i: np.full(1 << 20, 7, np.float32)), tmp_path / "m.onnx")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def read(i):
        raise OSError(28, "No space left on device")

    with pytest.raises(
        GraphError, match=r"m\.onnx: cannot be written \(No space left on device\)\. Fix: free space on this disk"
    ):
        save_onnx(big_weights(1, read), tmp_path / "m.onnx")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_model_without_big_weights_has_no_data_file(tmp_path):
    save_onnx(big_weights(1, lambda i: np.zeros(1 << 20, np.float32)), tmp_path / "m.onnx")
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    )
    save_onnx(ir.from_proto(proto), tmp_path / "m.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_refusals_of_paths(tmp_path):
    with pytest.raises(
        GraphError, match=r"the folder .*nowhere does not exist\. Fix: create it, or choose another path\."
    ):
        save_onnx(text_graph(), tmp_path / "nowhere" / "m.onnx")
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(GraphError, match=r"m\.onnx is a folder\. Fix: choose another path\."):
        save_onnx(text_graph(), tmp_path / "m.onnx")
