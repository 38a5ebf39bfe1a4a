"""`ondevice batch`: what its lines may say, what becomes of bad ones, and that kill -9 costs nothing.

Networks are formulas here (made_up_device.py); one batch is drawn by the demo model on a device.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_up_device
import numpy as np
import pytest
from PIL import Image

from ondevice import cli
from ondevice.base.publish import PARTIAL
from ondevice.drawing import batch_file, drawer
from ondevice.drawing.batch_file import JOURNAL, Journal, read_lines
from ondevice.drawing.resume import digest_of
from ondevice.errors import BatchError, NumericError, UsageError

TRAILING = {"timestep_spacing": "trailing"}
LINES = [
    {"prompt": "a cat", "seed": 1, "name": "cat"},
    {"prompt": "a dog", "negative": "b", "steps": 3, "sampler": "euler_a", "guidance": 4, "set": TRAILING},
    {"prompt": "x", "init_image": "begin.png", "strength": 0.5, "fit": "crop", "size": "64x64", "name": "image.webp"},
    {"prompt": "y", "sampler": "euler", "sigmas": [14.6, 3.0], "number": {"guidance_rescale": 1}, "seed-mode": "cuda"},
    {"prompt": "z", "karras": True, "sampler": "dpmpp_2m", "variation_seed": 3, "variation_strength": 1, "mask": None},
]


@pytest.fixture(scope="module")
def bundle(demo_bundle: Path) -> Path:
    return demo_bundle


Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Draw lines into a folder; what is printed, by line, and the counts."""
    made_up_device.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save("begin.png")

    def draw(lines: list[Any], *words: object, out: str = "out", code: int = 0) -> list[dict[str, Any]]:
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        Path("lines.jsonl").write_text(text)
        command = ["batch", "lines.jsonl", "--bundle", bundle, "--out", out, "--steps", 2, *words]
        capsys.readouterr()
        assert cli.main([str(word) for word in command]) == code
        said = capsys.readouterr()
        draw.said = said.err  # type: ignore[attr-defined]
        return [json.loads(line) for line in said.out.splitlines()]

    return draw


