"""Rows of results (`ondevice bench ... --rows`, `benchmarks.kernels --rows`), read back:
every value that is used is checked before."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from ondevice.errors import UsageError

Row = dict[str, Any]
_MOST_BYTES = 1 << 27
_TIME = (1e-9, 1e12)  # ms, and ratios of two times
_TEXTS = {"peers": ("component", "peer"), "ablation": ("component", "rules")}  # by kind, beside the name
_FIX = "measure again with --rows in a new file, or take that line out"


def read_rows(path: Path) -> list[Row]:
    """The rows in a file, one JSON object per line. Raises UsageError naming the first line that is none."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MOST_BYTES:
            raise UsageError(
                f"this is no file of rows (expected a file of at most {_MOST_BYTES} bytes).", where=str(path)
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror}).", where=str(path), fix="check the path") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"is no text (byte {error.start} is not UTF-8).", where=str(path), fix="give a file that --rows wrote"
        ) from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            wrong = _wrong(row)
        except (ValueError, RecursionError) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            raise UsageError(f"line {number} is not a row of results ({wrong}).", where=str(path), fix=_FIX)
        rows.append(row)
    return rows


def _wrong(row: Any) -> str:
    """What is wrong with a row; nothing where it can be used."""
    if not isinstance(row, dict):
        return f"it is a {type(row).__name__}, no object"
    machine, ratio, kind = row.get("machine"), row.get("ratio"), row.get("kind")
    texts = _TEXTS.get(kind, ()) if isinstance(kind, str) else ()
    for name in ("name", *texts):
        if not _is_text(row.get(name)):
            return f"{name} is no printable text"
    for name, (low, high) in {"median_ms": _TIME, "spread": (0, 1e9)}.items():
        if not _is_number(row.get(name), low, high):
            return f"{name} is no number from {low:g} to {high:g}"
    if ratio is not None and not (
        isinstance(ratio, dict) and all(_is_number(ratio.get(name), *_TIME) for name in ("median", "low", "high"))
    ):
        return "ratio has no numbers median, low and high"
    if texts and type(row.get("counts")) is not bool:
        return "counts is not true or false"
    if not isinstance(machine, dict):
        return "machine is no object"
    device = machine.get("device")
    if not _is_text(machine.get("cpu")) or not (
        device is None or (isinstance(device, dict) and _is_text(device.get("name")))
    ):
        return "machine has no printable cpu, or a device without a name"
    if type(machine.get("cores")) is not int or not 1 <= machine["cores"] <= 1 << 16:
        return "machine has no number of cores"
    return (
        ""
        if machine.get("commit") is None or _is_text(machine["commit"])
        else "machine has a commit that is no printable text"
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 512 and value.isprintable()


def _is_number(value: Any, low: float, high: float) -> bool:
    # false for NaN; compared as it is, for it may be past float
    return type(value) in (int, float) and low <= value <= high
