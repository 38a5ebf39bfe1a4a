"""What a plan is given: arrays, and values that stay on the device from one run to another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ondevice.errors import UsageError
from ondevice.lower.program import DTYPES
from ondevice.plan.plan import Plan
from ondevice.run.check import NUMPY


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class DeviceValue:
    """A tensor that stays on the device from the run that made it to its last use:
    its buffer, dtype ("f16", "f32", ...) and shape."""

    buffer: Any
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return math.prod(self.shape) * DTYPES[self.dtype]


Input = np.ndarray | DeviceValue | Sequence[DeviceValue]


def given_to(plan: Plan, given: Mapping[str, Input]) -> dict[int, np.ndarray | Sequence[DeviceValue]]:
    """Arrays, checked and made contiguous, and values on the device by operand index."""
    wanted = {plan.operands[index].name: index for index in plan.inputs}
    for wrong, what in ((wanted.keys() - given.keys(), "is missing"), (given.keys() - wanted.keys(), "is unknown")):
        if wrong:
            raise UsageError(
                f"input {min(wrong)} {what} (got {sorted(given)}, expected {sorted(wanted)}).", where=plan.component
            )
    ready: dict[int, np.ndarray | Sequence[DeviceValue]] = {}
    for name, index in wanted.items():
        operand, value = plan.operands[index], given[name]
        values = [value] if isinstance(value, DeviceValue) else value
        if isinstance(values, Sequence) and values and all(isinstance(one, DeviceValue) for one in values):
            alike = all((one.dtype, one.shape[1:]) == (operand.dtype, operand.shape[1:]) for one in values)
            if not alike or sum(one.nbytes for one in values) != operand.nbytes:
                got = ("it is " if len(values) == 1 else "its parts are ") + ", ".join(
                    f"{one.dtype}{list(one.shape)}" for one in values
                )
                raise UsageError(
                    f"{got} (expected {operand.dtype}{list(operand.shape)}).", where=f"{plan.component}: input {name}"
                )
            ready[index] = values
            continue
        array = np.asarray(value)
        if array.shape != operand.shape or array.dtype != NUMPY[operand.dtype]:
            expected = f"{NUMPY[operand.dtype]}{list(operand.shape)}"
            raise UsageError(
                f"it is {array.dtype}{list(array.shape)} (expected {expected}).",
                where=f"{plan.component}: input {name}",
            )
        ready[index] = np.ascontiguousarray(array).reshape(operand.shape)
    return ready
