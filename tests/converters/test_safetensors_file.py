"""The safetensors reader: the same values as the reference implementation,
and one error class for every damaged file."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import safetensors.numpy
from checkpoint_files import read_safetensors, safetensors_bytes, safetensors_header, write_safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ondevice.errors import CheckpointError

FUZZ = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2], np.float16),
    "c": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float32),
}


def test_values_of_every_dtype_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        name: (rng.random((3, 4)) * 100).astype(name)
        for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "bool")
    }
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file(arrays, path)
    found = read_safetensors(path)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        got = found[name].numpy()
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)
        assert tuple(found[name].shape) == array.shape


def test_bfloat16_scalars_and_empty_tensors_come_back(tmp_path: Path) -> None:
    arrays = ARRAYS | {"half": np.array([[1.0, 3.140625]], ml_dtypes.bfloat16)}
    write_safetensors(tmp_path / "m", arrays)
    found = read_safetensors(tmp_path / "m")
    assert found["half"].dtype == ir.DataType.BFLOAT16
    assert {name: tensor.numpy().tolist() for name, tensor in found.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }


def test_metadata_is_no_tensor(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": ARRAYS["a"]}, tmp_path / "m", metadata={"format": "pt"})
    assert list(read_safetensors(tmp_path / "m")) == ["a"]


def test_a_tensor_is_read_on_access_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_safetensors(path, ARRAYS)
    tensor = read_safetensors(path)["a"]
    assert tensor.numpy() is not tensor.numpy()
    path.write_bytes(path.read_bytes())  # the same bytes, but another file as far as a reader can know
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        tensor.numpy()


def header() -> dict[str, Any]:
    return safetensors_header(ARRAYS)


DATA = b"".join(array.tobytes() for array in ARRAYS.values())


@st.composite
def damaged_headers(draw: st.DrawFn) -> bytes:
    """A good header with one field replaced by something else."""
    damaged = copy.deepcopy(header())
    name = draw(st.sampled_from(sorted(damaged)))
    field = draw(st.sampled_from(["dtype", "shape", "data_offsets", None]))
    junk = draw(
        st.one_of(
            st.none(),
            st.integers(-(2**70), 2**70),
            st.lists(st.one_of(st.integers(-(2**65), 2**65), st.floats(), st.none()), max_size=9),
            st.sampled_from(["F32", "F16", "F999", ""]),
            st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        )
    )
    if field is None:
        damaged[name] = junk
    else:
        damaged[name][field] = junk
    return safetensors_bytes(damaged, DATA)


def opens_or_refuses(path: Path, data: bytes) -> None:
    """Reading ends in tensors that can be read whole or in a CheckpointError; anything else fails the test."""
    path.write_bytes(data)
    try:
        found = read_safetensors(path)
    except CheckpointError as error:
        assert str(path) in str(error)
        return
    assert sum(tensor.numpy().nbytes for tensor in found.values()) <= len(data)


@FUZZ
@given(data=damaged_headers())
def test_a_damaged_header_opens_or_is_refused(tmp_path: Path, data: bytes) -> None:
    opens_or_refuses(tmp_path / "m", data)


@FUZZ
@given(cut=st.integers(0, len(safetensors_bytes(header(), DATA)) - 1), tail=st.binary(max_size=20))
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int, tail: bytes) -> None:
    whole = safetensors_bytes(header(), DATA)
    opens_or_refuses(tmp_path / "m", whole[:cut] + tail)
    (tmp_path / "m").write_bytes(whole[:cut])
    with pytest.raises(CheckpointError):
        read_safetensors(tmp_path / "m")


@FUZZ
@given(
    flips=st.lists(
        st.tuples(st.integers(0, len(safetensors_bytes(header(), DATA)) - 1), st.integers(0, 255)), max_size=6
    )
)
def test_flipped_bytes_open_or_are_refused(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray(safetensors_bytes(header(), DATA))
    for at, value in flips:
        data[at] = value
    opens_or_refuses(tmp_path / "m", bytes(data))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' + b"9" * 100_000 + b"}",
        b'{"a":1e999999}',
        json.dumps({"a": {}}).encode(),
    ],
    ids=["lists", "objects", "digits", "exponent", "empty entry"],
)
def test_hostile_json_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "m").write_bytes(safetensors_bytes(text, b""))
    with pytest.raises(CheckpointError):
        read_safetensors(tmp_path / "m")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [1] * 9}, "the shape is not a list of at most 8 whole numbers"),
        ({"shape": [-1]}, "the shape is not a list of at most 8 whole numbers"),
        ({"data_offsets": [0, 4.0]}, "data_offsets is not a pair of whole numbers"),
        ({"data_offsets": [0, 4, 4]}, "data_offsets is not a pair of whole numbers"),
        ({"data_offsets": [-4, 0]}, "the data lies outside the file .got bytes -4 to 0 of 4"),
        ({"data_offsets": [4, 0]}, "the data lies outside the file"),
        ({"data_offsets": [1, 5]}, "the data lies outside the file"),
    ],
)
def test_an_entry_of_the_header(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    header = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | entry}
    (tmp_path / "m").write_bytes(safetensors_bytes(json.dumps(header).encode(), bytes(4)))
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(tmp_path / "m")
