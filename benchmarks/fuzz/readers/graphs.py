"""ONNX files: the file with its tensors, and the graph brought to our form."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from checkpoint_files import normalize
from onnx import TensorProto, helper, numpy_helper

from benchmarks.fuzz.mutate.protobuf import message
from benchmarks.fuzz.reader import Reader, holds
from benchmarks.fuzz.readers import small
from ondevice.converters.onnx_import.imported import read_graph
from ondevice.converters.onnx_import.onnx_file import read_onnx


@functools.cache
def _configs() -> dict[str, Any]:
    return {name: normalize(name, raw, name) for name, raw in small.CONFIGS.items()}


def _model(nodes: list[Any], inputs: list[Any], output: Any, constants: dict[str, Any], opset: int = 17) -> bytes:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def _decoder(opset: int = 17) -> bytes:
    """A decoder of one convolution, a normalization, an activation as exporters spell it,
    and shapes that are computed."""
    weight = np.linspace(-1, 1, 3 * 4 * 9, dtype=np.float32).reshape(3, 4, 3, 3)
    nodes = [
        helper.make_node("Shape", ["latent_sample"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["first"], axis=0),
        helper.make_node("Unsqueeze", ["first", "axes"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["latent_sample", "flat"], ["groups"]),
        helper.make_node("InstanceNormalization", ["groups", "ones", "zeros"], ["normal"], epsilon=1e-5),
        helper.make_node("Reshape", ["normal", "shape"], ["back"]),
        helper.make_node("Conv", ["back", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[1, 1], kernel_shape=[3, 3]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["sample"]),
    ]
    constants = {
        "zero": np.int64(0),
        "axes": np.array([0], np.int64),
        "rest": np.array([2, -1], np.int64),
        "ones": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.float32),
        "w": weight,
        "b": np.zeros(3, np.float32),
    }
    given = helper.make_tensor_value_info("latent_sample", TensorProto.FLOAT, ["batch", 4, "height", "width"])
    output = helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    return _model(nodes, [given], output, constants, opset)


def _large() -> bytes:
    """One tensor that is left in the file, and one that lies in another."""
    model = onnx.ModelProto.FromString(_decoder())
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((64, 32), np.float32), "large"))
    beside = numpy_helper.from_array(np.zeros(2, np.float32), "beside")
    beside.ClearField("raw_data")
    beside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "model.onnx_data"), ("offset", "4"), ("length", "8")):
        beside.external_data.add(key=key, value=value)
    model.graph.initializer.append(beside)
    return model.SerializeToString()


def _read_file(data: bytes, folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(data)
    beside = folder / "model.onnx_data"
    if not beside.exists():
        beside.write_bytes(bytes(64))
    model = read_onnx(path).model()
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        holds(array.nbytes <= len(data) + 64, "a tensor is larger than its file")


def _read_graph(data: bytes, folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(data)
    sizes = {"batch": 1, "height": 3, "width": 2}
    opened = read_graph(path, "vae_decoder", small.family(), _configs())
    if opened.misfit(**sizes) is None:
        graph = opened.graph(**sizes).graph
        holds(
            [value.name for value in graph.inputs] == ["latent_sample"] and len(graph.outputs) == 1,
            "a graph has other ports than ours",
        )


READERS = (
    Reader("onnx_file", lambda: [_decoder(), _large()], message, _read_file, memory=64 << 20),
    Reader("onnx_graph", lambda: [_decoder(), _decoder(opset=13)], message, _read_graph, memory=64 << 20),
)
