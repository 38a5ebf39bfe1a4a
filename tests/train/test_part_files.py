"""Part files as PaddleMIX's recipes have them: what is read of them, in which order, and what is left out."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from ondevice import cli
from ondevice.errors import UsageError
from ondevice.train import part_files
from ondevice.train.part_files import Sample, Stream, parts_of, samples_of
from ondevice.train.part_writer import Asked, write_parts


def line(number: int, picture: bytes = b"") -> bytes:
    return f"caption {number}\t_\t".encode() + base64.b64encode(picture or b"picture %d" % number) + b"\n"


def part(path: Path, lines: Iterable[bytes]) -> Path:
    data = b"".join(lines)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path) -> tuple[list[Sample], list[str]]:
    said: list[str] = []
    return list(samples_of(path, said.append)), said


@pytest.mark.parametrize("name", ["part-1", "part-1.gz"])
def test_samples_in_their_order(tmp_path: Path, name: str) -> None:
    path = part(tmp_path / name, [line(0), line(1), b"two\t\tQQ==\textra\r\n", "drei \u00fc\t\tQUI=".encode()])
    samples, said = read(path)
    assert [(one.caption, one.picture) for one in samples] == [
        ("caption 0", b"picture 0"),
        ("caption 1", b"picture 1"),
        ("two", b"A"),
        ("drei \u00fc", b"AB"),
    ]
    assert samples[2].where == f"{path}, line 3" and not said


@pytest.mark.parametrize(
    "bad, why",
    [
        (b"no columns\n", "the line has 1 of 3 columns"),
        (b"\n", "the line has 1 of 3 columns"),
        (b"a\t\t\n", "its picture is empty"),
        (b"a\t\tQQQ\n", "its picture is no base64 (Incorrect padding)"),
        (b"\xff\t\tQQ==\n", "its caption is no UTF-8"),
        (b"a\t\t" + b"Q" * 5000 + b"\n", "the line is longer than 0 MB"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: bytes, why: str
) -> None:
    monkeypatch.setattr(part_files, "LONGEST", 1000)
    path = part(tmp_path / "a", [line(0), bad, line(1)])
    samples, said = read(path)
    assert [one.caption for one in samples] == ["caption 0", "caption 1"]
    assert said == [f"{path}, line 2: {why}; left out"]


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    path = part(tmp_path / "a", [b"bad\n"] * 50 + [line(0)])
    samples, said = read(path)
    assert len(samples) == 1 and len(said) == 4 and said[-1] == f"{path}: 47 more of its lines left out"


def test_a_part_that_ends_too_early_gives_what_it_has(tmp_path: Path) -> None:
    draw = random.Random(0)
    path = part(tmp_path / "a.gz", [line(i, draw.randbytes(300)) for i in range(500)])
    path.write_bytes(path.read_bytes()[:-3000])
    samples, said = read(path)
    assert 400 < len(samples) < 500 and len(said) == 1
    assert f"it cannot be read from line {len(samples) + 1} on (Compressed file ended" in said[0]


@pytest.mark.parametrize("data", [b"", b"no gzip", b"\x1f\x8b\x08\x00garbage and more of it"])
def test_what_is_no_gzip_is_left_out(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(data)
    samples, said = read(path)
    assert not samples and len(said) == bool(data)


def test_damage_anywhere_is_left_out(tmp_path: Path) -> None:
    """Any byte of a gzipped part changed: some of its samples, or none, and no other error."""
    whole = part(tmp_path / "a.gz", [line(i) for i in range(40)]).read_bytes()
    draw = random.Random(1)
    for _ in range(60):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / "b.gz").write_bytes(data)
        assert len(read(tmp_path / "b.gz")[0]) <= 40


def test_lists_and_lists_of_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    a, b = (part(inside / name, [line(0)]) for name in ("part-1", "part-2.gz"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(tmp_path)
    (inside / "x.filelist").write_text(f"part-1\n\n{b}\ninside/part-1\n")
    (here / "y.filelist.list").write_text(f"{inside}/x.filelist\ninside/x.filelist\n")
    assert [path.resolve() for path in parts_of(here / "y.filelist.list")] == [a, b, a] * 2
    assert parts_of(a) == [a]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("x.filelist", "gone\n", "x.filelist, line 1: there is no file gone, neither here nor beside the list. Fix: "),
        ("x.filelist", "\n\n", "x.filelist: it names no part file. Fix: name one a line."),
        ("x.filelist.list", "part\n", "a list of lists names files that end in .filelist (got part)"),
        ("x.filelist", "other.filelist\n", "let its name end in .filelist.list."),
        ("x.filelist", "a" * 70_000, "x.filelist, line 1: it is no path."),
        ("x.filelist", b"\xff\xfe\n", "x.filelist, line 1: it is no text of UTF-8."),
        ("gone", None, "there is no such file."),
        ("gone.filelist", None, "it cannot be read (No such file or directory)."),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, name: str, text: str | bytes | None, message: str) -> None:
    part(tmp_path / "part", [line(0)])
    (tmp_path / "other.filelist").write_text("part\n")
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        parts_of(tmp_path / name)
    assert message in str(caught.value)


def test_every_sample_is_read_once_a_pass_by_one_reader(tmp_path: Path) -> None:
    parts = [part(tmp_path / f"part-{i}", [line(10 * i + j) for j in range(10)]) for i in range(7)]
    seen: Counter[str] = Counter()
    for reader in range(3):
        own = 10 * len(parts[reader::3])
        stream = Stream(parts, reader, 3, seed=5)
        passes = [one.caption for one in itertools.islice(stream, 2 * own)]
        assert sorted(passes[:own]) == sorted(passes[own:])
        seen.update(passes[:own])
    assert set(seen.values()) == {1} and len(seen) == 70


def test_the_order_is_the_seeds(tmp_path: Path) -> None:
    parts = [part(tmp_path / f"part-{i}", [line(10 * i + j) for j in range(10)]) for i in range(4)]

    def first(seed: int, buffer: int) -> list[str]:
        return [one.caption for one in itertools.islice(Stream(parts, seed=seed, buffer=buffer), 40)]

    assert first(1, 16) == first(1, 16) != first(2, 16)
    plain = first(1, 1)
    assert sorted(plain) == sorted(f"caption {i}" for i in range(40))
    assert plain[:10] == sorted(plain[:10], key=lambda text: int(text.split()[1])), "in the order of a part"
    assert sum(a != b for a, b in zip(plain, first(1, 16), strict=True)) > 30


def test_fewer_parts_than_readers_are_refused(tmp_path: Path) -> None:
    parts = [part(tmp_path / f"part-{i}", [line(i)]) for i in range(3)]
    with pytest.raises(UsageError) as caught:
        Stream(parts, 0, 4)
    assert str(caught.value) == (
        "--file_list: there are fewer part files than readers (got 3, expected 4 or more). Fix: split the data into "
        "more parts, or start fewer processes and --dataloader_num_workers."
    )


def test_parts_without_a_sample_end_in_an_error_and_no_hang(tmp_path: Path) -> None:
    parts = [part(tmp_path / "a", [b"bad\n"]), part(tmp_path / "b.gz", [])]
    (tmp_path / "c.gz").write_bytes(b"no gzip")
    said: list[str] = []
    with pytest.raises(UsageError, match="none of 3 part files has a sample that can be read"):
        next(iter(Stream([*parts, tmp_path / "c.gz"], said=said.append)))
    assert len(said) == 2


def test_what_is_left_out_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    stream = Stream([part(tmp_path / "a", [line(0), b"bad\n"])], said=said.append)
    assert len(list(itertools.islice(stream, 5))) == 5 and len(said) == 1


def test_memory_does_not_grow_with_a_part(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.gz", "wb", compresslevel=1) as file:
        for number in range(5000):
            file.write(line(number, b"x" * 1000))
    tracemalloc.start()
    assert sum(1 for _ in itertools.islice(Stream([tmp_path / "a.gz"], buffer=64), 5000)) == 5000
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1_000_000, "of 7 MB"


def rows(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(b"picture %d" % number)
    texts = [json.dumps({"caption": f"caption\t{i}\nmore", "image": f"{i}.png", "id": i}) for i in range(count)]
    (folder / "rows.jsonl").write_text("\n".join(texts))
    return folder / "rows.jsonl"


@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_written_is_read_again(tmp_path: Path, zipped: bool) -> None:
    said: list[str] = []
    asked = Asked(rows(tmp_path / "data", 25), per_part=10, zipped=zipped, repeat=2)
    listed = write_parts(asked, tmp_path / "deep" / "out", said.append)
    assert listed == tmp_path / "deep" / "out" / "filelist" / "custom_dataset.filelist.list"
    (tmp_path / "deep").rename(tmp_path / "moved")
    parts = parts_of(tmp_path / "moved" / "out" / "filelist" / "custom_dataset.filelist.list")
    assert [path.name for path in parts] == [f"part-00000{i}" + ".gz" * zipped for i in (1, 2, 3)] * 2 and not said
    samples = [sample for path in parts[:3] for sample in samples_of(path, said.append)]
    expected = [(f"caption {i} more", b"picture %d" % i) for i in range(25)]
    assert [(one.caption, one.picture) for one in samples] == expected and not said


def test_rows_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = rows(tmp_path / "data", 2)
    text = (
        '[1]\n{"caption": "a"}\n{"caption": "a", "image": "gone.png"}\nnot json\n\n{"caption": 1, "image": "0.png"}\n'
    )
    path.write_text(text + path.read_text())
    said: list[str] = []
    write_parts(Asked(path), tmp_path / "out", said.append)
    assert [one.partition(", ")[2].split(";")[0] for one in said] == [
        "line 1: it has no caption and image, two texts",
        "line 2: it has no caption and image, two texts",
        "line 3: there is no picture gone.png",
        "line 4: it is no JSON (Expecting value: line 1 column 1 (char 0))",
        "line 6: it has no caption and image, two texts",
    ]
    with pytest.raises(UsageError, match="it is there already"):
        write_parts(Asked(path), tmp_path / "out", said.append)
    path.write_text("[]\n")
    with pytest.raises(UsageError, match="it has no line whose caption and picture can be read"):
        write_parts(Asked(path), tmp_path / "none", said.append)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match=r"--input_path .*gone: it cannot be read"):
        write_parts(Asked(tmp_path / "gone"), tmp_path / "none", said.append)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows(tmp_path / "data", 3)
    words = ["train", "create_pretraining_data", "--input_path", str(path), "--output_path", str(tmp_path / "out")]
    assert cli.main([*words, "--output_name", "mine", "--per_part_file_num", "2", "--num_repeat", "4"]) == 0
    listed = Path(capsys.readouterr().out.strip())
    assert listed == tmp_path / "out" / "filelist" / "mine.filelist.list" and len(parts_of(listed)) == 8
    assert cli.main([*words, "--output_name", "a/b"]) == UsageError.exit_code
    assert "--output_name: it is no name of a file (got a/b)." in capsys.readouterr().err


def test_rows_with_half_a_pair_of_characters(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    rows = [
        {"caption": "\udc80", "image": "a.png"},
        {"caption": "b", "image": "\udc80"},
        {"caption": "c\U0001f600", "image": "a.png"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    said = []
    lists = write_parts(Asked(tmp_path / "rows.jsonl"), tmp_path / "out", said.append)
    assert [one.caption for part in parts_of(lists) for one in samples_of(part, said.append)] == ["c\U0001f600"]
    assert said == [
        f"{tmp_path}/rows.jsonl, line {n}: its caption or image has half of a pair of characters; left out"
        for n in (1, 2)
    ]
