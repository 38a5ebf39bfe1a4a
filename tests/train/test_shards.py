"""WebDataset shards: which are named, what is read of them, and what is refused unless it is asked for."""

from __future__ import annotations

import functools
import http.server
import io
import itertools
import json
import random
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from ondevice.errors import UsageError
from ondevice.train import shards as module
from ondevice.train.part_files import Sample, Stream
from ondevice.train.shards import Shards


def shard(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(name: str | Path, shards: Shards | None = None) -> tuple[list[Sample], list[str]]:
    said: list[str] = []
    return list((shards or Shards()).samples_of(str(name), said.append)), said


FILES = {
    "a/1.jpg": b"one",
    "a/1.txt": b" a cat\n",
    "a/2.json": json.dumps({"caption": "a dog", "width": 5}).encode(),
    "a/2.png": b"two",
    "a/2.cls": b"7",
    "b/2.WEBP": b"three",
    "b/2.txt": "ein Bär".encode(),
}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2"])
def test_samples_in_their_order(tmp_path: Path, mode: str) -> None:
    samples, said = read(shard(tmp_path / "a.tar", FILES, mode))
    assert [(one.caption, one.picture) for one in samples] == [
        ("a cat", b"one"),
        ("a dog", b"two"),
        ("ein Bär", b"three"),
    ]
    assert samples[1].where == f"{tmp_path}/a.tar, a/2" and not said


def test_how_large_a_picture_was(tmp_path: Path) -> None:
    about: list[dict[str, object]] = [
        {"caption": "a", "original_width": 640, "original_height": 480},
        {"caption": "b", "original_width": 640},
        {"caption": "c", "original_width": 640.5, "original_height": True},
        {"caption": "d", "original_width": 1 << 20, "original_height": 0},
    ]
    files = {f"{number}.json": json.dumps(one).encode() for number, one in enumerate(about)}
    files |= {f"{number}.png": b"x" for number in range(4)} | {"4.txt": b"e", "4.json": b"[", "4.png": b"y"}
    samples, said = read(shard(tmp_path / "a.tar", dict(sorted(files.items()))))
    assert [(one.caption, one.whole) for one in samples] == [("a", (480, 640)), *((name, None) for name in "bcde")]
    assert not said


HOLES = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "2.txt", "GNU.sparse.realsize": "9"}


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE])
def test_names_are_bounded(tmp_path: Path, kind: bytes) -> None:
    """What a header says of the next one's name is read as a whole, and a few bytes unpack to any number."""
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data, of in (("1.png", b"one", tarfile.REGTYPE), ("1.txt", b"a", tarfile.REGTYPE),
                               ("long", b"x" * ((1 << 20) + 1), kind), ("2.png", b"two", tarfile.REGTYPE)):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), of
            tar.addfile(info, io.BytesIO(data))
    samples, said = read(path)
    assert not samples and said == [
        f"{path}: it cannot be read on after /1 (a name in it is longer than 1 MB); left out"
    ]


@pytest.mark.parametrize("holes", [HOLES, None])
def test_files_with_holes_are_not_read(tmp_path: Path, holes: dict[str, str] | None) -> None:
    """The list of which may be as long as it likes."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("2.txt")
        info.size, info.pax_headers = 1024, holes or {}
        info.type = tarfile.REGTYPE if holes else tarfile.GNUTYPE_SPARSE
        tar.addfile(info, io.BytesIO(b"1\n0\n9\n".ljust(1024, b"\0")))
    assert read(path) == (
        [],
        [f"{path}: it cannot be read on after its beginning (it has a file with holes); left out"],
    )


def test_what_is_no_sample_is_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 100)
    files = {
        "1.jpg": b"one",
        "2.txt": b"a caption",
        "3.jpg": b"x",
        "3.json": b"[]",
        "4.jpg": b"y" * 200,
        "4.txt": b"",
        "5.jpg": b"z",
        "5.txt": b"\xff",
        "noending": b"",
        "6.jpg": b"six",
        "6.txt": b"six",
    }
    samples, said = read(shard(tmp_path / "a.tar", files))
    assert [one.caption for one in samples] == ["six"]
    place = f"{tmp_path}/a.tar, "
    assert said == [
        f"{place}/1: it has no caption; left out",
        f"{place}/2: it has no picture; left out",
        f"{place}/3: it has no caption; left out",
        f"{place}4.jpg: it is larger than 0 MB; left out",
        f"{place}/4: it has no picture; left out",
        f"{place}/5: it has no caption; left out",
    ]


def test_damage_anywhere_is_left_out(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a.tar", FILES, "w:gz").read_bytes()
    draw = random.Random(2)
    for place in range(100):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / "b.tar").write_bytes(data if place % 2 else whole[: draw.randrange(len(whole))])
        assert len(read(tmp_path / "b.tar")[0]) <= 3
    assert "cannot be read on after its beginning" in read(tmp_path)[1][0]


def test_names(tmp_path: Path) -> None:
    for name in ("s-08", "s-09", "s-10", "t-a", "t-b"):
        shard(tmp_path / f"{name}.tar", FILES)
    pattern = f"{tmp_path}/s-{{08..10}}.tar::{tmp_path}/t-{{a,b}}.tar"
    found = Shards().named(pattern, "shards")
    assert [Path(one).stem for one in found] == ["s-08", "s-09", "s-10", "t-a", "t-b"]
    stream = Stream(found, 1, 2, 0, 1, print, Shards().samples_of)
    assert len({one.where for one in itertools.islice(stream, 6)}) == 6


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("gone-{0..1}.tar", "--shards: there is no file gone-0.tar."),
        ("pipe:cat a.tar", "--shards: the data is what a program writes (got pipe:cat a.tar). Fix: give --allow_pipes"),
        ("https://a/{0..3}.tar", "--shards: the data is at an address (got https://a/0.tar). Fix: give --allow_urls"),
        ("{0..999999999}", "--shards: it names no shards, or too many"),
        ("{0..999}{0..999}", "--shards: it names no shards, or too many"),
        ("{5..1}", "--shards: it names no shards, or too many"),
    ],
)
def test_names_that_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Shards().named(pattern, "shards")
    assert message in str(caught.value)


def test_programs_and_addresses_where_they_were_asked_for(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", FILES)
    shards = Shards(addresses=True, pipes=True)
    copy = tmp_path / "copy.py"
    copy.write_text("import pathlib, sys; sys.stdout.buffer.write(pathlib.Path(sys.argv[1]).read_bytes())")
    program = f"pipe:{sys.executable} {copy} {path}"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.tar"
        for name in shards.named(f"{program}::{address}", "shards"):
            samples, said = read(name, shards)
            assert len(samples) == 3 and not said
        assert "HTTP Error 404" in read(address.replace("a.tar", "b.tar"), shards)[1][0]
        server.shutdown()
    samples, said = read("pipe:exit 3", shards)
    assert not samples and "cannot be read on after its beginning" in said[0]


def test_names_that_no_shard_has() -> None:
    with pytest.raises(UsageError, match="there is no file x"):
        Shards().named("x" * 6000, "data")
    with pytest.raises(UsageError, match="it names no shards, or too many"):
        Shards().named("x" * 6000 + "{0..9999}", "data")
