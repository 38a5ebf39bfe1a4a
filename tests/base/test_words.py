"""Words that the command line does not take are errors as all others: a line, where and what to do, exit code 2."""

from __future__ import annotations

import pytest

from ondevice import cli


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("devices --no-such", "unrecognized arguments: --no-such. Fix: see `ondevice devices --help`."),
        ("devices more --sted 3", "unrecognized arguments: more --sted 3. Fix: see `ondevice devices --help`."),
        ("devices --jsn=pretty_please", "unrecognized arguments: --jsn=pretty_please. Fix: write --json."),
        ("train lora --sed 1", "unrecognized arguments: --sed. Fix: write --seed."),
        ("tokens", "the following arguments are required: text. Fix: see `ondevice tokens --help`."),
        ("sampler ddim --steps 2.5", "--steps: invalid int value: '2.5'. Fix: see `ondevice sampler --help`."),
        ("sampler ddim --steps", "--steps: expected one argument. Fix: see `ondevice sampler --help`."),
        ("tokens x --emphasis meen", "--emphasis: there is no such choice (got 'meen', expected none, mean, compel). "
         "Fix: write mean."),
        ("", "the following arguments are required: verb. Fix: see `ondevice --help`."),
    ],
)  # fmt: skip
def test_words_that_are_not_taken(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    assert capsys.readouterr() == ("", f"error: {said}\n")


def test_a_verb_with_a_slip(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["genrate", "a.ondevice", "x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: verb: there is no such choice (got 'genrate', expected convert, pack, generate,")
    assert said.endswith("Fix: write generate.\n")
    assert cli.main_for("sampler", ["ddim", "--steps", "x"]) == 2
    assert "Fix: see `python -m ondevice.sampler --help`" in capsys.readouterr().err


def test_what_needs_no_verb_imports_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them take seconds to import: only --help, which lists what each does, does so."""
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: pytest.fail(name))
    assert cli.main([]) == cli.main(["genrate"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"{cli.__version__}\n"
