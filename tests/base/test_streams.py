"""A result that cannot be printed is an error; words on stderr that nobody takes cost nothing;
every encoding takes every path."""

import io
import os
import subprocess
import sys
import tempfile

import pytest

from ondevice import cli
from ondevice.base.process import streams
from ondevice.errors import OutputError

FULL = (
    "error: stdout: the result cannot be printed (No space left on device); files that were written are kept. "
    "Fix: free space there, or "
)
SHUT = "error: stdout: the result cannot be printed (Bad file descriptor); files that were written are kept. Fix: "
linux = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full")


def shell(line, **more):
    """Run `line` with $V as `python -m ondevice`."""
    env = os.environ | {"V": f"{sys.executable} -m ondevice"} | more
    return subprocess.run(["sh", "-c", line], env=env, capture_output=True, timeout=60)


@linux
@pytest.mark.parametrize(
    "line, code, out, err",
    [
        ("$V tokens cat --json > /dev/full", 16, b"", FULL.encode()),
        ("$V sampler ddim --steps 300 --json > /dev/full", 16, b"", FULL.encode()),  # more than a buffer holds
        ("PYTHONUNBUFFERED=1 $V tokens cat > /dev/full", 16, b"", FULL.encode()),
        ("$V tokens --help > /dev/full", 16, b"", FULL.encode()),
        ("$V tokens cat >&-", 16, b"", SHUT.encode()),
        ("$V tokens cat --json 2>&- <&-", 0, b'{"ids"', b""),
        ("$V tokens cat --json --tokenizer /none 2> /dev/full", 3, b"", b""),
        ("$V sampler ddim --steps 300 --json | head -c 1", 0, b"{", b""),
        ("ONDEVICE_LOG=loud $V tokens cat >&-", 2, b"", b"error: ONDEVICE_LOG"),
    ],
)
def test_wherever_it_prints(line, code, out, err):
    done = shell(line)
    assert (done.returncode, done.stdout[: len(out) or None], done.stderr[: len(err) or None]) == (code, out, err)
    assert done.stderr.count(b"\n") <= 1


def test_a_closed_handle_is_not_given_to_the_next_file(tmp_path):
    code = (
        "import os; from ondevice.base.process import streams; streams.install(); print(os.open(os.devnull, "
        "os.O_RDONLY) > 2, flush=True)"
    )
    done = subprocess.run(["sh", "-c", f'{sys.executable} -c "{code}" <&- 2>&-'], capture_output=True, text=True)
    assert done.stdout == "True\n"


def wrapped(encoding, errors="strict"):
    file = io.BytesIO()
    return file, streams._wrapped(
        io.TextIOWrapper(file, encoding=encoding, errors=errors, write_through=True), 1, streams.Checked
    )


@pytest.mark.parametrize(
    "encoding, printed",
    [
        ("ascii", b"rot-\\xfc \\u65e5 \xff \\ud800"),
        ("latin-1", b"rot-\xfc \\u65e5 \xff \\ud800"),
        ("utf-8", b"rot-\xc3\xbc \xe6\x97\xa5 \xff \\ud800"),
    ],
)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_an_encoding_lacks_is_escaped_and_bytes_of_a_path_are_kept(encoding, errors, printed):
    streams.codecs.register_error(streams.ESCAPE, streams._escape)
    file, stream = wrapped(encoding, errors)
    stream.write("rot-ü 日 \udcff \ud800")
    assert file.getvalue() == printed
    assert wrapped("ascii", "replace")[1].errors == "replace"  # the user's own choice


def test_a_reader_that_went_away_is_no_error(monkeypatch):
    class Gone(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise BrokenPipeError

    for kind, error in ((streams.Checked, BrokenPipeError), (streams.Silent, None)):
        stream = kind(Gone(), write_through=True)
        if error:
            with pytest.raises(error):
                stream.write("x")
        else:
            assert stream.write("x") == 1


def test_a_folder_that_has_gone_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    monkeypatch.setattr("ondevice.tokens.run", lambda args: os.getcwd())
    assert cli.main(["tokens", "cat"]) == 2
    assert (
        capsys.readouterr().err == "error: the working directory no longer exists. Fix: change to a folder that does.\n"
    )
    monkeypatch.chdir(tmp_path)
    for name, value in (("tempdir", None), ("_candidate_tempdir_list", lambda: ["/none"])):
        monkeypatch.setattr(f"tempfile.{name}", value)
    monkeypatch.setattr("ondevice.tokens.run", lambda args: tempfile.mkdtemp())
    assert cli.main(["tokens", "cat"]) == 2
    assert (
        capsys.readouterr().err
        == "error: there is no temporary folder. Fix: set TMPDIR to a folder that can be written.\n"
    )
    # another error of the system is not hidden
    monkeypatch.setattr("ondevice.tokens.run", lambda args: os.stat("none"))
    with pytest.raises(FileNotFoundError):
        cli.main(["tokens", "cat"])


def test_its_exit_code_is_its_own():
    assert OutputError("x").exit_code == 16
