"""A prediction as text and as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ondevice.base.columns import columns
from ondevice.measure.predict.constants import constants
from ondevice.measure.predict.prediction import Part, Prediction, Total

HEAD = ("component", "ops", "launches", "GFLOP", "MB moved", "ms", "arithmetic", "bytes", "launching", "share")


def to_text(prediction: Prediction) -> str:
    """The table of a picture: each plan, run once, by class of ops, and what its time goes into; shares are of the
    whole picture."""
    width, height = prediction.size
    weights = sum(part.times * part.total.for_weights for part in prediction.parts)
    lines = [
        constants().about(),
        f"A picture of {width}x{height} in {prediction.steps} steps on {prediction.target}: "
        f"{prediction.seconds:,.2f} s, {_runs(prediction)}.",
        *columns([HEAD, *_rows(prediction)], left=2),
        f"Launches that mostly read weights, and wait for their bytes, take {weights:,.2f} s of the picture: "
        "that is what fewer bits shorten (--weights int8 or int4).",
    ]
    return "\n".join(lines)


def _runs(prediction: Prediction) -> str:
    return ", ".join(f"{part.times:,} of {name_of(part)}" for part in prediction.parts)


def name_of(part: Part) -> str:
    """A plan's component, and what tells it from others of it in one picture."""
    stage = f" stage {part.sizes['stage']}" if "stage" in part.sizes else ""
    return part.component + stage


def _rows(prediction: Prediction) -> Iterator[tuple[str, ...]]:
    for part in prediction.parts:
        for op_class, total in part.classes.items():
            yield _row(prediction, part, op_class, total)
        yield _row(prediction, part, "one run", part.total)


def _row(prediction: Prediction, part: Part, ops: str, total: Total) -> tuple[str, ...]:
    times = (total.seconds, total.for_arithmetic, total.for_bytes, total.launching)
    return (
        name_of(part),
        ops,
        f"{total.launches:,}",
        f"{total.flops / 1e9:,.2f}",
        f"{total.moved / 1e6:,.1f}",
        *(f"{seconds * 1e3:,.1f}" for seconds in times),
        f"{part.times * total.seconds / prediction.seconds:.1%}",
    )


def to_json(prediction: Prediction) -> dict[str, Any]:
    """Everything, in seconds and bytes; sums are of one run of a plan."""
    known = constants()
    return {
        "model": known.about(),
        "efficiencies": asdict(known.efficiencies),
        "target": prediction.target,
        "size": list(prediction.size),
        "steps": prediction.steps,
        "seconds": prediction.seconds,
        "parts": [asdict(part) | {"seconds": part.seconds} for part in prediction.parts],
    }
