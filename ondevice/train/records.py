"""What a run has written and reads again: state.json of a checkpoint, and training_log.jsonl. Both may be damaged, by a
run that was killed or by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ondevice.errors import CheckpointError

FORMAT = 1
FIX = "go on from another checkpoint, or begin anew without --resume_from_checkpoint"
_MOST = 1 << 20  # bytes of a state, and of a line of a log
_LARGEST = 1 << 63  # a step or a seed is less


def read_state(path: Path, recipe: str) -> dict[str, Any]:
    """What a checkpoint says of itself: `step` and `seed`, `averaged`, the steps that its average of weights is of, or
    None, and `scaler`, numbers of fp16's by name, or None.

    Raises:
        CheckpointError: it is damaged, of another recipe, or of another version of this package.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
        state = json.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"it cannot be read ({error!r}).", where=str(path), fix=FIX) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError("it is of another version of this package.", where=str(path), fix=FIX)
    averaged, scaler = state.get("averaged"), state.get("scaler")
    whole = all(_is_count(state.get(key)) for key in ("step", "seed")) and (averaged is None or _is_count(averaged))
    if not whole or not (scaler is None or (isinstance(scaler, dict) and all(map(_is_number, scaler.values())))):
        raise CheckpointError("its numbers are none of a run.", where=str(path), fix=FIX)
    if state.get("recipe") != recipe:
        what = f"it is of another recipe (got {state.get('recipe')}, expected {recipe})."
        raise CheckpointError(what, where=str(path.parent), fix=FIX)
    return {key: state.get(key) for key in ("step", "seed", "averaged", "scaler")}


def steps_of(path: Path, last: int) -> Iterator[dict[str, Any]]:
    """The rows of a log that are of steps up to `last`; none where there is no log. A killed run may leave half of a
    line. Raises OSError."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        while line := file.readline(_MOST):
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and _is_count(row.get("step")) and row["step"] <= last:
                yield row


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST  # type: ignore[arg-type]
