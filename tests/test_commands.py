"""The commands that the pages show are commands that the command line takes: verbs, flags and choices."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ondevice import cli
from ondevice.errors import UsageError

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
PAGES = [name for name in TRACKED if name and name != "CHANGELOG.md" and (ROOT / name).is_file()]
SHOWN = re.compile(r"^(?:    |\t)(?:taskset -c \S+ )?(?:\S+/bin/)?(?:ondevice |python -m ondevice\.)(.*)$")


def commands(page: str) -> Iterator[list[str]]:
    """The words of each command of a page's code blocks, without its comment; lines that end in \\ go on."""
    fenced = re.sub(
        r"^```\w*\n(.*?)^```", lambda block: re.sub("^", "    ", block[1], flags=re.M), page, flags=re.M | re.S
    )
    for line in fenced.replace("\\\n", " ").splitlines():
        if found := SHOWN.match(line):
            words = shlex.split(found[1], comments=True)
            if "|" in words or ">" in words:
                words = words[: min(words.index(sign) for sign in "|>" if sign in words)]
            yield words


@pytest.mark.parametrize("name", PAGES)
def test_commands_are_taken(name: str) -> None:
    for words in commands((ROOT / name).read_text()):
        try:
            cli._parsed(words)
        except UsageError as error:
            pytest.fail(f"{' '.join(words)}: {error}")
        except SystemExit:
            assert "--help" in words


def test_commands_are_found() -> None:
    page = (
        "    ondevice convert demo  # note\n    x\n```\npython -m ondevice.show a \\\n  --json | head\n```\nondevice no"
    )
    assert list(commands(page)) == [["convert", "demo"], ["show", "a", "--json"]]
    assert sum(len(list(commands((ROOT / name).read_text()))) for name in PAGES) > 60