def files_in(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_lines_are_the_pictures_of_their_flags(run: Run, bundle: Path) -> None:
    said = run(LINES)
    assert said == [
        {"line": 1, "status": "drawn", "files": ["cat.png"]},
        {"line": 2, "status": "drawn", "files": ["00002.png"]},
        {"line": 3, "status": "drawn", "files": ["image.webp"]},
        {"line": 4, "status": "drawn", "files": ["00004.png"]},
        {"line": 5, "status": "drawn", "files": ["00005.png"]},
        {"drawn": 5, "kept": 0, "failed": 0},
    ]
    assert {*files_in("out")} == {JOURNAL, *(name for row in said[:5] for name in row["files"])}
    plain = [
        ["a cat", "--seed", "1"],
        [
            "a dog",
            "--negative",
            "b",
            "--steps",
            "3",
            "--sampler",
            "euler_a",
            "--guidance",
            "4",
            "--spacing",
            "trailing",
        ],
        ["x", "--init-image", "begin.png", "--strength", "0.5", "--fit", "crop", "--size", "64x64"],
        ["y", "--sampler", "euler", "--sigmas", "14.6,3", "--number", "guidance_rescale=1", "--seed-mode", "cuda"],
        ["z", "--karras", "--sampler", "dpmpp_2m", "--variation-seed", "3", "--variation-strength", "1"],
    ]
    for row, words in zip(said, plain, strict=False):
        (name,) = row["files"]
        out = f"plain-{name}"
        steps = [] if "--steps" in words or "--sigmas" in words else ["--steps", "2"]
        assert cli.main(["generate", str(bundle), *words, *steps, "--out", out]) == 0
        if "--sigmas" not in words:
            assert Path(out).read_bytes() == (Path("out") / name).read_bytes()
    before = files_in("out")
    assert cli.main(["generate", str(bundle), "--batch", "lines.jsonl", "--steps", "2", "--out", "out2"]) == 0
    assert files_in("out2") == before


def test_what_is_there_and_right_is_left(run: Run, bundle: Path) -> None:
    run(LINES)
    before, passes = files_in("out"), made_up_device.Networks.passes
    assert run(LINES)[-1] == {"drawn": 0, "kept": 5, "failed": 0} and made_up_device.Networks.passes == passes
    assert files_in("out") == before
    Path("out/cat.png").write_bytes(b"another")
    Path("out/00004.png").unlink()
    rows = run(LINES)
    assert [row["status"] for row in rows[:-1]] == ["kept", "kept", "kept", "drawn", "drawn"]
    assert {row["line"] for row in rows[:-1] if row["status"] == "drawn"} == {1, 4}
    assert {name: data for name, data in files_in("out").items() if name != JOURNAL} == {
        name: data for name, data in before.items() if name != JOURNAL
    }
    Image.new("RGB", (64, 64)).save("begin.png")  # a file that a line is drawn from
    assert [row["line"] for row in run(LINES)[:-1] if row["status"] == "drawn"] == [3]
    assert run(LINES, "--seed-mode", "cuda")[-1]["drawn"] == 4  # of those that say nothing of it themselves
    assert (
        run(LINES, "--seed-mode", "cuda", "--steps", 4)[-1]["drawn"] == 3
    )  # line 2 says its own, as line 4's list does


def test_bad_lines_are_reported_and_the_others_drawn(run: Run) -> None:
    bad = {
        "{": "it is no JSON (Expecting property name",
        "[1]": 'it is no object (expected such as {"prompt": "a cat"}).',
        '{"prompt": "a", "prompt": "b"}': "it is no JSON (a key is there twice)",
        '{"prompt": "a", "seed": NaN}': "it is no JSON (NaN is no number of JSON)",
        '{"prompt": "\\ud800"}': "it is no JSON (",
        "[" * 100_000: "it is nested too deeply",
        '{"prompt": "a", "name": "../a"}': "its name is none for a file (got '../a', expected letters",
        '{"prompt": "a", "name": "CAT"}': "line 1 has its name, too (CAT)",
        '{"prompt": "a", "stepz": 1}': "stepz: no such word (expected one of prompt, negative, emphasis, ",
        '{"prompt": "a", "count": 2}': "count: no such word",
        '{"prompt": "a", "out": "b.png"}': "out: no such word",
        '{"prompt": "a", "steps": "many"}': "--steps: invalid int value: 'many'",
        '{"prompt": "a", "steps": 2.5}': "--steps: invalid int value: '2.5'",
        '{"prompt": "a", "karras": 1}': "karras: not a value (got '1', expected true or false)",
        '{"prompt": ["a"]}': "prompt: not a value (got \"['a']\", expected a text or a number)",
        '{"prompt": "a", "set": [[1]]}': "set: not a value",
        '{"prompt": "a", "init_image": "none.png"}': "none.png: not a readable image (no such file",
        '{"prompt": "a", "mask": "begin.png"}': "--mask: there is no picture to begin from",
        '{"seed": 1}': "prompt: it was not said what to draw.",
        '{"prompt": "a", "size": "50x50"}': "width: not a size the model can draw (got 50",
    }
    rows = run(["", LINES[0], *bad, LINES[1]], code=BatchError.exit_code)
    assert rows[-1] == {"drawn": 2, "kept": 0, "failed": len(bad)}
    errors = {row["line"]: row["error"] for row in rows[:-1] if row["status"] == "failed"}
    for number, words in enumerate(bad.values(), 3):
        expected = words.replace("line 1", "line 2")
        assert expected in errors[number], (number, errors[number])
        assert f"error: line {number}: " in run.said  # type: ignore[attr-defined]
    assert f"lines.jsonl: {len(bad)} of {len(bad) + 2} lines were not drawn. Fix: mend them" in run.said  # type: ignore
    assert sorted(files_in("out")) == ["00023.png", JOURNAL, "cat.png"]


def test_strict_stops_before_anything_is_drawn(run: Run) -> None:
    assert run([LINES[0], {"prompt": "a", "stepz": 1}], "--strict", code=UsageError.exit_code) == []
    assert not list(Path("out").iterdir())


def test_a_line_that_fails_while_it_is_drawn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = drawer.Drawer.draw

    def draw(self: drawer.Drawer, asked: drawer.Asked) -> Iterator[drawer.Drawn]:
        if asked.request.prompt == "a dog":
            raise NumericError("NaN", where="step 1")
        yield from real(self, asked)

    monkeypatch.setattr(drawer.Drawer, "draw", draw)
    rows = run(LINES[:3], code=BatchError.exit_code)
    assert [row.get("error") for row in rows[:-1]] == [None, "step 1: NaN", None]
    assert run(LINES[:3], "--strict", code=NumericError.exit_code)[:-1] == [
        {"line": 1, "status": "kept", "files": ["cat.png"]}
    ]
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "l.jsonl"], "--out: it is not said where the pictures go."),
        (["--batch", "none.jsonl", "--out", "o"], "none.jsonl: no lines can be read (no such file)."),
        (["--batch", "l.jsonl", "--out", "l.jsonl"], "l.jsonl: no folder can be made there (File exists)."),
        (
            ["--batch", "l.jsonl", "--out", "o", "--from", "a.png"],
            "--from: many pictures are drawn; a line may have it",
        ),
        (["--batch", "l.jsonl", "--out", "o", "--count", "2"], "--count: many pictures are drawn. Fix: write a line"),
        (["--batch", "l.jsonl", "--out", "o", "--resume"], "--resume: many pictures are drawn; a batch goes on by"),
        (["--batch", "l.jsonl", "--out", "o", "--trace", "t"], "--trace: many pictures are drawn; it is of one"),
        (
            ["--batch", "l.jsonl", "--out", "o", "--workers", "2"],
            "--workers: there is no Ray. Fix: leave --workers out",
        ),
        (["--batch", "l.jsonl", "--out", "o", "--ray", "--workers", "0"], "--workers: no such number (got 0, expected"),
        (["x", "--workers", "2"], "--workers: they are of a batch."),
    ],
)
def test_what_a_batch_cannot_have(
    words: list[str], said: str, run: Run, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("l.jsonl").write_text('{"prompt": "x"}\n')
    assert cli.main(["generate", str(bundle), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_line_or_a_file_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "LINE_LIMIT", 100)
    (tmp_path / "a").write_text('{"prompt": "x"}\n' + "x" * 200)
    with pytest.raises(UsageError, match="line 2 has more than 100 bytes"):
        list(read_lines(tmp_path / "a"))
    monkeypatch.setattr(batch_file, "FILE_LIMIT", 10)
    with pytest.raises(UsageError, match="at most 10 are read"):
        list(read_lines(tmp_path / "a"))


def test_a_journal_is_believed_as_far_as_it_is_right(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    digest = digest_of(tmp_path / "a.png")
    rows = [
        {"key": "k", "files": {"a.png": digest}},
        {"key": "up", "files": {"../a.png": digest}},
        {"key": "none", "files": {}},
        {"key": "no hash", "files": {"gone.png": ""}},
        {"key": 1, "files": {"a.png": digest}},
        {"key": "l", "files": {"a.png": 1}},
        [1],
        "half",
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"key": "half'
    (tmp_path / JOURNAL).write_text(text)
    journal = Journal(tmp_path)
    assert {key: journal.files(key) for key in ("k", "up", "none", "no hash", "l", "half", "other")} == {
        "k": ["a.png"], "up": [], "none": [], "no hash": [], "l": [], "half": [], "other": []
    }  # fmt: skip
    line = next(iter(read_lines(_written(tmp_path / "lines", '{"prompt": "x"}'))))
    assert isinstance(line, batch_file.Line)
    journal.add(line, "new", {"a.png": digest})
    assert Journal(tmp_path).files("new") == ["a.png"] and '{"key": "half' not in (tmp_path / JOURNAL).read_text()


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that is killed is forked")
def test_ten_kills_at_random_moments_change_nothing(run: Run, bundle: Path, tmp_path: Path) -> None:
    """A child of this process draws, and is killed by SIGKILL a random time after it has begun, of up to four pictures;
    then the batch is ended by a run that nobody kills."""
    lines = [{"prompt": f"picture {i}", "seed": i, "steps": 3, "sampler": "dpmpp_sde"} for i in range(24)]
    times = [time.perf_counter()]
    for _ in range(2):
        run(lines, out="whole")
        times.append(time.perf_counter())
    nothing, expected = times[2] - times[1], files_in("whole")
    one = max(times[1] - times[0] - nothing, 0) / len(lines)
    draw, kept = random.Random(1), 0
    command = ["batch", "lines.jsonl", "--bundle", str(bundle), "--out", "out", "--steps", "2"]
    for _ in range(10):
        begun, begins = os.pipe()
        child = os.fork()
        if not child:
            try:
                made_up_device.Networks.on_pass = staticmethod(functools.partial(os.write, begins, b"x"))
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1), os.dup2(null, 2)
                os._exit(cli.main(command))
            finally:  # whatever was raised: a child must not go on with the tests
                os._exit(70)
        os.close(begins)
        os.read(begun, 1)  # the first pass of a picture; nothing where all are drawn
        os.close(begun)
        time.sleep(draw.uniform(0, 4) * one)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        names = [name for name in files_in("out") if PARTIAL not in name] if Path("out").exists() else []
        assert all(files_in("out")[name] == expected[name] for name in names if name != JOURNAL)
        kept = max(kept, len(names) - 1)
    assert kept > 1, "every run was killed before it drew anything"
    rows = run(lines)
    assert rows[-1]["kept"] >= kept - 1 and rows[-1]["failed"] == 0
    assert files_in("out") == expected


@pytest.mark.device
def test_the_demo_model_goes_on_after_a_kill(bundle: Path, tmp_path: Path) -> None:
    """On a device: killed once its second picture is there, the batch ends with the files that `generate` writes."""
    lines = [{"prompt": "a red circle", "seed": seed, "steps": 3, "name": f"{seed}"} for seed in range(4)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["batch", str(tmp_path / "lines.jsonl"), "--bundle", str(bundle), "--out", str(tmp_path / "out")]
    child = subprocess.Popen([sys.executable, "-m", "ondevice", *words], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    rows = [json.loads(child.stdout.readline()) for _ in range(2)]
    child.kill()
    child.communicate()
    assert [row["status"] for row in rows] == ["drawn"] * 2
    assert cli.main(words) == 0
    assert sorted(files_in(tmp_path / "out")) == ["0.png", "1.png", "2.png", "3.png", JOURNAL]
    plain = ["generate", str(bundle), "a red circle", "--seed", "3", "--steps", "3", "--out", str(tmp_path / "a.png")]
    assert cli.main(plain) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "out" / "3.png").read_bytes()
