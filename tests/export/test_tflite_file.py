"""The .tflite file itself: what was put together is what readers find, however large it is."""

import shutil

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from litert_runs import BOTH, interpreted
from tiny_model import TINY

from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.errors import GraphError
from ondevice.export.options import FORMATS
from ondevice.export.tflite import file as tflite_file
from ondevice.export.tflite.file import ALIGN, INLINE, Model
from ondevice.export.writing import export

OPS = schema.BuiltinOperator
RNG = np.random.default_rng(0)
WEIGHT, BIAS = (RNG.standard_normal(shape, np.float32) for shape in [(3, 5), (3,)])
X = RNG.standard_normal((2, 5), np.float32)


def linear(graph, x, name="y", weight=WEIGHT):
    """y = x W' + b with the weight behind the flatbuffer and the bias inside."""
    taken = graph.tensor("weight", weight.shape, "float32", lambda: weight)
    y = graph.tensor(name, (2, weight.shape[0]), "float32")
    graph.op(
        OPS.FULLY_CONNECTED,
        [x, taken, graph.constant(BIAS)],
        [y],
        schema.FullyConnectedOptionsT(keepNumDims=True),
    )
    return y


def one_linear(path):
    model = Model("linear")
    x = model.tensor("x", X.shape, "float32")
    model.write(path, {"given": x}, {"got": linear(model, x)})
    return path


def read(path):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))


def test_readers_find_what_was_put_together(tmp_path):
    path = one_linear(tmp_path / "a.tflite")
    content, data = read(path), path.read_bytes()
    assert flatbuffers.util.BufferHasIdentifier(data, 0, b"TFL3") and content.description == b"linear"
    (graph,) = content.subgraphs
    assert [(tensor.name, list(tensor.shape), tensor.type) for tensor in graph.tensors] == [
        (b"x", [2, 5], 0),
        (b"weight", [3, 5], 0),
        (b"y", [2, 3], 0),
        (b"constant", [3], 0),
    ]
    weight, bias = (content.buffers[graph.tensors[number].buffer] for number in (1, 3))
    assert weight.offset % ALIGN == 0 and weight.data is None
    assert data[weight.offset :] == WEIGHT.tobytes() and weight.size == WEIGHT.nbytes
    assert bytes(bias.data) == BIAS.tobytes() and data.index(BIAS.tobytes()) % ALIGN == 0
    (signature,) = content.signatureDefs
    ports = [(one.name, one.tensorIndex) for one in (*signature.inputs, *signature.outputs)]
    assert ports == [(b"given", 0), (b"got", 2)] and list(graph.outputs) == [2]


@pytest.mark.parametrize("runs", BOTH)
def test_runtimes_compute_with_it(tmp_path, runs):
    assert np.allclose(runs(one_linear(tmp_path / "a.tflite"), (2, 3), given=X), X @ WEIGHT.T + BIAS, rtol=1e-6)


@pytest.mark.parametrize("runs", BOTH)
def test_weights_past_two_gigabytes(tmp_path, monkeypatch, runs):
    """Two products whose weights lie at 1.5 and 3 GB of a file with holes."""
    if shutil.disk_usage(tmp_path).free < 4 << 30:
        pytest.skip("the disk may not make files with holes, and is short of 4 GB")
    monkeypatch.setattr(tflite_file, "ALIGN", 3 << 29)
    model = Model("large")
    x = model.tensor("x", (2, 3), "float32")
    square = WEIGHT[:, :3]
    model.write(
        tmp_path / "a.tflite", {"given": x}, {"got": linear(model, linear(model, x, weight=square), "z", 2 * square)}
    )
    assert (tmp_path / "a.tflite").stat().st_size > 3 << 30
    given = X[:, :3]
    expected = (given @ square.T + BIAS) @ (2 * square).T + BIAS
    assert np.allclose(runs(tmp_path / "a.tflite", (2, 3), given=given), expected, rtol=1e-5)


