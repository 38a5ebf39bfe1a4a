"""Files with an object of JSON a line, as people write them by hand or by script: bounded, and refused by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ondevice.errors import UsageError

LONGEST = 1 << 16
"""Bytes of a line."""


def rows_of(path: Path, fix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, the object) of each line that is not empty; what is no object is an empty one.

    Args:
        fix: what a line should be.

    Raises:
        UsageError: a line is too long, or no JSON.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > LONGEST:
                raise UsageError(f"the line is longer than {LONGEST} bytes.", where=where, fix=fix)
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise UsageError(f"the line is no JSON ({error}).", where=where, fix=fix) from error
            yield where, row if isinstance(row, dict) else {}
