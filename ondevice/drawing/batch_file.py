"""A file of pictures to draw, a JSON object on each line, and the journal of those that are drawn.

Lines come from wherever users have them, and the journal may end in half a row: both are read with bounds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.base.publish import append_lines
from ondevice.diffusion.files import fix_of, opened
from ondevice.diffusion.film import film_format
from ondevice.diffusion.picture_file import FORMATS
from ondevice.drawing.resume import unchanged
from ondevice.errors import UsageError

FILE_LIMIT = 1 << 28
LINE_LIMIT = 1 << 20
JOURNAL = "batch.jsonl"
_NAME = re.compile(r"[\w][\w .,+()-]{0,119}")  # no slash, no leading dot


@dataclass(frozen=True, slots=True)
class Line:
    """`number` from 1 on; `file`: the name of its picture; `words`: what it says (line.py)."""

    number: int
    file: str
    words: Mapping[str, Any]


def read_lines(path: Path) -> Iterator[Line | tuple[int, UsageError]]:
    """Every line that is not empty, or its number and what is wrong with it.

    Raises:
        UsageError: the file cannot be read.
    """

    def refused(why: str) -> UsageError:
        return UsageError(f"no lines can be read ({why}).", where=str(path), fix="name a file with an object per line")

    names: dict[str, int] = {}
    with opened(path, FILE_LIMIT, refused) as (file, _):
        for number, text in enumerate(iter(lambda: file.readline(LINE_LIMIT + 1), b""), 1):
            if len(text) > LINE_LIMIT:
                raise refused(f"line {number} has more than {LINE_LIMIT} bytes")
            if not text.strip():
                continue
            try:
                yield _line(number, text, names)
            except ValueError as error:
                yield number, UsageError(f"{error}.", where=f"{path} line {number}", fix="mend the line")


def _line(number: int, text: bytes, names: dict[str, int]) -> Line:
    """ValueError says what is wrong."""
    try:
        words = json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
        json.dumps(words, ensure_ascii=False).encode()  # halves of surrogate pairs are no text
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON ({str(error)[:80]})") from None
    if not isinstance(words, dict):
        raise ValueError('it is no object (expected such as {"prompt": "a cat"})')
    name = words.pop("name", f"{number:05}")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name != name.strip():
        raise ValueError(f"its name is none for a file (got {str(name)[:60]!r}, expected letters, digits and -_.)")
    known = Path(name).suffix.lower() in FORMATS or film_format(Path(name)) is not None
    file = name if known else f"{name}.png"
    if (other := names.setdefault(file.casefold(), number)) != number:
        raise ValueError(f"line {other} has its name, too ({name})")
    return Line(number, file, words)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


class Journal:
    """Which pictures are in a folder, by the hash of all that they depend on.

    A row is appended, and is on the disk, once the files that it names are there whole: what it says is true whenever
    the run that writes it is killed. What a row says of files that were changed since is not believed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / JOURNAL
        self._rows = dict(self._read())

    def files(self, key: str) -> list[str]:
        """The files of the picture with this key, where all are there and as they were written."""
        rows = self._rows.get(key, {})
        return list(rows) if unchanged(self._folder, rows) else []

    def add(self, line: Line, key: str, files: Mapping[str, str]) -> None:
        """The files (name -> SHA-256) of a line are written. Raises UsageError where the disk refuses."""
        self._rows[key] = dict(files)
        row = {"line": line.number, "name": line.file, "key": key, "files": dict(files)}
        try:
            append_lines(self._path, [json.dumps(row)], durable=True)
        except OSError as error:
            what = f"cannot be written ({error.strerror or error})."
            raise UsageError(what, where=str(self._path), fix=fix_of(error)) from None

    def _read(self) -> Iterator[tuple[str, dict[str, str]]]:
        if not os.path.lexists(self._path):
            return

        def refused(why: str) -> UsageError:
            return UsageError(f"is no journal of a batch ({why}).", where=str(self._path), fix="use another --out")

        with opened(self._path, FILE_LIMIT, refused) as (file, _):
            for text in iter(lambda: file.readline(LINE_LIMIT), b""):
                try:
                    row = json.loads(text)
                    key, files = row["key"], row["files"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # half a row, which the next one's writer cuts off
                if isinstance(key, str) and isinstance(files, dict) and all(map(_is_plain, files.items())):
                    yield key, files


def _is_plain(item: tuple[str, Any]) -> bool:
    name, digest = item
    return isinstance(digest, str) and name == Path(name).name and name not in ("", ".", "..") and "\0" not in name