def test_equal_constants_are_one_and_names_are_not(tmp_path):
    model = Model("names")
    x = model.tensor("x", (4,), "float32")
    small, large = np.arange(4, dtype=np.float32), np.zeros(INLINE, np.float32)
    numbers = [model.constant(array.copy()) for array in (small, large, small, large, small.reshape(2, 2))]
    assert numbers[:2] == numbers[2:4] and len(set(numbers)) == 3
    other = model.subgraph("other")
    other.ends([other.tensor("x", (4,), "float32")], [other.constant(small)])
    again = [model.tensor(name, (4,), "float32") for name in ("x", "x;1", "x")]
    model.write(tmp_path / "a.tflite", {"given": x}, {"got": numbers[0]})
    content = read(tmp_path / "a.tflite")
    main, part = content.subgraphs
    names = [tensor.name for tensor in main.tensors]
    assert len(set(names)) == len(names) and [names[number] for number in again] == [b"x;1", b"x;1;1", b"x;2"]
    assert part.tensors[1].buffer == main.tensors[numbers[0]].buffer == main.tensors[numbers[4]].buffer
    assert [buffer.size for buffer in content.buffers] == [0, 0, large.nbytes]
    assert np.array_equal(interpreted(tmp_path / "a.tflite", (4,), given=np.zeros(4, np.float32)), small)


def test_the_same_bytes_each_time_and_one_weight_at_a_time(tmp_path):
    alive, most = set(), []

    class Values(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def weight(fill):
        values = np.full((3, 3), fill, np.float32).view(Values)
        alive.add(id(values))
        most.append(len(alive))
        return values

    model = Model("lazy")
    x = model.tensor("x", (2, 3), "float32")
    y = x
    for number in range(4):
        taken = model.tensor(f"weight {number}", (3, 3), "float32", lambda fill=number: weight(fill))
        y, before = model.tensor(f"y{number}", (2, 3), "float32"), y
        model.op(OPS.FULLY_CONNECTED, [before, taken, -1], [y], schema.FullyConnectedOptionsT())
    for name in "ab":
        model.write(tmp_path / name, {"given": x}, {"got": y})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() and max(most) == 1


def test_scales_are_those_of_the_values_written(tmp_path):
    values, scales = np.int8([[1, -127, 3], [0, 127, 5]]), np.float32([0.5, 0.25])
    model = Model("int8")
    x = model.tensor("x", (2, 3), "float32")
    stored = model.tensor("weight", (2, 3), "int8", lambda: (values, scales), axis=0)
    widened, y = model.tensor("widened", (2, 3), "float32"), model.tensor("y", (2, 3), "float32")
    model.op(OPS.DEQUANTIZE, [stored], [widened], schema.DequantizeOptionsT(), version=5)
    model.op(OPS.ADD, [x, widened], [y], schema.AddOptionsT())
    model.write(tmp_path / "a.tflite", {"given": x}, {"got": y})
    got = interpreted(tmp_path / "a.tflite", (2, 3), given=np.zeros((2, 3), np.float32))
    assert np.array_equal(got, values * scales[:, None])


def test_what_the_schema_cannot_hold_is_refused(tmp_path, monkeypatch):
    model = Model("unet")
    with pytest.raises(GraphError, match=r"unet: tensor big: its shape is \[2147483648\].*smaller size"):
        model.tensor("big", (1 << 31,), "float32")
    monkeypatch.setattr(flatbuffers.Builder, "MAX_BUFFER_SIZE", 1000)
    with pytest.raises(GraphError, match=r"unet: what is not its weights takes more than 2 GB"):
        x = model.tensor("x", (2, 5), "float32")
        model.write(tmp_path / "a.tflite", {"given": x}, {"got": linear(model, x)})
    assert not (tmp_path / "a.tflite").exists()


def test_a_disk_that_fills_up_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    class Full(type(tmp_path)):
        def open(self, *_, **__):
            raise OSError(28, "No space left on device")

    real = Model.write
    monkeypatch.setattr(Model, "write", lambda self, path, *ports: real(self, Full(path), *ports))
    with pytest.raises(GraphError) as caught:
        export(random_checkpoint_from_configs(**TINY, seed=1), tmp_path / "g", FORMATS["tflite"], sizes=[(10, 6)])
    said = (
        "text_encoder/model.tflite: cannot be written (No space left on device). Fix: "
        "free space on this disk, or choose another folder with --out."
    )
    assert str(caught.value) == said and not list(tmp_path.iterdir())
