"""The .ckpt reader: torch.save's tensors come back, and nothing in a file can run, hang or fill the memory."""

from __future__ import annotations

import contextlib
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from checkpoint_files import Op, ckpt_bytes, legacy_bytes, pickled_dict, pickled_state, write_ckpt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ondevice.converters.read.ckpt_file import read_ckpt
from ondevice.converters.read.inert_pickle import follow
from ondevice.converters.read.inert_values import PickleRefused
from ondevice.converters.read.state_dict import find_state
from ondevice.errors import CheckpointError

FUZZ = settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2], np.float16),
    "c": np.array([1, 3.140625], ml_dtypes.bfloat16),
    "ids": np.arange(4),
    "scalar": np.array(2.0),
}
STORED = [array.tobytes() for array in ARRAYS.values()]


def values(path: Path) -> dict[str, Any]:
    return {name: tensor.numpy().tolist() for name, tensor in read_ckpt(path).tensors.items()}


def plain() -> dict[str, Any]:
    return {name: array.tolist() for name, array in ARRAYS.items()}


def test_a_state_dict_comes_back(tmp_path: Path) -> None:
    write_ckpt(tmp_path / "m.ckpt", ARRAYS)
    assert values(tmp_path / "m.ckpt") == plain()
    assert read_ckpt(tmp_path / "m.ckpt").tensors["c"].dtype == ir.DataType.BFLOAT16


