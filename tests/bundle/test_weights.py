"""Values on their way to a stored dtype."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from ondevice.bundle import WeightSource, weights
from ondevice.bundle.weights import stored
from ondevice.errors import BundleError

STORED = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "i8": np.int8, "u4x2": np.uint8}


def convert(values: np.ndarray, dtype: str) -> np.ndarray:
    chunks = stored("w", WeightSource(lambda: values, dtype, values.shape))
    return np.frombuffer(b"".join(chunks), np.dtype(STORED[dtype]).newbyteorder("<")).reshape(values.shape)


@pytest.mark.parametrize("source", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_every_float_dtype_of_a_checkpoint(source: type, dtype: str) -> None:
    values = np.linspace(-3, 3, 101).astype(source)
    np.testing.assert_array_equal(convert(values, dtype), values.astype(np.float64).astype(STORED[dtype]))


@pytest.mark.parametrize("source", [np.int64, np.int32, np.uint8, np.bool_])
def test_every_integer_dtype(source: type) -> None:
    np.testing.assert_array_equal(convert(np.array([0, 1, 1], source), "i32"), [0, 1, 1])
    np.testing.assert_array_equal(convert(np.array([0, 1, 1], source), "i8"), [0, 1, 1])


def test_a_byte_holds_no_more_than_it_can() -> None:
    np.testing.assert_array_equal(convert(np.array([-128, 127], np.int32), "i8"), [-128, 127])
    with pytest.raises(BundleError, match=r"w: holds 128 at \[1\], too large for i8 \(expected -128..127\)"):
        convert(np.array([-128, 128], np.int32), "i8")
    np.testing.assert_array_equal(convert(np.array([0, 0xF0, 255], np.uint8), "u4x2"), [0, 0xF0, 255])
    with pytest.raises(BundleError, match=r"w: cannot be stored as u4x2 \(got float32\)"):
        convert(np.ones(3, np.float32), "u4x2")


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_every_layout_is_written_row_major(dtype: str) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for view in (values.transpose(2, 0, 1), values[:, ::-1], np.asfortranarray(values), np.float32(1).reshape(())):
        np.testing.assert_array_equal(convert(view, dtype), view)


def test_chunks_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CHUNK", 7)
    values = np.arange(100, dtype=np.float32).reshape(10, 10).T
    np.testing.assert_array_equal(convert(values, "f16"), values)
    broken = values.copy()
    broken[7, 3] = 1e6
    with pytest.raises(BundleError, match=r"w: holds 1000000.0 at \[7, 3\], too large for f16"):
        convert(broken, "f16")


def test_a_lazy_tensor_is_read_when_its_turn_comes() -> None:
    reads = []

    def read() -> ir.Tensor:
        reads.append(1)
        return ir.tensor(np.ones((2, 2), np.float32))

    lazy = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape((2, 2)), name="w")
    chunks = stored("w", WeightSource(lazy, "f16", (2, 2)))
    assert not reads
    assert b"".join(chunks) == np.ones((2, 2), np.float16).tobytes()


def test_masks_keep_their_infinities() -> None:
    mask = np.array([0, -np.inf, np.inf], np.float32)
    for dtype in ("f16", "f32"):
        np.testing.assert_array_equal(convert(mask, dtype), mask)
        np.testing.assert_array_equal(convert(mask.astype(ml_dtypes.bfloat16), dtype), mask)


@pytest.mark.parametrize("value", [65504.0, 65519.9, -65504.0, 6e-8])
def test_what_fits_half(value: float) -> None:
    assert np.isfinite(convert(np.array([value], np.float32), "f16")).all()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([65520.0], np.float32), "f16"),
        (np.array([-1e30], np.float32), "f16"),
        (np.array([1e39], np.float64), "f32"),
        (np.array([np.nan], np.float32), "f32"),
        (np.array([np.nan], np.float16), "f16"),
        (np.array([1 << 31], np.int64), "i32"),
        (np.array([1.0], np.float32), "i32"),
        (np.array([1], np.int64), "f32"),
        (np.array([1j]), "f32"),
        (np.array(["a"]), "f32"),
        (np.array([None]), "f32"),
    ],
)
def test_what_does_not_fit_is_refused(values: np.ndarray, dtype: str) -> None:
    with pytest.raises(BundleError, match=r"^w: "):
        convert(values, dtype)


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(BundleError, match=r"got \[2, 3\], expected \[3, 2\]"):
        list(stored("w", WeightSource(lambda: np.zeros((2, 3), np.float32), "f32", (3, 2))))
