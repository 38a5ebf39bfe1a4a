"""Runs the roles of one picture: with which plans, what their ports are fed with and what their outputs become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ondevice.bundle.pipeline import PipelineSpec, Role
from ondevice.diffusion.values import Runner, Values
from ondevice.errors import NumericError


@dataclass(frozen=True, slots=True)
class Roles:
    """What running a role of one picture takes.

    Attributes:
        plans: sizes of each component's plans.
        place: height and width of the picture in latent units.
    """

    spec: PipelineSpec
    session: Runner
    plans: Mapping[str, Sequence[Mapping[str, int]]]
    values: Values
    place: Mapping[str, int]

    def run(self, role: Role, text: str | None = None) -> None:
        """Run a role outside the loop, and keep what it makes. Raises NumericError where that is not finite."""
        feeds = self.values.feeds(role, text)
        outputs = self.session.run_on(role.component, feeds, **self.sizes(role.component, 1))
        for port, name in role.keep.items():
            check_finite(self.session.read(outputs[port]), f"{role.component}'s {port}")
            self.values.keep(name, outputs[port], text)

    def run_for_texts(self, role: Role, texts: Sequence[str]) -> None:
        """Run a role for each text; what it would make of a text that was not given may be zeros."""
        absent = [text for text in texts if self.values.stands_for_zeros(role, text)]
        given = [text for text in texts if text not in absent]
        for text in given:
            self.run(role, text)
        for name in role.keep.values():
            for text in absent:
                self.values.keep(name, self.zeros_like(self.values.get(name, given[0])), text)

    def sizes(self, component: str, batch: int) -> dict[str, int]:
        """The sizes of the plan to run."""
        names = self.plans[component][0] if component in self.plans else self.place
        return {name: size for name, size in {"batch": batch, **self.place}.items() if name in names}

    def has_plan(self, component: str, batch: int) -> bool:
        """Whether a component can run this many passes at once."""
        return self.sizes(component, batch) in self.plans.get(component, ())

    def zeros_like(self, value: Any) -> Any:
        """Zeros like a value, and where it is."""
        return (
            np.zeros_like(value)
            if isinstance(value, np.ndarray)
            else self.session.put(np.zeros_like(self.session.read(value)))
        )


def check_finite(values: np.ndarray, where: str) -> None:
    """Raises NumericError where a value is NaN or infinite."""
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise NumericError(
            f"{bad} of {values.size} values are NaN or infinite",
            where=where,
            fix="find the op with --check, or convert with --dtype fp32",
        )
