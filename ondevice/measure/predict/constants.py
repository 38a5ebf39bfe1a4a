"""The constants of the model of time, and the published figures that they were fitted on and are checked on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ondevice.base.text.toml import parse_toml

FILE = Path(__file__).with_name("constants.toml")
PICTURE, REDUCTION = "picture", "reduction"  # kinds of published figures, beside "step"


@dataclass(frozen=True, slots=True)
class Efficiencies:
    """What part of a device's peaks kernels reach, above 0 and at most 1: of its arithmetic, and of its memory."""

    arithmetic: float
    memory: float


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that others published, and what the model said of it when it was last fitted.

    `kind` is "picture" (seconds of a whole one of `steps` steps), "step" (seconds of one of the denoiser's), or
    "reduction" (percent by which the paper's four optimizations shorten such a step).
    """

    what: str
    source: str
    model: str  # a family
    target: str
    kind: str
    value: float
    fitted: bool
    predicted: float
    steps: int = 20

    @property
    def error(self) -> float:
        """How far the model is off: percent of the time, or points of a reduction's percent."""
        return self.predicted - self.value if self.kind == REDUCTION else (self.predicted / self.value - 1) * 100

    @property
    def text(self) -> str:
        """The figure with its unit."""
        return shown(self.kind, self.value)

    @property
    def error_text(self) -> str:
        """The error with its unit."""
        return f"{self.error:+.1f} points" if self.kind == REDUCTION else f"{self.error:+.1f} %"


def shown(kind: str, value: float) -> str:
    """A figure of one of the kinds with its unit."""
    return f"-{value:.1f} %" if kind == REDUCTION else f"{value:.2f} s"


@dataclass(frozen=True, slots=True)
class Constants:
    """All of constants.toml. `low` and `high` bound the efficiencies to what is plausible."""

    efficiencies: Efficiencies
    low: Efficiencies
    high: Efficiencies
    published: Sequence[Published]

    def about(self) -> str:
        """A sentence of what the model was fitted on, and how far it is off elsewhere."""
        fitted = [figure for figure in self.published if figure.fitted]
        checked = [figure for figure in self.published if not figure.fitted]
        targets = dict.fromkeys(figure.target for figure in fitted)
        on = [
            f"{' and '.join(figure.text for figure in fitted if figure.target == target)} of {target}"
            for target in targets
        ]
        off = [
            f"{_range([figure.error for figure in found])} {unit} ({len(found)} {kind}{'s' * (len(found) > 1)})"
            for kind, unit in (("time", "%"), (REDUCTION, "points"))
            if (found := [figure for figure in checked if (figure.kind == REDUCTION) == (kind == REDUCTION)])
        ]
        return (
            f"A model, not a measurement: fitted on the published {', '.join(on)}; "
            f"its error on other published figures is {' and '.join(off)}."
        )


def _range(errors: Sequence[float]) -> str:
    """The least and the most, or all there is."""
    return " to ".join(dict.fromkeys(f"{error:+.0f}" for error in (min(errors), max(errors))))


@functools.cache
def constants() -> Constants:
    """The constants as they were last fitted."""
    content = parse_toml(FILE.read_bytes())
    fitted, low, high = (Efficiencies(**content[table]) for table in ("fitted", "low", "high"))
    return Constants(fitted, low, high, tuple(Published(**figure) for figure in content["published"]))
