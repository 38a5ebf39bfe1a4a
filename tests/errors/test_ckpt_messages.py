"""What is said of a .ckpt that torch did not write, or wrote with more than tensors in it."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import AGAIN, DIFFERENT, Op, ckpt_bytes, legacy_bytes, message

from ondevice.converters.read import ckpt_file, zip_directory
from ondevice.converters.read.ckpt_file import read_ckpt

STORAGE = Op.storage("FloatStorage", "0", 6)
FLOATS = [bytes(24)]


def state(value: bytes) -> bytes:
    return b"\x80\x02" + Op.dict([(Op.text("w"), value)]) + b"."


def view(offset: int, shape: list[int], stride: list[int], storage: bytes = STORAGE) -> bytes:
    return state(Op.tensor(storage, offset, shape, stride))


NAMED = "the pickle names 'os.system', which is no part of a tensor (byte {}). " + DIFFERENT


@pytest.mark.parametrize(
    ("data", "where", "what"),
    [
        (state(Op.named("os", "system") + b")R"), " data.pkl", NAMED.format(10)),
        (
            b"\x80\x02" + Op.text("os") + Op.text("system") + b"\x93.",
            " data.pkl",
            NAMED.format(20),
        ),
        (b"\x80\x02}(ios\nsystem\n.", " data.pkl", NAMED.format(4)),
        (b"\x80\x02\x82\x01.", " data.pkl", f"the opcode EXT1 makes more than tensors (byte 2). {DIFFERENT}"),
        (b"\x80\x02Pid\n.", " data.pkl", f"the opcode PERSID makes more than tensors (byte 2). {DIFFERENT}"),
        (
            b"\x80\x02"
            + Op.storage("FloatStorage", "0", 6).replace(
                b"tQ", Op.tuple(Op.text("0"), Op.number(1), Op.number(2)) + b"tQ"
            )
            + b".",
            " data.pkl",
            f"a persistent id is no torch storage (byte 67). {DIFFERENT}",
        ),
        (b"\x80\x02K\x01Q.", " data.pkl", f"a persistent id is no torch storage (byte 4). {DIFFERENT}"),
        (
            b"\x80\x02K\x01)R.",
            " data.pkl",
            f"the opcode REDUCE calls something that is no tensor maker (byte 5). {DIFFERENT}",
        ),
        (
            b"\x80\x02" + Op.named("torch", "FloatStorage") + b")R.",
            " data.pkl",
            f"the opcode REDUCE calls 'torch.FloatStorage', which makes no tensor (byte 23). {DIFFERENT}",
        ),
        (
            b"\x80\x02" + Op.named("torch._utils", "_rebuild_tensor_v2") + b")R.",
            " data.pkl",
            f"a tensor is made from arguments that describe none (byte 36). {DIFFERENT}",
        ),
        (
            b"\x80\x02" + Op.named("torch._utils", "_rebuild_parameter") + b")R.",
            " data.pkl",
            f"a parameter is made from something that is no tensor (byte 36). {DIFFERENT}",
        ),
        (
            b"\x80\x02" + Op.named("collections", "OrderedDict") + b"K\x01\x85R.",
            " data.pkl",
            f"an OrderedDict is made from arguments (byte 30). {DIFFERENT}",
        ),
        (
            b"\x80\x02]K\x01Ns.",
            " data.pkl",
            f"the opcode SETITEM does not fit what is on the stack (byte 6). {DIFFERENT}",
        ),
        (
            b"\x80\x02}K\x01\x85Ns.",
            "",
            "the file holds no named tensors. Fix: use a checkpoint that holds a state dict.",
        ),
        (b"\x80\x02h\x07.", " data.pkl", f"the pickle recalls a value before it was made (byte 2). {DIFFERENT}"),
        (b"\x80\x02R.", " data.pkl", f"the opcode REDUCE does not fit what is on the stack (byte 2). {DIFFERENT}"),
        (b"\x80\x02}}.", " data.pkl", f"the pickle ends with 2 values on a stack of 2 (expected one). {DIFFERENT}"),
        (
            b"}" * 1_000_001 + b".",
            " data.pkl",
            f"the pickle makes more than 1,000,000 values (byte 1000000). {DIFFERENT}",
        ),
        (b"\x80\x02}", " data.pkl", f"the pickle is damaged (pickle exhausted before seeing STOP). {DIFFERENT}"),
        (b"\x80\x02}.", "", "the file holds no named tensors. Fix: use a checkpoint that holds a state dict."),
        (
            view(0, [1], [1], Op.storage("FloatStorage", "5", 6)),
            " tensor w",
            f"its storage data/5 is not in the archive. {AGAIN}",
        ),
        (
            view(0, [1], [1], Op.storage("DoubleStorage", "0", 6)),
            " tensor w",
            f"its storage does not fit 6 numbers of F64 (got 24 bytes, expected 48). {AGAIN}",
        ),
        (
            view(0, [2], [1], Op.storage("QInt8Storage", "0", 2)),
            " tensor w",
            f"it is made by torch._utils._rebuild_tensor_v2, which is no plain torch tensor. {DIFFERENT}",
        ),
        (
            b"\x80\x02"
            + Op.named("my.models", "Unet")
            + b")\x81"
            + Op.dict([(Op.text("depth"), Op.number(4))])
            + b"b.",
            "",
            "the file holds a whole object (my.models.Unet), not named tensors."
            " Fix: load it where its class is installed, and save its state_dict().",
        ),
        (
            view(0, [1] * 9, [1] * 9),
            " tensor w",
            "it reaches outside its storage (got shape [1, 1, 1, 1, 1, 1, 1, 1, ...], strides [1, 1, 1, 1, "
            "1, 1, 1, 1, ...], offset 0;"
            f" expected at most 6 numbers). {AGAIN}",
        ),
        (
            view(1, [2, 3], [3, 1]),
            " tensor w",
            "it reaches outside its storage (got shape [2, 3], strides [3, 1], offset 1; expected at most 6 numbers). "
            + AGAIN,
        ),
        (
            view(0, [100, 100], [0, 0]),
            " tensor w",
            "it reaches outside its storage (got shape [100, 100], strides [0, 0], offset 0; "
            "expected at most 6 numbers). " + AGAIN,
        ),
    ],
)
def test_pickles(tmp_path: Path, data: bytes, where: str, what: str) -> None:
    path = tmp_path / "m.ckpt"
    path.write_bytes(ckpt_bytes(data, FLOATS))
    assert message(lambda: read_ckpt(path)) == f"{path}{where}: {what}"


def test_archives_that_torch_did_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.ckpt"

    def refused(data: bytes) -> str:
        path.write_bytes(data)
        return message(lambda: read_ckpt(path)).removeprefix(f"{path}: ")

    good = view(0, [6], [1])
    assert refused(b"weights") == f"this is neither a .safetensors file nor one that torch.save wrote. {DIFFERENT}"
    whole = ckpt_bytes(good, FLOATS)
    assert refused(whole.replace(b"little", b"biggie")) == f"the file is not little-endian. {DIFFERENT}"
    assert refused(whole.replace(b"data.pkl", b"date.pkl")) == (
        "this is a zip archive of other files (such as 'archive/date.pkl'), not one of torch.save."
        " Fix: unpack it, and give the weight file or the folder that is in it."
    )
    two = ckpt_bytes(good, FLOATS, extra={"archive/more/data.pkl": b""})
    assert refused(two) == f"the archive is not one of torch.save (it has 2 entries data.pkl). {DIFFERENT}"
    script = ckpt_bytes(good, FLOATS, extra={"archive/constants.pkl": b""})
    assert refused(script) == "this is a TorchScript program, not weights. Fix: use the weights that it was made from."
    monkeypatch.setattr(ckpt_file, "PICKLE_LIMIT", 10)
    assert refused(whole) == f"data.pkl is too large (got {len(good)} bytes, expected at most 10). {DIFFERENT}"


def damaged_archives() -> dict[str, tuple[bytes, str]]:
    """{case: (file, what is said of it)}"""
    whole = ckpt_bytes(view(0, [6], [1]), FLOATS)
    end = whole.rfind(b"PK\x05\x06")
    central = whole.find(b"PK\x01\x02")
    first = "archive/data.pkl"

    def patched(at: int, form: str, *numbers: int) -> bytes:
        damaged = bytearray(whole)
        struct.pack_into(form, damaged, at, *numbers)
        return bytes(damaged)

    count = whole.count(b"PK\x01\x02")
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, 1 << 60, 1)
    size = end - central

    def with_end64(count: int) -> bytes:
        record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, central)
        return whole[:end] + record + struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1) + whole[end:]

    return {
        "no end": (whole[:end], "it has no end record; the file is cut short"),
        "half an end": (whole[: end + 10], "it has no end record; the file is cut short"),
        "parts": (patched(end + 4, "<H", 1), "it is one part of several"),
        "its first part": (patched(end + 6, "<H", 1), "it is one part of several"),
        "too many": (
            with_end64(1 << 40),
            f"its directory is too large (got 1,099,511,627,776 entries in {size:,} bytes)",
        ),
        "many": (
            patched(end + 12, "<I", 1 << 30),
            f"its directory is too large (got {count} entries in 1,073,741,824 bytes)",
        ),
        "far": (patched(end + 16, "<I", 1 << 30), "its directory lies outside the file"),
        "fewer": (patched(end + 10, "<H", count - 1), "its directory holds more than its entries"),
        "more": (patched(end + 10, "<H", count + 1), "its directory is cut short"),
        "name": (patched(central + 28, "<H", 60_000), "its directory is cut short"),
        "comment": (patched(whole.rfind(b"PK\x01\x02") + 32, "<H", 9), "its directory is cut short"),
        "method": (
            patched(central + 10, "<H", 8),
            f"the entry '{first}' is compressed or encrypted, which torch.save never does",
        ),
        "packed": (
            patched(central + 20, "<I", 5),
            f"the entry '{first}' is compressed or encrypted, which torch.save never does",
        ),
        "magic": (patched(central, "<I", 0), "its directory holds something that is no entry"),
        "deflated": (
            ckpt_bytes(bytes(99), [], compression=zipfile.ZIP_DEFLATED),
            f"the entry '{first}' is compressed or encrypted, which torch.save never does",
        ),
        "encrypted": (
            patched(central + 8, "<H", 1),
            f"the entry '{first}' is compressed or encrypted, which torch.save never does",
        ),
        "header outside": (patched(central + 42, "<I", 1 << 30), f"the entry '{first}' lies outside the file"),
        "header elsewhere": (patched(central + 42, "<I", 3), f"the entry '{first}' is not where the directory says"),
        "data outside": (patched(central + 20, "<2I", 1 << 30, 1 << 30), f"the entry '{first}' lies outside the file"),
        "overlap": (patched(central + 20, "<2I", 250, 250), f"the entries '{first}' and 'archive/byteorder' overlap"),
        "zip64 missing": (
            patched(central + 20, "<I", 0xFFFFFFFF),
            "a size is over 4 GiB and its zip64 field is missing",
        ),
        "zip64 outside": (whole[:end] + locator + whole[end:], "its zip64 end record lies outside the file"),
        "zip64 elsewhere": (
            whole[:end] + struct.pack("<4sIQI", b"PK\x06\x07", 0, 0, 1) + whole[end:],
            "its zip64 end record is not where it should be",
        ),
    }


@pytest.mark.parametrize("case", sorted(damaged_archives()))
def test_damaged_archives(tmp_path: Path, case: str) -> None:
    data, what = damaged_archives()[case]
    path = tmp_path / "m.ckpt"
    path.write_bytes(data)
    assert message(lambda: read_ckpt(path)) == f"{path}: the zip archive is damaged: {what}. {AGAIN}"


def test_an_entry_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    path.write_bytes(ckpt_bytes(view(0, [6], [1]), FLOATS * 2).replace(b"archive/data/1", b"archive/data/0"))
    assert (
        message(lambda: read_ckpt(path))
        == f"{path}: the zip archive is damaged: the entry 'archive/data/0' is there twice. {AGAIN}"
    )
    assert zip_directory.ENTRY_LIMIT > 10_000


OLD = legacy_bytes({"a": np.arange(4, dtype=np.float32)})
ENDIAN = Op.text("little_endian") + b"\x88"
FACTS = b"\x80\x02}(" + Op.text("protocol_version")
KEYS = b"\x80\x02](" + Op.text("0") + b"e."
SHORT, NO_LIST = "it is cut short", "the list of storages does not fit the value"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (OLD[:-1], f"the file ends inside the storage 0; {SHORT}"),
        (OLD[:-16], f"the file ends inside the storage 0; {SHORT}"),
        (OLD[:-17], f"the file ends before the storage 0; {SHORT}"),
        (OLD[:-24], f"the file ends before the storage 0; {SHORT}"),
        (
            OLD[:-24] + (5).to_bytes(8, "little") + OLD[-16:],
            "the storage 0 is not as long as its tensors say (got 5, expected 4)",
        ),
        (
            OLD[:-24] + (-1).to_bytes(8, "little", signed=True),
            "the storage 0 is not as long as its tensors say (got -1, expected 4)",
        ),
        (OLD.replace(ENDIAN, ENDIAN[:-1] + b"\x89"), "the file is not little-endian"),
        (OLD.replace(ENDIAN, ENDIAN[:-1] + b"K\x01"), "the file is not little-endian"),
        (OLD.replace(ENDIAN, Op.text("big_endian") + b"\x88"), "the file is not little-endian"),
        (OLD.replace(FACTS, b"\x80\x02N." + FACTS), "the file is not little-endian"),
        (OLD.replace(Op.number(1001), Op.number(1002)), "its second pickle is not the number 1001, torch's protocol"),
        (OLD.replace(KEYS, KEYS.replace(Op.text("0"), Op.text("1"))), NO_LIST),
        (OLD.replace(KEYS, KEYS.replace(Op.text("0"), b"K\x00")), NO_LIST),
        (OLD.replace(KEYS, b"\x80\x02" + Op.text("0") + b"."), NO_LIST),
    ],
)
def test_damaged_files_of_old_torch(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "m.ckpt"
    path.write_bytes(data)
    assert data != OLD
    assert message(lambda: read_ckpt(path)) == (
        f"{path}: this torch file of before 1.6 cannot be read: {what}."
        " Fix: download the file again, or use a .safetensors file of the same model."
    )
