"""A signal ends a verb with one line and its exit code, cleaned up, at any moment."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from ondevice import cli
from ondevice.base.process import signals
from ondevice.base.publish import hidden

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")
SAID = "interrupted; nothing half-written was left behind\n"
WRITING = """
import sys
from pathlib import Path
from ondevice import cli, tokens
from ondevice.base.publish import published, published_file

def run(args):
    with published(Path(args.text) / "folder") as folder, published_file(Path(args.text) / "file") as file:
        (folder / "half").write_bytes(b"half")
        print("writing", flush=True)
        sys.stdin.readline()
    print("done")
    return 0

tokens.run = run
sys.argv[1:1] = ["tokens"]
sys.exit(cli.main())
"""


def writing(folder, before=None, code=WRITING):
    """A verb in the midst of writing a folder and a file."""
    pipe, words = subprocess.PIPE, [sys.executable, "-c", code, str(folder)]
    run = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=before or hear_ctrl_c)
    assert run.stdout.readline() == "writing\n"
    return run


def hear_ctrl_c():
    """A job in the background starts with Ctrl-C ignored, one under nohup with SIGHUP; a user's terminal does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    "numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]]
)
def test_a_signal_ends_the_run_and_leaves_nothing(tmp_path, numbers):
    run = writing(tmp_path)
    assert len(os.listdir(tmp_path)) == 2
    for number in numbers:
        run.send_signal(number)
    said = run.communicate(timeout=30)
    assert said == ("", SAID) and not os.listdir(tmp_path)
    assert run.returncode in [128 + number for number in numbers]


@pytest.mark.parametrize(
    "error", ["TypeError('not BufferedWriter')", "OSError(5, 'no open file')", "OnDeviceError('no room')"]
)
def test_a_signal_that_c_code_made_another_error_of_is_still_one(tmp_path, error):
    """As NumPy's tofile does: it asks whether a file has a path, and what it is asked then is taken for a no."""
    waiting = '        print("writing", flush=True)\n        sys.stdin.readline()\n'
    caught = (
        f"        try:\n{textwrap.indent(waiting, '    ')}        except KeyboardInterrupt:\n"
        f"            raise {error} from None\n"
    )
    code = WRITING.replace(waiting, caught).replace(
        "import sys", "import sys\nfrom ondevice.errors import OnDeviceError"
    )
    run = writing(tmp_path, code=code)
    run.send_signal(signal.SIGTERM)
    assert run.communicate(timeout=30) == ("", SAID) and run.returncode == 143 and not os.listdir(tmp_path)


def test_a_signal_that_was_ignored_from_the_start_stays_ignored(tmp_path):
    """nohup."""
    run = writing(tmp_path, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    run.send_signal(signal.SIGHUP)
    assert run.communicate("go on\n", timeout=30) == ("done\n", "") and run.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_what_an_interrupted_cleaning_up_left_is_removed_at_the_end(tmp_path, monkeypatch, capsys):
    def run(args):
        hidden.claim_folder(tmp_path / "a")
        raise KeyboardInterrupt

    monkeypatch.setattr("ondevice.tokens.run", run)
    assert cli.main(["tokens", "cat"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == SAID and not os.listdir(tmp_path)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_that_imports_what_it_needs_hears_a_signal(verb, tmp_path):
    """The first thing that takes time in every verb stops here and sends the signal."""
    (tmp_path / "argparse.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    words = [sys.executable, "-m", f"ondevice.{verb}"]
    run = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout, run.stderr) == (143, "", SAID)


@pytest.fixture
def taken(monkeypatch):
    """Handlers as in a verb's process that runs, and what they were put back at the end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before, hook = {number: signal.getsignal(number) for number in numbers}, sys.unraisablehook
    for name in ("phase", "held", "waiting", "last", "code"):
        monkeypatch.setattr(signals._State, name, getattr(signals._State, name))
    hear_ctrl_c()
    signals.install()
    signals.running()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook


def test_a_held_signal_comes_at_the_end_of_the_block(taken):
    reached = []
    with pytest.raises(signals.Stopped) as stop, signals.Held():
        with signals.Held():
            signal.raise_signal(signal.SIGTERM)
        reached.append(True)
    assert reached and signals.exit_code(stop.value) == 143


def test_two_signals_at_once_are_one_and_one_later_is_another(taken, monkeypatch):
    with pytest.raises(signals.Stopped):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGHUP)
    monkeypatch.setattr(signals._State, "last", signals._State.last - signals.ONE_WISH)
    with pytest.raises(signals.Stopped):
        signal.raise_signal(signal.SIGHUP)


def test_nothing_interrupts_cleaning_up_nor_a_run_that_is_over(taken):
    signals.cleaning()
    signal.raise_signal(signal.SIGINT)
    signals.over(0)
    signal.raise_signal(signal.SIGINT)


def test_a_signal_that_python_drops_comes_again(taken):
    class Dropping:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(signals.Stopped):
        thing = Dropping()
        del thing
        threading.Event().wait(30)


@pytest.mark.parametrize(
    "words, verb",
    [
        ("python -m ondevice", True),
        ("python -X dev -m ondevice.generate b p", True),
        ("python -mondevice.tokens x", True),
        ("python -m ondevice.measure.peers.worker serve", False),
        ("python -m pytest ondevice", False),
        ("python ondevice.generate", False),
    ],
)
def test_only_the_process_of_a_verb_is_taken_over(words, verb):
    assert signals.is_verb(words.split()) is verb
