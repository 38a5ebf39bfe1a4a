"""The table of docs/ablation.md of what the fusions save is what the command above it prints;
`--bless` writes it again."""

import re
from pathlib import Path

import pytest

from ondevice import cli

PAGE = Path(__file__).parents[1] / "docs" / "ablation.md"
TABLE = re.compile(r"(<!-- ondevice ([^\n]*) -->\n)(.*?)(\n<!-- end of the table -->)", re.DOTALL)


@pytest.mark.sweep
def test_tables_are_what_their_commands_print(capsys, request):
    text = PAGE.read_text()
    found = TABLE.findall(text)
    assert found
    for opening, command, table, end in found:
        assert cli.main(command.split()) == 0
        now = capsys.readouterr().out.strip()
        if request.config.getoption("--bless"):
            PAGE.write_text(PAGE.read_text().replace(opening + table + end, opening + now + end))
        else:
            assert table == now, "pytest --bless tests/test_ablation_page.py writes it again"
