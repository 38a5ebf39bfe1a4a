"""The distinct launches of a bundle's plans: each program with each shape of its operands, once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ondevice.plan.inplace import DEFINE as INPLACE
from ondevice.plan.plan import Dispatch, Kernel, Operand, Plan, home


@dataclass(slots=True)
class Launch:
    """A dispatch that stands for `alike` of them. `compared` are those of its operands, by place, that are written and
    that something reads: what nobody reads is a kernel's own scratch, and may hold anything."""

    plan: Plan
    file: str  # of the plan
    number: int  # of the dispatch
    compared: tuple[int, ...]
    alike: int = 1

    @property
    def dispatch(self) -> Dispatch:
        return self.plan.dispatches[self.number]

    @property
    def kernel(self) -> Kernel:
        return self.plan.kernels[self.dispatch.kernel]

    @property
    def operands(self) -> list[Operand]:
        """In the order of its arguments."""
        return [self.plan.operands[index] for index in self.dispatch.operands]

    @property
    def inputs(self) -> int:
        """How many of its operands are read; the others are written."""
        return len(self.dispatch.operands) - self.dispatch.outputs

    @property
    def in_place(self) -> bool:
        """Whether it reads what it overwrites."""
        return bool(dict(self.kernel.defines).get(INPLACE))

    @property
    def terms(self) -> int:
        """How many numbers an element of the result is a sum of, at most, by its FLOPs."""
        made = sum(_elements(self.operands[place]) for place in range(self.inputs, len(self.operands)))
        return max(1, self.dispatch.flops // max(1, made))

    @property
    def where(self) -> str:
        """The plan, the dispatch's number, node and op, and the program's kernel."""
        sizes = " ".join(f"{name}={value}" for name, value in self.plan.sizes.items())
        call = self.dispatch
        return f"{self.plan.component} {sizes}, dispatch {self.number}: {call.node} ({call.op}, {self.kernel.file}.cl)"


def launches(plans: Iterable[tuple[str, Plan]]) -> list[Launch]:
    """Those of the plans, each with its file, in the order in which they first come."""
    found: dict[Any, Launch] = {}
    for file, plan in plans:
        read = set(plan.outputs)
        for call in plan.dispatches:
            read |= {home(plan.operands, index) for index in call.operands[: len(call.operands) - call.outputs]}
        for number, call in enumerate(plan.dispatches):
            first = len(call.operands) - call.outputs
            places = tuple(place for place in range(first, len(call.operands)) if call.operands[place] in read)
            launch = Launch(plan, file, number, places)
            twin = found.setdefault(_key(launch), launch)
            if twin is not launch:
                twin.alike += 1
    return list(found.values())


def _key(launch: Launch) -> Any:
    """What two launches that compute alike have in common: all but the values of weights."""
    call, plan = launch.dispatch, launch.plan
    places = {index: place for place, index in reversed(list(enumerate(call.operands)))}  # of one that is given twice
    operands = tuple(
        (
            one.dtype,
            one.shape,
            one.weight is not None,
            places[index],
            None if one.view is None else plan.operands[one.view].shape,
        )
        for one, index in zip(launch.operands, call.operands, strict=True)
    )
    return launch.kernel, operands, call.outputs, call.scalars, call.grid, call.group, launch.compared


def _elements(operand: Operand) -> int:
    count = 1
    for size in operand.shape:
        count *= size
    return count
