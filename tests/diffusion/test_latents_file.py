"""Latents from a .npy file: every word of its header is checked before anything of its size is read."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.diffusion import latents_file
from ondevice.diffusion.latents_file import read_latents
from ondevice.errors import UsageError

VALUES = np.random.default_rng(0).standard_normal((1, 4, 3, 2)).astype(np.float32)


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def npy(header: str, data: bytes = bytes(96), version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2 if version[0] == 1 else 4, "little") + header.encode() + data


def header(descr: str = "'<f4'", fortran: str = "False", shape: str = "(1, 4, 3, 2)", more: str = "") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, {more}}}\n"


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f2", "<f8", ">f8"])
def test_floats_of_any_width_order_and_version(dtype: str, tmp_path: Path) -> None:
    for version in ((1, 0), (2, 0), (3, 0)):
        for order in ("C", "F"):
            array = np.asarray(VALUES.astype(dtype), order=order)
            (tmp_path / "a.npy").write_bytes(saved(array, version) + b"and more")
            got = read_latents(tmp_path / "a.npy")
            assert got.shape == VALUES.shape and np.array_equal(got, array)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        # its items have no size, which numpy divides by
        (npy(header("'|V0'")), "it holds '|V0' (expected floats: '<f4')"),
        (npy(header("'<f0'")), "it holds '<f0'"),
        (npy(header("'<i8'")), "it holds '<i8'"),
        (npy(header("'|O'"), pickle.dumps([1])), "it holds '|O'"),
        (npy(header("[('a', '<f4')]")), "it holds \"[('a', '<f4')]\""),
        (npy(header("4")), "it holds '4'"),
        (npy(header(fortran="1")), "its header is damaged (fortran_order is neither True nor False"),
        (npy(header(shape="[1, 4, 3, 2]")), "its shape is [1, 4, 3, 2]"),
        (npy(header(shape="(1, True)")), "its shape is (1, True)"),
        (npy(header(shape="(-1, 24)")), "its shape is (-1, 24)"),
        (npy(header(shape="(1.0,)")), "its shape is (1.0,)"),
        (npy(header(shape=f"(0, {'9' * 4000})")), "its shape is (0, 9999"),
        (
            npy(header(shape="(1, 1, 1, 1, 1, 1, 1, 1, 24)")),
            "its shape is (1, 1, 1, 1, 1, 1, 1, 1, 24) (expected at most 8 whole",
        ),
        (
            npy(header(shape="(9999, 9999, 9999)")),
            "it is cut (its header says [9999, 9999, 9999] of float32, 96 bytes follow)",
        ),
        (npy(header(), bytes(95)), "it is cut (its header says [1, 4, 3, 2] of float32, 95 bytes follow)"),
        (npy(header(more="'x': 1")), "its header is damaged (expected descr, fortran_order and shape)"),
        (npy("[1, 2]"), "its header is damaged"),
        (npy("{'descr': '<f4'"), "its header is damaged"),
        (npy("(" * 4000), "its header is damaged"),
        (npy("-" * 4000 + "1"), "its header is damaged"),
        (npy("{[]: 1}"), "its header is damaged"),
        (npy("{'a\0': 1}"), "its header is damaged"),
        (npy(f"{{'shape': {'9' * 4080}}}"), "its header is damaged"),
        (npy("__import__('os')"), "its header is damaged"),
        (npy(" " * 5000), "its header is too long (got 5000 bytes, expected at most 4096)"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "its header is too long (got 4294967295 bytes"),
        (b"\x93NUMPY\x04\x00\x00\x00", "its format is 4.0 (expected 1.0, 2.0 or 3.0)"),
        (b"\x93NUMPY", "its format is missing"),
        (b"\x93NUMPY\x01\x00", "its header is damaged"),
        (b"", "it is not a .npy file"),
        (b"some text", "it is not a .npy file"),
        (pickle.dumps(VALUES), "it is a pickle, and pickles are programs"),
        (b"PK\x03\x04" + bytes(60), "it holds several arrays, or objects of torch"),
    ],
)  # fmt: skip
def test_other_files_are_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_latents(tmp_path / "a.npy")
    said = str(caught.value)
    assert f"a.npy: no array can be read: {words}" in said and "numpy.save" in said and len(said) <= 500, said


def test_what_is_no_file_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.npy").write_bytes(saved(VALUES))
    monkeypatch.setattr(latents_file, "LATENTS_LIMIT", 100)
    for name, words in (
        ("none.npy", "no such file"),
        ("", "a folder, a pipe or a device, not a file"),
        ("pipe", "a folder, a pipe or a device, not a file"),
        ("a.npy", "224 bytes, at most 100 are read"),
        ("a.npy/x", "Not a directory"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(UsageError, match=f"no array can be read: {words}"):
            read_latents(tmp_path / name)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_files_give_floats_or_our_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = bytearray(saved(VALUES))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 127))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.text("09(',-\0", max_size=1)).encode()
    path = tmp_path_factory.mktemp("damaged") / "a.npy"
    path.write_bytes(bytes(whole))
    with contextlib.suppress(UsageError):
        assert read_latents(path).dtype.kind == "f"
