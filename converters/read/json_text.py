"""JSON from files that nobody vouches for: size bounds, no duplicate keys, one error class."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from ondevice.errors import CheckpointError

CONFIG_LIMIT = 16 << 20  # the largest honest one, a shard index of a 12 B model, is under 1 MB


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Later keys would win silently, so that two readers of one file could see different things."""
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise KeyError(key)
        table[key] = value
    return table


def parse_object(data: bytes, where: str, fix: str) -> dict[str, Any]:
    """A JSON object from UTF-8 `data`.

    Raises CheckpointError for anything else; for duplicate keys, deep nesting and text with half of a
    surrogate pair, too.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates)
        if b"\\u" in data:  # half of a pair parses, but can never be printed or written again
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            "the JSON holds half of a surrogate pair, which is no text.", where=where, fix=fix
        ) from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"the JSON is not UTF-8 (byte {error.start}).", where=where, fix=fix) from None
    except KeyError as error:
        raise CheckpointError(f"the JSON has the key {error.args[0][:200]!r} twice.", where=where, fix=fix) from None
    except RecursionError:
        raise CheckpointError("the JSON is nested too deeply.", where=where, fix=fix) from None
    except ValueError as error:  # also an integer of more digits than Python converts
        raise CheckpointError(f"the JSON is damaged ({error}).", where=where, fix=fix) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"the JSON is no object (got {type(value).__name__}).", where=where, fix=fix)
    return value


def read_bytes(path: Path, fix: str = "download the file again") -> bytes:
    """A small file whole. Raises CheckpointError if it is missing, unreadable or over 16 MB."""
    try:
        facts = path.stat()
        # a pipe would never end; a folder is refused by name below
        if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
            raise CheckpointError("this is no file.", where=str(path), fix=fix)
        size = facts.st_size
        if size > CONFIG_LIMIT:
            raise CheckpointError(
                f"the file is too large (got {size:,} bytes, expected at most {CONFIG_LIMIT:,}).",
                where=str(path),
                fix=fix,
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the file ({error.strerror}).", where=str(path), fix=fix) from None


def read_object(path: Path, fix: str = "download the file again") -> dict[str, Any]:
    """The JSON object in a small file. Raises CheckpointError."""
    return parse_object(read_bytes(path, fix), str(path), fix)
