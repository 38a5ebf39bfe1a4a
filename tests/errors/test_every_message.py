"""What holds for every error: a bounded, printable message that keeps its fix whatever a file holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ondevice import cli, errors
from ondevice.errors import CheckpointError, KernelBuildError, OnDeviceError, StrictError, UsageError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, OnDeviceError)]
LONG = "x" * 5000


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_bounded_and_keeps_its_fix(kind: type[OnDeviceError]) -> None:
    # a driver's log; the list that --strict is asked for
    limit = 4000 if kind in (KernelBuildError, StrictError) else 500
    for what, where in ((LONG, ""), ("no.", f"/a/{LONG}/end"), (LONG, LONG)):
        text = str(kind(what, where=where, fix="do this"))
        assert 100 < len(text) <= limit and text.endswith(" Fix: do this.") and "..." in text
    assert "/end: no." in str(kind("no.", where=f"/a/{LONG}/end"))
    assert len(str(kind(LONG, where=LONG, fix=LONG))) <= limit


def test_what_is_short_is_told_as_it_is() -> None:
    error = CheckpointError("the layer é–中 is odd.", where="a/b", fix="look")
    assert (str(error), error.what, error.where, error.fix) == (
        "a/b: the layer é–中 is odd. Fix: look.", "the layer é–中 is odd.", "a/b", "look"
    )  # fmt: skip
    assert str(OnDeviceError("no.")) == "no."


def test_nothing_in_a_message_can_steer_a_terminal_or_fail_to_print(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise UsageError("\x1b[2Jname\ud800 \u202eabc\x00\nnext\tline\r", where="a\x07", fix="b\x9b")

    monkeypatch.setattr("ondevice.tokens.run", fail)
    assert cli.main(["tokens", "x"]) == 2
    assert capsys.readouterr().err == "error: a\\x07: \\x1b[2Jname\\ud800 \\u202eabc\\x00 next line. Fix: b\\x9b.\n"


def test_nor_can_what_is_logged_or_what_a_token_is_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1, "x</w>": 2, "\\u001b[2J": 3}')
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "added_tokens.json").write_text('{"\\u001b[2J": 3}')
    script = (
        "import logging; from ondevice import cli; cli._log_to_stderr(); "
        "logging.getLogger('x').warning('a %s', '\x1b[2J\\n')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "WARNING x: a \\x1b[2J\n"
    assert cli.main(["tokens", "\x1b[2J", "--emphasis", "none", "--tokenizer", str(tmp_path)]) == 0
    assert "     3  \\x1b[2J\n" in capsys.readouterr().out


def test_a_drivers_log_keeps_its_lines() -> None:
    assert (
        str(KernelBuildError("refused\n a.cl:1: \x1b[31merror\x1b[0m\n  ^"))
        == "refused\n a.cl:1: \\x1b[31merror\\x1b[0m\n  ^"
    )
