"""Captions and what they say: a JSONL whose lines have a caption, and words under the same names each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ondevice.errors import UsageError
from ondevice.train.jsonl import rows_of

_NAMES, _WORDS = 64, 4096  # of a line, and that one of them may have


@dataclass(frozen=True, slots=True)
class Labels:
    """Lines of a file.

    Args:
        captions: one a line.
        words: for each name, what it may be, in order.
        places: for each line, which of its words each name has.
    """

    captions: list[str]
    words: dict[str, list[str]]
    places: list[tuple[int, ...]]


def labels_of(path: Path, caption: str, flag: str = "input_path") -> Labels:
    """What a file says. Raises UsageError for one that cannot be read, or is none."""
    fix = f'write lines {{"{caption}": "a red circle", "colour": "red"}}, of the same names each'
    captions: list[str] = []
    rows: list[dict[str, str]] = []
    try:
        for where, row in rows_of(path, fix):
            if caption not in row or not all(isinstance(word, str) for word in row.values()):
                what = f"the line has no {caption}, or something that is no text."
                raise UsageError(what, where=where, fix=fix)
            captions.append(row.pop(caption))
            rows.append(row)
            if not row or len(row) > _NAMES or row.keys() != rows[0].keys():
                names = ", ".join(sorted(row)) or "none"
                what = f"its names are not those of the first line, or none or too many (got {names})."
                raise UsageError(what, where=where, fix=fix)
    except OSError as error:
        what = f"it cannot be read ({error.strerror})."
        raise UsageError(what, where=f"--{flag} {path}", fix="give a JSONL file") from error
    if not rows:
        raise UsageError("it has no lines.", where=f"--{flag} {path}", fix=fix)
    words = {name: sorted({row[name] for row in rows}) for name in rows[0]}
    for name, found in words.items():
        if len(found) > _WORDS:
            what = f"{name} says too many things (got {len(found)}, expected {_WORDS} or fewer)."
            raise UsageError(what, where=str(path), fix=f"take {name} out")
    places = {name: {word: place for place, word in enumerate(found)} for name, found in words.items()}
    return Labels(captions, words, [tuple(places[name][row[name]] for name in words) for row in rows])
