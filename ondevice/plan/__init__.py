"""Program -> plan: execution order, results in place, arena offsets, weight keys, numbered operands and kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ondevice.lower.program import Program
from ondevice.plan.arena import Life, arena_size, check, peak, place, round_up
from ondevice.plan.inplace import in_place
from ondevice.plan.liveness import lives
from ondevice.plan.order import ordered
from ondevice.plan.plan import Dispatch, Kernel, Operand, Plan, image_of


def weight_key(component: str, tensor: str) -> str:
    """Name of a weight in the bundle's table. Plans of one component at several sizes share it."""
    return f"{component}/{tensor}"


@dataclass(frozen=True, slots=True)
class Placed:
    """A program in the order in which its calls run, with the lives of its tensors and their offsets in the arena."""

    program: Program
    lives: Sequence[Life]
    offsets: Mapping[str, int]

    @property
    def arena(self) -> int:
        """Bytes."""
        return arena_size(self.lives, self.offsets)

    def idle(self, size: int) -> dict[str, int]:
        """Bytes that the scratch of each node may take in an arena of `size` bytes: what the rest leaves of it while
        the node's calls run. Of nodes that have scratch."""
        taken = np.zeros(len(self.program.calls) + 2, np.int64)
        steps: dict[str, list[int]] = {}
        own: dict[str, set[str]] = {}
        for step, call in enumerate(self.program.calls):
            steps.setdefault(call.node, []).append(step)
            scratch = self.program.scratch.intersection((*call.inputs, *call.outputs))
            own.setdefault(call.node, set()).update(scratch)
        for life in self.lives:
            taken[life.first : life.last + 1] += round_up(life.size)
        by_name = {life.name: life for life in self.lives}
        found = {}
        for node, names in own.items():
            if names:
                first, last = min(steps[node]), max(steps[node])
                rest = taken[first : last + 1].copy()
                for life in (by_name[name] for name in names):
                    rest[max(life.first - first, 0) : life.last + 1 - first] -= round_up(life.size)
                found[node] = max(size - int(rest.max()), 0)
        return found


def placed(program: Program) -> Placed:
    """The smallest arena: reordered or not, in place or not. In place usually needs less; but tensors that live for
    long may fit badly."""
    moved = ordered(program)
    best: Placed | None = None
    for candidate in (in_place(moved), in_place(program), moved, program):
        alive = lives(candidate)
        if best is None or peak(alive) < best.arena:
            tried = Placed(candidate, alive, place(alive))
            if best is None or tried.arena < best.arena:
                best = tried
    assert best is not None
    return best


def plan(program: Program, *, storage: str) -> Plan:
    """Give every tensor a place (`placed`) and number everything a player needs.

    Raises:
        PlanError: the program reads what nothing wrote, or (our bug) the placement is unsafe.
    """
    return numbered(placed(program), storage)


def numbered(where: Placed, storage: str) -> Plan:
    """The plan of a program whose tensors have their places. Raises PlanError as `plan` does."""
    program, offsets = where.program, where.offsets
    check(where.lives, offsets)
    operands: list[Operand] = []
    kernels: dict[Kernel, int] = {}
    index: dict[str, int] = {}
    for name, tensor in program.tensors.items():
        if name in offsets or name in program.weights:
            index[name] = len(operands)
            key = weight_key(program.component, name) if name in program.weights else None
            operands.append(Operand(name, tensor.dtype, tensor.shape, tensor.nbytes, offsets.get(name), key))
    dispatches: list[Dispatch] = []
    images: dict[tuple[int, int, int], int] = {}
    for call in program.calls:
        kernel = kernels.setdefault(Kernel(call.kernel, call.defines), len(kernels))
        numbers = [index[name] for name in (*call.inputs, *call.outputs)]
        for position, width, height in call.images:
            image = numbers[position], width, height
            if image not in images:
                images[image] = len(operands)
                operands.append(image_of(numbers[position], operands[numbers[position]], width, height))
            numbers[position] = images[image]
        dispatches.append(
            Dispatch(
                kernel=kernel,
                operands=tuple(numbers),
                outputs=len(call.outputs),
                scalars=call.scalars,
                grid=call.grid,
                group=call.group,
                node=call.node,
                op=call.op,
                flops=call.flops,
                reads=call.reads,
                writes=call.writes,
            )
        )
    return Plan(
        component=program.component,
        sizes=program.sizes,
        dtype=storage,
        arena=where.arena,
        operands=tuple(operands),
        inputs=tuple(index[name] for name in program.inputs),
        outputs=tuple(index[name] for name in program.outputs),
        kernels=tuple(kernels),
        dispatches=tuple(dispatches),
        needs=tuple(sorted(program.needs)),
    )
