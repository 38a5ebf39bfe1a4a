"""Weights of TFLite files in fewer bits: what runtimes compute with them, and what cannot be stored."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from litert_runs import BOTH

from ondevice.errors import GraphError
from ondevice.export.tflite.file import Model
from ondevice.export.tflite.weights import Storage
from ondevice.lower.quantize import int8_scales, int8_values

OPS = schema.BuiltinOperator
RNG = np.random.default_rng(3)
CONV = RNG.standard_normal((19, 3, 3, 27), np.float32) * np.logspace(-3, 1, 19, dtype=np.float32)[:, None, None, None]
LINEAR = RNG.standard_normal((70, 19), np.float32)  # too small for int8 in its other direction
LARGE = RNG.standard_normal((99, 70), np.float32)
X = RNG.standard_normal((1, 5, 7, 27), np.float32)


def network(path, storage, conv=CONV, linear=LINEAR):
    """A convolution, a small product and a large one."""
    model = Model("net")
    x = model.tensor("x", X.shape, "float32")
    weight = storage.weight(model, "conv.weight", CONV.shape, lambda: conv)
    y = model.tensor("y", (1, 5, 7, 19), "float32")
    options = schema.Conv2DOptionsT(padding=schema.Padding.SAME, strideW=1, strideH=1)
    model.op(OPS.CONV_2D, [x, weight, model.constant(np.zeros(19, np.float32))], [y], options)
    for number, values in enumerate((linear, LARGE)):
        weight = storage.weight(model, f"linear{number}.weight", values.shape, lambda values=values: values)
        before, y = y, model.tensor(f"z{number}", (1, 5, 7, len(values)), "float32")
        model.op(OPS.FULLY_CONNECTED, [before, weight, -1], [y], schema.FullyConnectedOptionsT(keepNumDims=True))
    model.write(path, {"x": x}, {"y": y})
    return path


def expected(weights, x=X):
    """In float64."""
    conv, linear, large = (weight.astype(np.float64) for weight in weights)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [padded[:, i : i + 5, j : j + 7] @ conv[:, i, j].T for i in range(3) for j in range(3)]
    return sum(parts) @ linear.T @ large.T


def as_half(weight):
    return weight.astype(np.float16)


def as_int8(weight):
    columns = weight.reshape(len(weight), -1).T
    return (int8_values(columns) * int8_scales(columns)).T.reshape(weight.shape)


@pytest.mark.parametrize("runs", BOTH)
@pytest.mark.parametrize(
    "storage, rounded, bytes_each",
    [
        (Storage(), (CONV, LINEAR, LARGE), (4, 4, 4)),
        (Storage("fp16"), (as_half(CONV), as_half(LINEAR), as_half(LARGE)), (2, 2, 2)),
        (Storage("fp16", "int8"), (as_int8(CONV), as_half(LINEAR), as_int8(LARGE)), (1, 2, 1)),
        (Storage("fp32", "int8"), (as_int8(CONV), LINEAR, as_int8(LARGE)), (1, 4, 1)),
    ],
    ids=["fp32", "fp16", "int8 beside fp16", "int8 beside fp32"],
)
def test_runtimes_compute_with_the_rounded_weights(tmp_path, storage, rounded, bytes_each, runs):
    path = network(tmp_path / "net.tflite", storage)
    exact = expected(rounded)
    assert np.abs(runs(path, exact.shape, x=X) - exact).max() <= 2e-6 * np.abs(exact).max()
    head = path.stat().st_size - sum(size * weight.size for size, weight in zip(bytes_each, rounded, strict=True))
    assert 0 < head < 8000, "each weight is there once, in as few bits as was asked for"


def test_what_cannot_be_stored_is_refused(tmp_path):
    broken, large = LINEAR.copy(), LINEAR.copy()
    broken[1, 2], large[3, 4] = np.nan, 7e4
    for storage, linear, said in (
        (Storage("fp16"), broken, r"net: weight linear0.weight: holds NaN at \[1, 2\]\. Fix: use another checkpoint"),
        (
            Storage("fp16"),
            large,
            r"holds 70000.0 at \[3, 4\], too large for float16 .*Fix: convert with `--dtype fp32`",
        ),
    ):
        with pytest.raises(GraphError, match=said):
            network(tmp_path / "net.tflite", storage, linear=linear)
    conv = CONV.copy()
    conv[7, 0, 0, 0] = np.inf
    with pytest.raises(GraphError, match=r"net: weight conv.weight: holds a value that is not finite, of output 7\."):
        network(tmp_path / "net.tflite", Storage("fp16", "int8"), conv=conv)
