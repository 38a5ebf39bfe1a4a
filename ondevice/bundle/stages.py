"""A decoder in bands: its stages, and whether they fit each other.
The specification is docs/bundle.md, "A decoder in bands"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from ondevice.bundle.weights import STORED
from ondevice.errors import BundleError
from ondevice.plan.plan import Plan

STATISTICS = (":mean", ":variance")
LEAST_ROWS = 3  # of a band that is not the whole picture: an edge row is dropped at both ends, and one is left


@dataclass(frozen=True, slots=True)
class Stage:
    """One plan of the decoder: its sizes, and shapes by name.
    Pictures are [1, rows, width, channels]; statistics [groups]."""

    component: str
    sizes: Mapping[str, int]
    inputs: Mapping[str, tuple[int, ...]]
    output: str
    made: tuple[int, ...]
    dtype: np.dtype  # of what it makes

    @property
    def pictures(self) -> list[str]:
        """The inputs that are cut into bands."""
        return [name for name in self.inputs if not name.endswith(STATISTICS)]

    @property
    def statistics(self) -> dict[str, int]:
        """Groups of each picture whose statistics it needs."""
        return {
            name.removesuffix(STATISTICS[0]): shape[0]
            for name, shape in self.inputs.items()
            if name.endswith(STATISTICS[0])
        }


def stage_of(plan: Plan) -> Stage:
    """The stage that a plan is, one that passed `ports.check_ports`."""
    inputs = {plan.operands[i].name: plan.operands[i].shape for i in plan.inputs}
    out = plan.operands[plan.outputs[0]]
    return Stage(plan.component, plan.sizes, inputs, out.name, out.shape, STORED[out.dtype])


def groups_of(name: str, later: Sequence[Stage]) -> int:
    """Groups in which stages ask for the statistics of a picture; 0 where none does."""
    return next((stage.statistics[name] for stage in later if name in stage.statistics), 0)


def check_fit(stages: Sequence[Stage]) -> dict[str, tuple[int, ...]]:
    """Shapes of the whole pictures that the stages make, by name.

    Raises:
        BundleError: a stage reads what no earlier one made, or bands that its picture cannot be cut into.
    """
    whole: dict[str, tuple[int, ...]] = {}
    for number, stage in enumerate(stages):
        if not number:
            whole[stage.output] = stage.made
            continue
        if not stage.pictures:
            _refuse(stage, "it reads no picture of an earlier stage")
        for name in stage.pictures:
            if name not in whole or whole[name][2:] != stage.inputs[name][2:]:
                _refuse(stage, f"{name[:60]} is not what an earlier stage made")
        for name, groups in stage.statistics.items():
            if name not in whole or whole[name][3] % groups or groups != groups_of(name, stages):
                _refuse(stage, f"the statistics of {name[:60]} are not of a picture's groups of channels")
        least = min(stage.pictures, key=lambda name: whole[name][1])
        height, high = whole[least][1], stage.inputs[least][1]
        if (
            high > height
            or high < min(height, LEAST_ROWS)
            or stage.made[1] % high
            or any(whole[name][1] * high != height * stage.inputs[name][1] for name in stage.pictures)
        ):
            _refuse(stage, f"its bands do not fit pictures of {height} rows")
        if stage.output in whole:
            _refuse(stage, f"{stage.output[:60]} was made by an earlier stage")
        whole[stage.output] = (1, height * stage.made[1] // high, *stage.made[2:])
    return whole


def _refuse(stage: Stage, what: str) -> NoReturn:
    raise BundleError(f"{what}.", where=where(stage.component, stage.sizes), fix="convert the checkpoint again")


def where(component: str, sizes: Mapping[str, int]) -> str:
    """A decoder's plan in an error."""
    return f"{component} " + " ".join(f"{name}={size}" for name, size in sizes.items())
