"""Core ML packages: the program with its weights, evaluated as far as it goes."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.fuzz.mutate.data import havoc
from benchmarks.fuzz.mutate.protobuf import message
from benchmarks.fuzz.reader import Reader, holds
from ondevice.export.coreml.compressed import Compressed, compressed
from ondevice.export.coreml.program import Program, Var, WeightFile
from ondevice.export.coreml.tools import models
from ondevice.export.runtimes import mil

INSIDE = "Data/com.apple.CoreML"


def _picture(weights: WeightFile) -> bytes:
    """A convolution, a normalization, a resize, a cut."""
    net, rng = Program(weights), np.random.default_rng(0)
    x = net.input("x", (1, 2, 4, 3), "fp32")
    kernel = rng.standard_normal((4, 2, 3, 3)).astype(np.float32)
    pads = {"pad_type": "custom", "pad": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "groups": 1}
    y = net.op("conv", "c", (1, 4, 4, 3), "fp32", x=x, weight=kernel, **pads)
    y = net.op("reshape", "r", (1, 2, 24), "fp32", x=y, shape=[1, 2, -1])
    y = net.op("layer_norm", "n", (1, 2, 24), "fp32", x=y, axes=[2], epsilon=np.float32(1e-5))
    y = net.op("reshape", "b", (1, 4, 4, 3), "fp32", x=y, shape=[1, 4, 4, 3])
    scale = {"scale_factor_height": np.float32(2), "scale_factor_width": np.float32(2)}
    y = net.op("upsample_nearest_neighbor", "u", (1, 4, 8, 6), "fp32", x=y, **scale)
    y = net.op("slice_by_index", "s", (1, 4, 8, 4), "fp32", x=y, begin=[0, 0, 0, 1], end=[1, 4, 8, 5])
    parts = [Var(name, (1, 2, 8, 4), "fp32") for name in ("left", "right")]
    left, right = net.ops("split", "parts", parts, x=y, num_splits=2, axis=1)
    y = net.op("concat", "joined", (1, 4, 8, 4), "fp32", values=[left, right], axis=1, interleave=False)
    return _model(net, [net.op("silu", "y", (1, 4, 8, 4), "fp32", x=y)])


def _text(weights: WeightFile) -> bytes:
    """A row of a table, products with weights of few bits, attention."""
    net, rng = Program(weights), np.random.default_rng(0)
    ids = net.input("ids", (1, 3), "int32")
    table = rng.standard_normal((5, 64)).astype(np.float16)
    x = net.op("gather", "e", (1, 3, 64), "fp16", x=table, indices=ids, axis=0)
    for name, how, ios in (("a", "int4", 18), ("b", "pal6", 18), ("d", "pal4", 17), ("f", "int8", 17)):
        few = compressed(rng.standard_normal((64, 64)).astype(np.float32), how, "fp16", ios)
        assert isinstance(few, Compressed)
        weight = net.compressed(few, f"{name}_w", (64, 64), "fp16")
        x = net.op("linear", name, (1, 3, 64), "fp16", x=x, weight=weight)
    x = net.op("scaled_dot_product_attention", "m", (1, 3, 64), "fp16", query=x, key=x, value=x)
    x = net.op("gelu", "g", (1, 3, 64), "fp16", x=x, mode="EXACT")
    return _model(net, [net.op("cast", "y", (1, 3, 64), "fp32", x=x, dtype="fp32")])


def _model(net: Program, outputs: list[Var]) -> bytes:
    model = models.Model(specificationVersion=9)
    model.mlProgram.CopyFrom(net.finish(outputs, 18))
    return model.SerializeToString(deterministic=True)


@functools.cache
def _seeds() -> tuple[list[bytes], bytes]:
    """Programs, and the file in which all of them have their weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mlpackage/Data/weights/weight.bin"
        path.parent.mkdir(parents=True)
        weights = WeightFile(path)
        programs = [make(weights) for make in (_picture, _text)]
        del weights  # which ends the file
        return programs, path.read_bytes()


def _read(program: bytes, weights: bytes, folder: Path) -> None:
    inside = folder / "a.mlpackage" / INSIDE
    (inside / "weights").mkdir(parents=True, exist_ok=True)
    manifest = {"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "com.apple.CoreML/model.mlmodel"}}}
    (folder / "a.mlpackage" / "Manifest.json").write_text(json.dumps(manifest))
    (inside / "model.mlmodel").write_bytes(program)
    (inside / "weights" / "weight.bin").write_bytes(weights)
    package = mil.package(folder, "a.mlpackage")
    types = package.types
    given = {
        name: np.ones(types[name].shape, types[name].held) for name in package.inputs if types[name].elements < 1 << 16
    }
    for name, array in package.run(given).items():
        holds(array.shape == types[name].shape, "a result has another shape than the program says")
        holds(array.dtype == types[name].held, "a result has another type than the program says")


READERS = (
    Reader(
        "mil_program",
        lambda: _seeds()[0],
        message,
        lambda data, folder: _read(data, _seeds()[1], folder),
        memory=256 << 20,
    ),
    Reader(
        "mil_weights",
        lambda: [_seeds()[1]],
        havoc,
        lambda data, folder: [_read(program, data, folder) for program in _seeds()[0]],
        memory=256 << 20,
        limit=1 << 16,
    ),
)