def test_a_training_checkpoint_gives_its_state_dict_and_says_what_it_left_out(tmp_path: Path) -> None:
    """As pytorch_lightning writes them: the callback's class is a key, its best score a NumPy scalar."""
    callback = Op.named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    scalar = Op.named("numpy.core.multiarray", "scalar") + Op.tuple(Op.text("f8"), Op.text("....")) + b"R"
    body = Op.dict(
        [
            (Op.text("epoch"), Op.number(7)),
            (Op.text("state_dict"), pickled_dict(ARRAYS)),
            (Op.text("callbacks"), Op.dict([(callback, Op.dict([(Op.text("best"), scalar)]))])),
            (Op.text("optimizer_states"), b"]"),
        ]
    )
    (tmp_path / "m").write_bytes(ckpt_bytes(b"\x80\x02" + body + b".", STORED))
    assert values(tmp_path / "m") == plain()
    assert read_ckpt(tmp_path / "m").notes == (
        "entries that are no tensors were ignored: epoch, callbacks, optimizer_states",
    )


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [((3, 2), (1, 3), 0), ((2,), (3,), 1), ((2, 1, 2), (2, 9, 1), 2), ((), (), 5), ((0, 3), (3, 1), 6)],
)
def test_strides_offsets_and_shared_storages(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    data = np.arange(6, dtype=np.float32)
    storage = Op.storage("FloatStorage", "0", 6)
    body = Op.dict(
        [
            (Op.text("view"), Op.tensor(storage, offset, shape, stride)),
            (Op.text("all"), Op.tensor(storage, 0, (6,), (1,))),
        ]
    )
    (tmp_path / "m").write_bytes(ckpt_bytes(b"\x80\x02" + body + b".", [data.tobytes()]))
    found = read_ckpt(tmp_path / "m").tensors
    expected = np.lib.stride_tricks.as_strided(
        data[offset:] if shape != (0, 3) else data, shape, [4 * step for step in stride]
    )
    np.testing.assert_array_equal(found["view"].numpy(), expected)
    np.testing.assert_array_equal(found["all"].numpy(), data)


EVIL = {
    "os.system": Op.named("os", "system") + Op.tuple(Op.text("touch {mark}")) + b"R",
    "posix.system": Op.named("posix", "system") + Op.tuple(Op.text("touch {mark}")) + b"R",
    "builtins.eval": Op.named("builtins", "eval") + Op.tuple(Op.text("open('{mark}', 'w')")) + b"R",
    "stack global": Op.text("os") + Op.text("system") + b"\x93" + Op.tuple(Op.text("touch {mark}")) + b"R",
    "inst": b"(" + Op.text("touch {mark}") + b"ios\nsystem\n",
    "obj": b"(" + Op.named("os", "system") + Op.text("touch {mark}") + b"o",
    "newobj_ex": Op.named("collections", "OrderedDict") + b")}\x92",
    "extension": b"\x82\x01",
    "persid": b"Pwhatever\n",
    "reduce a string": Op.text("x") + b")R",
    "call a storage": Op.named("torch", "FloatStorage") + b")R",
    "bytearray": b"\x96" + struct.pack("<Q", 1) + b"x",
}


@pytest.mark.parametrize("evil", sorted(EVIL))
def test_nothing_runs(tmp_path: Path, evil: str) -> None:
    mark = tmp_path / "ran"
    text = str(mark)
    body = EVIL[evil]
    if b"{mark}" in body:  # patch the length too
        old = next(part for part in (b"touch {mark}", b"open('{mark}', 'w')") if part in body)
        new = old.replace(b"{mark}", text.encode())
        body = body.replace(struct.pack("<I", len(old)) + old, struct.pack("<I", len(new)) + new)
    (tmp_path / "m").write_bytes(ckpt_bytes(b"\x80\x02" + Op.dict([(Op.text("a"), body)]) + b".", []))
    with pytest.raises(CheckpointError):
        read_ckpt(tmp_path / "m")
    assert not mark.exists()
    assert os.path.exists(tmp_path)


BOMBS = {
    "a dictionary per byte": b"}" * (8 << 20) + b".",
    "a long string": b"X\xff\xff\xff\x7fabc.",
    "a longer string": b"\x8d" + b"\xff" * 8 + b"abc.",
    "a long number": b"\x8b\xff\xff\xff\x7f1.",
    "a negative length": b"\x8b\xff\xff\xff\xff1.",
    "a number of many digits": b"I" + b"9" * 100_000 + b"\n.",
    "a number as a key": b"}\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000 + b"Ns.",
    "a tuple of tuples as a key": b"}(K\x01t" + b"q\x00h\x00\x86" * 60 + b"Ns.",
    "deep tuples": b")" + b"\x85" * 500_000 + b".",
    "deep lists": b"]" * 300_000 + b"a" * 299_999 + b".",
    "marks": b"(" * 1_000_000 + b".",
    "colliding keys": b"}(" + b"".join(Op.number(i * (2**61 - 1)) + b"N" for i in range(50_000)) + b"u.",
    "no end": b"}",
    "nothing": b"",
    "only an end": b".",
    "an unknown opcode": b"\xf0.",
    "a huge memo index": b"}r\xff\xff\xff\xffj\xff\xff\xff\xfe.",
    "a list into itself": b"]q\x00h\x00a.",
}


@pytest.mark.parametrize("bomb", sorted(BOMBS))
@pytest.mark.timeout(20)
def test_bombs_are_refused_or_harmless(tmp_path: Path, bomb: str) -> None:
    (tmp_path / "m").write_bytes(ckpt_bytes(BOMBS[bomb], []))
    with pytest.raises(CheckpointError):
        read_ckpt(tmp_path / "m")


def test_tensors_outside_a_state_dict_are_found_once() -> None:
    """By their first path, in a list that holds itself, too."""
    tensor = Op.tensor(Op.storage("FloatStorage", "0", 6), 0, (2,), (1,))
    value = follow(b"\x80\x02}(" + Op.text("x") + b"]q\x00(" + tensor + b"h\x00e" + Op.text("y") + b"h\x00u.").value
    assert list(find_state(value, averaged=False).tensors) == ["x.0"]


def test_a_bomb_fills_no_memory() -> None:
    """One byte a dictionary: 32 MB of them would take 2 GB."""
    tracemalloc.start()
    try:
        with pytest.raises(PickleRefused):
            follow(b"}" * (4 << 20) + b".")
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_a_zip_bomb_is_never_inflated(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(ckpt_bytes(b"\0" * (200 << 20), [], compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="compressed or encrypted"):
        read_ckpt(tmp_path / "m")


def opens_or_refuses(path: Path, data: bytes) -> None:
    """Reading ends in tensors that can be read whole or in a CheckpointError; anything else fails the test."""
    path.write_bytes(data)
    try:
        found = read_ckpt(path).tensors
    except CheckpointError as error:
        assert str(path) in str(error)
        return
    assert all(tensor.numpy().nbytes <= len(data) for tensor in found.values())


ARCHIVE = ckpt_bytes(pickled_state(ARRAYS), STORED)
PICKLE = pickled_state(ARRAYS)
OLD = legacy_bytes(ARRAYS)


@FUZZ
@given(flips=st.lists(st.tuples(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes_open_or_are_refused(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray(ARCHIVE)
    for at, value in flips:
        data[at] = value
    opens_or_refuses(tmp_path / "m", bytes(data))


@FUZZ
@given(
    flips=st.lists(st.tuples(st.integers(0, len(OLD) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 40),
)
def test_flipped_bytes_of_an_old_file_open_or_are_refused(
    tmp_path: Path, flips: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(OLD)
    for at, value in flips:
        data[at] = value
    opens_or_refuses(tmp_path / "m", bytes(data[: len(data) - cut]))


@FUZZ
@given(start=st.integers(0, len(PICKLE)), length=st.integers(0, 12), junk=st.binary(max_size=12))
def test_damaged_pickles_open_or_are_refused(tmp_path: Path, start: int, length: int, junk: bytes) -> None:
    opens_or_refuses(tmp_path / "m", ckpt_bytes(PICKLE[:start] + junk + PICKLE[start + length :], STORED))


@FUZZ
@given(cut=st.integers(0, len(ARCHIVE) - 1))
def test_a_truncated_archive_is_refused(tmp_path: Path, cut: int) -> None:
    (tmp_path / "m").write_bytes(ARCHIVE[:cut])
    with pytest.raises(CheckpointError):
        read_ckpt(tmp_path / "m")


PIECES = [
    b"(", b")", b"}", b"]", b"N", b"\x85", b"\x86", b"\x87", b"t", b"u", b"s", b"a", b"e", b"R", b"Q", b"q\x00",
    b"h\x00", b"0", b"b",
]  # fmt: skip
PIECES += [
    b"\x94",
    b"\x88",
    b"K\x01",
    b"l",
    b"d",
    b"\x81",
    b"\x93",
    b"2",
    Op.text("a"),
    Op.named("torch._utils", "_rebuild_tensor_v2"),
]
PIECES += [
    b"\x8f",
    b"\x90",
    b"\x91",
    b"1",
    b"o",
    b"\x92",
    b"imy.tools\nThing\n",
    Op.text("state_dict"),
    Op.text("ema"),
    Op.named("my.tools", "Thing"),
]
PIECES += [
    Op.storage("FloatStorage", "0", 6),
    Op.named("collections", "OrderedDict"),
    Op.named("torch._utils", "_rebuild_parameter"),
]


@FUZZ
@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
def test_any_order_of_opcodes_is_followed_or_refused(data: bytes) -> None:
    with contextlib.suppress(PickleRefused):
        find_state(follow(b"\x80\x02" + data + b".").value, averaged=False)


@pytest.mark.parity
def test_what_torch_saves_comes_back(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    state = {
        "float": base,
        "half": base.half(),
        "bfloat": base.bfloat16(),
        "double": base.double(),
        "long": torch.arange(5),
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "parameter": torch.nn.Parameter(base * 2),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
    }
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    saved = {"state_dict": {**state, **module.state_dict()}, "epoch": 3}
    torch.save(saved, tmp_path / "m.ckpt")
    found = read_ckpt(tmp_path / "m.ckpt").tensors
    assert set(found) == set(saved["state_dict"])
    for name, tensor in saved["state_dict"].items():
        expected = tensor.detach().float().numpy() if tensor.dtype == torch.bfloat16 else tensor.detach().numpy()
        np.testing.assert_array_equal(found[name].numpy().astype(expected.dtype), expected)
    torch.save(module.state_dict(), tmp_path / "plain.bin")
    assert set(read_ckpt(tmp_path / "plain.bin").tensors) == set(module.state_dict())
    torch.save(saved, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    old = read_ckpt(tmp_path / "old.ckpt").tensors
    assert set(old) == set(found)
    for name in found:
        np.testing.assert_array_equal(old[name].numpy(), found[name].numpy())
