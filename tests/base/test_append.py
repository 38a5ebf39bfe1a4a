"""Rows at the end of a file: all of them or none."""

import argparse
import errno
import json
import os
import threading

import pytest

from ondevice import bench
from ondevice.base.publish import append_lines
from ondevice.errors import UsageError


def test_lines_are_added_and_the_file_is_made(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_lines(path, ['{"a": 1}'])
    append_lines(path, ['{"b": "ü"}', '{"c": 3}'])
    assert path.read_text(encoding="utf-8") == '{"a": 1}\n{"b": "ü"}\n{"c": 3}\n'
    append_lines(path, [])
    assert path.stat().st_size == 30


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "interrupt"]
)
@pytest.mark.parametrize("fits", [0, 5, 4096])
def test_what_cannot_be_added_whole_is_not_added(tmp_path, monkeypatch, fits, error):
    path, write, left = tmp_path / "rows.jsonl", os.write, [fits]
    path.write_text('{"a": 1}\n')

    def full(handle, data):
        if not left[0]:
            raise error
        done = write(handle, bytes(data[: left[0]]))
        left[0] -= done
        return done

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(type(error)):
        append_lines(path, [json.dumps({"b": "x" * 8000})])
    assert path.read_text() == '{"a": 1}\n'


@pytest.mark.parametrize(
    "there, left",
    [
        ('{"a": 1}\n{"b": 2, "c', '{"a": 1}\n'),  # a killed run
        ('{"b": 2, "c', ""),
        ('{"a": 1}', '{"a": 1}\n'),  # an editor that ends no last line
        ("- buy milk", "- buy milk\n"),  # not rows at all: nothing of it is lost
        ("", ""),
    ],
)
def test_what_the_last_line_is(tmp_path, caplog, there, left):
    path = tmp_path / "rows.jsonl"
    path.write_text(there)
    append_lines(path, ['{"d": 4}'])
    assert path.read_text() == left + '{"d": 4}\n'
    assert caplog.messages == [f"{path} ended in half a row, which a killed run left; it is cut off"] * (
        len(left) < len(there)
    )


def test_several_runs_take_turns(tmp_path, monkeypatch):
    """A second one begins while the first has written three bytes;
    it waits, or its row would stand within the first one's."""
    path, write, others = tmp_path / "rows", os.write, []

    def slow(handle, data):
        if not others:
            others.append(threading.Thread(target=append_lines, args=(path, ["second"])))
            others[0].start()
            done = write(handle, bytes(data[:3]))
            others[0].join(0.2)
            return done
        return write(handle, data)

    monkeypatch.setattr(os, "write", slow)
    append_lines(path, ["first"])
    others[0].join()
    assert path.read_text() == "first\nsecond\n"


def test_a_pipe_takes_lines_too():
    reading, writing = os.pipe()
    append_lines(f"/dev/fd/{writing}" if os.path.exists("/dev/fd") else writing, ["a"])
    os.close(writing)
    with open(reading) as file:
        assert file.read() == "a\n"


def test_bench_says_where_no_row_was_added(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bench, "append_lines", full)
    with pytest.raises(UsageError) as caught:
        bench._append(tmp_path / "r", [{}])
    assert (
        str(caught.value)
        == f"{tmp_path}/r: cannot be written: No space left on device; no row was added. Fix: free space on this disk."
    )


def test_bench_refuses_rows_before_it_measures(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "rows.jsonl"):
        with pytest.raises(
            UsageError, match=r"no rows can be appended there\. Fix: name a file in a writable folder\."
        ):
            bench._check_rows(path)


def test_rows_are_kept_where_they_cannot_be_printed(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.print", broken)
    with pytest.raises(OSError):
        bench._finish(argparse.Namespace(rows=tmp_path / "r", json=True), [{"a": 1}])
    assert (tmp_path / "r").read_text() == '{"a": 1}\n'
