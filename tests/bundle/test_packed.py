"""A bundle as one file: what is written is what is read, whatever else a reader would find there is refused."""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from bundle.tiny_bundle import write_tiny

from ondevice import cli
from ondevice.bundle import Bundle, open_bundle, packed, packer
from ondevice.bundle.packer import pack_bundle
from ondevice.errors import BundleError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundle"


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return open_bundle(write_tiny(tmp_path / "tiny.ondevice"))


def message(action: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as refusal:
        action()
    return str(refusal.value)


def test_any_tool_unpacks_it_to_the_same_bundle(tiny: Bundle, tmp_path: Path) -> None:
    out = pack_bundle(tiny, tmp_path / "tiny.odpack")
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        archive.extractall(tmp_path / "out.ondevice")
    assert names == ["bundle.json", *sorted(tiny.manifest.files)]
    again = open_bundle(tmp_path / "out.ondevice", verify=True)
    assert again.manifest == tiny.manifest and pack_bundle(again, tmp_path / "b").read_bytes() == out.read_bytes()


def test_places_are_what_players_map(tiny: Bundle, tmp_path: Path) -> None:
    data = pack_bundle(tiny, tmp_path / "tiny.odpack").read_bytes()
    for name, place in packed.read_directory(data, "tiny.odpack").items():
        assert place.offset % (16_384 if name.startswith("weights/") else 64) == 0
        assert data[place.offset : place.offset + place.bytes] == tiny.files.read(name)


def test_weights_are_mapped_and_their_pages_can_go(tiny: Bundle, tmp_path: Path) -> None:
    bundle = open_bundle(pack_bundle(tiny, tmp_path / "tiny.odpack"))
    shard, _, _ = bundle.weight("picked")
    held = bundle.shard(shard)
    assert not held.flags.owndata and not held.flags.writeable and held.ctypes.data % 4096 == 0
    before = held.tobytes()
    bundle.unmap(shard)
    assert held.tobytes() == before == bundle.shard(shard).tobytes()


def test_sizes_and_places_of_many_gigabytes(tmp_path: Path) -> None:
    """A file with holes, as no disk of a test has room for: headers are where the writer puts them."""
    sizes = {"bundle.json": 7, "weights/a.bin": (1 << 32) - 1, "weights/b.bin": 512, "weights/c.bin": 1 << 33}
    ends, path = packer._layout(sizes), tmp_path / "holes"
    with path.open("wb") as file:
        for (name, size), start in zip(sizes.items(), [0, *ends[:-1]], strict=True):
            file.seek(start)
            file.write(packer._local(name, size, 5, start))
        file.seek(ends[-1])
        file.writelines(packer._directory(sizes, ends, [5] * 4))
    files = packed.Packed(path)
    assert {name: files.size(name) for name in sizes} == sizes
    assert [file.file_size for file in zipfile.ZipFile(path).infolist()] == list(sizes.values())
    assert files.map("weights/c.bin")[-1] == 0 and files.read("weights/b.bin") == bytes(512)


def test_random_damage_is_refused_or_harmless() -> None:
    """Whatever the bytes of headers are, places lie in the file and no two overlap."""
    chance = random.Random(0)
    refused = 0
    for name in ("tiny.odpack", "tiny_zip64.odpack"):
        data = (GOLDEN / name).read_bytes()
        heads = [place.offset for place in packed.read_directory(data, name).values()]
        begin = int.from_bytes(data[-6:-2], "little") if name == "tiny.odpack" else len(data) - 1600
        for _ in range(3000):
            changed = bytearray(data)
            for _ in range(chance.randint(1, 3)):
                head = chance.choice(heads) - chance.randrange(1, 90)
                at = chance.choice((max(head, 0), chance.randrange(begin, len(data))))
                changed[at] = chance.choice((0, 1, 0xFF, changed[at] ^ 1 << chance.randrange(8)))
            try:
                places = sorted(packed.read_directory(bytes(changed), name).values())
            except BundleError:
                refused += 1
                continue
            ends = [0, *(place.offset + place.bytes for place in places)]
            assert all(end <= place.offset for place, end in zip(places, ends, strict=False)) and ends[-1] <= len(data)
    assert refused > 3000


def test_what_is_at_the_target_is_not_lost(tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "a.odpack"
    assert message(lambda: pack_bundle(tiny, tmp_path / "none" / "a")) == (
        f"a: the folder {tmp_path / 'none'} does not exist. Fix: create it, or choose another with --out."
    )
    inside = tiny.path / "a.odpack"
    assert message(lambda: pack_bundle(tiny, inside)) == (
        f"{inside}: lies inside the bundle. Fix: choose another folder with --out."
    )
    for there in (tmp_path, tmp_path / "picture.png"):
        if not there.is_dir():
            there.write_bytes(b"\x89PNG")
        assert message(lambda there=there: pack_bundle(tiny, there, force=True)) == (
            f"{there}: is there already and is no packed bundle. Fix: choose another name with --out."
        )
    before = pack_bundle(tiny, out).read_bytes()
    assert message(lambda: pack_bundle(tiny, out)) == (
        f"{out}: is there already. Fix: choose another name with --out, or replace it with --force."
    )
    assert message(lambda: pack_bundle(open_bundle(out), tmp_path / "b")) == (
        f"{out}: is one file already. Fix: copy it as it is."
    )
    assert pack_bundle(tiny, out, force=True).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.odpack", "picture.png", "tiny.ondevice"]


def test_damage_is_not_passed_on(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = next(tiny.path.glob("weights/*"))
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    assert message(lambda: pack_bundle(tiny, tmp_path / "a")).startswith(
        "weights/tiny-000.bin: was changed: its sha256 is not the one in bundle.json."
    )
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    assert message(lambda: pack_bundle(tiny, tmp_path / "a")) == (
        f"{tmp_path}: the file does not fit on this disk (got 0 MB free, expected 1 MB). "
        "Fix: free 1 MB, or choose another folder with --out."
    )
    assert sorted(os.listdir(tmp_path)) == ["tiny.ondevice"]


def test_the_verb(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pack", str(tiny.path)]) == 0
    out = tmp_path / "tiny.odpack"
    assert capsys.readouterr().out == f"{out}\n" and open_bundle(out, verify=True).manifest == tiny.manifest
    assert cli.main(["pack", str(tiny.path)]) == BundleError.exit_code
    assert cli.main(["pack", str(tiny.path), "--force"]) == 0


def test_a_file_that_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.odpack"
    for data in (b"", b"PK", b"\x89PNG\r\n"):
        path.write_bytes(data)
        assert message(lambda: open_bundle(path)) == (
            f"{path}: is not a bundle (its first bytes are others). "
            "Fix: give a folder that `ondevice convert` wrote, or a file that `ondevice pack` wrote."
        )
    for error in (OSError("no memory"), ValueError("no memory")):
        monkeypatch.setattr(packed.mmap, "mmap", Mock(side_effect=error))
        assert message(lambda: open_bundle(GOLDEN / "tiny.odpack")) == (
            "tiny.odpack: cannot be mapped (no memory). "
            "Fix: copy the file again, or write it again with `ondevice pack`."
        )
